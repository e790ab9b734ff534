"""Read the bytes of a file, and decode them."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zipfile
import zlib
from pathlib import Path

from langchain_sift.errors import CorpusError

# The marks of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# In the first bytes: <meta charset="..."> and content="text/html; charset=..." of HTML, the
# declaration of XML, and the comment of Python's source code.
_DECLARATIONS = (
    re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE),
    re.compile(rb"\A<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.-]+)"),
    re.compile(rb"\A(?:#[^\n]*\n)?[ \t\f]*#[^\n]{0,200}?coding[:=][ \t]*([A-Za-z0-9_.-]+)"),
)
_HEAD = 4096
_MOST_UNPACKED = 2**28
_MOST_PACKED = 100  # times that documents of that size become smaller
# As browsers read them: the encodings of Windows, which have more characters.
_ALIASES = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "windows-1252"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "windows-1254"),
    **dict.fromkeys(("iso-8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    "big5": "big5hkscs",
}


def read_bytes(file: Path) -> bytes:
    """Return the content of a file; unpack it if its name ends with `.gz`.

    Raises:
        CorpusError: If the file cannot be read, or unpacks to what would fill the memory.
    """
    try:
        content = file.read_bytes()
        if file.suffix.lower() != ".gz":
            return content
        limit = _most_unpacked(content)
        with gzip.open(io.BytesIO(content)) as packed:
            unpacked = packed.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{file}: cannot be read: {error}") from error
    if len(unpacked) > limit:
        raise CorpusError(
            f"{file}: {len(content)} bytes that unpack to more than {limit}: if you trust the "
            "file, unpack it"
        )
    return unpacked


def _most_unpacked(content: bytes) -> int:
    return max(_MOST_UNPACKED, _MOST_PACKED * len(content))


def read_archive(file: Path) -> bytes:
    """Return the content of a document that may be a zip archive, as those of office programs are.

    Raises:
        CorpusError: If the file cannot be read, or is an archive that would fill the memory.
    """
    content = read_bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return content  # whoever unpacks it reports why not
    if unpacked > _most_unpacked(content):
        raise CorpusError(
            f"{file}: an archive of {len(content)} bytes that unpacks to {unpacked}: save it again"
        )
    return content


def read_text(file: Path, encoding: str | None = None) -> str:
    """Return the text of a file, without its byte order mark.

    Args:
        file: The file, in the encoding of its mark, else in UTF-8.
        encoding: Encoding of a file that is neither. None means that it is an error.

    Raises:
        CorpusError: If the file cannot be read or decoded; the message names file and line.
    """
    return decode(file, read_bytes(file), encoding)


def declared_encoding(content: bytes) -> str | None:
    """Return the encoding that HTML, XML or source code declares; None if it declares none."""
    for form in _DECLARATIONS:
        if match := form.search(content[:_HEAD]):
            name = match[1].decode("ascii").lower()
            # A text that declares UTF-16 in bytes that can be read so far is none.
            return None if name.startswith("utf-16") else name
    return None


def decode(file: Path, content: bytes, encoding: str | None, declared: str | None = None) -> str:
    """Return the text of the content of a file; see `read_text`.

    Args:
        file: The file, for messages.
        content: Its content.
        encoding: As in `read_text`.
        declared: The encoding that the content declares, which comes before UTF-8.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _decode(file, content.removeprefix(mark), name)
    for name in () if declared is None else (_ALIASES.get(declared, declared), declared):
        try:
            return content.decode(name)
        except (UnicodeError, LookupError):
            pass  # many pages declare what they are not
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _decode(file, content, encoding or "utf-8")


def read_lines(file: Path) -> list[str]:
    """Return the lines of a file without its byte order mark; unpack it if it ends with `.gz`.

    Raises:
        CorpusError: If the file cannot be read or decoded.
    """
    return read_text(file).split("\n")


def _decode(file: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, place = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise CorpusError(
            f"{file}, line {line}: not {encoding.upper()} at byte {place} of the line: save the "
            "file as UTF-8 (`index` also takes its encoding, such as --encoding windows-1252)"
        ) from error
