"""Read the bytes of a file, and decode them."""

from __future__ import annotations

import codecs
import gzip
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


def read_bytes(file: Path) -> bytes:
    """Return the content of a file; unpack it if its name ends with `.gz`.

    Raises:
        CorpusError: If the file cannot be read.
    """
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{file}: cannot be read: {error}") from error


def read_text(file: Path, encoding: str | None = None, declared: str | None = None) -> str:
    """Return the text of a file, without its byte order mark.

    Args:
        file: The file, in the encoding of its mark, else in `declared` if the file declares one,
            else in UTF-8.
        encoding: Encoding of a file that is none of these. None means that it is an error.
        declared: The encoding that the file itself declares.

    Raises:
        CorpusError: If the file cannot be read or decoded; the message names file and line.
    """
    return decode(file, read_bytes(file), encoding, declared)


def decode(file: Path, content: bytes, encoding: str | None, declared: str | None) -> str:
    """Return the text of the content of a file; see `read_text`."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _decode(file, content.removeprefix(mark), name)
    if declared is not None:
        try:
            return content.decode(declared)
        except (UnicodeDecodeError, LookupError):
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
            "file as UTF-8, or name its encoding, such as --encoding windows-1252"
        ) from error
    except LookupError as error:
        raise CorpusError(f"{file}: there is no encoding {encoding!r}") from error
