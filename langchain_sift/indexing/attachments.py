"""Read the files within files, such as the attachments of a mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import Reader, Reading, Record, reader_of
from langchain_sift.indexing.formats.records import Attachment

_MOST_LEVELS = 5
_LONGEST_ENDING = 40


def with_attachments(
    name: str,
    record: Record,
    reading: Reading,
    readers: Mapping[str, Reader],
    level: int = 0,
) -> Iterator[tuple[str, Record]]:
    """Yield a record and those of its attachments, each with the name of its file.

    An attachment of NAME is called NAME/ATTACHMENT. The fields of its records name both, unless it
    has fields of these names. One without a reader, or within five others, is in a note, and one
    that cannot be read is a problem.

    Args:
        name: The name of the file.
        record: The record.
        reading: The settings of reading.
        readers: The readers of formats, by the ending of a file's name.
        level: Number of files that the file is within.
    """
    yield name, record
    seen: Counter[str] = Counter()
    skipped = []
    for one in record.attachments:
        seen[one.name] += 1
        title = one.name if seen[one.name] == 1 else f"{one.name} ({seen[one.name]})"
        reader = reader_of(Path(one.name), readers)
        if reader is None or level == _MOST_LEVELS:
            skipped.append(title)
            continue
        inner = f"{name}/{title}"
        try:
            found = _read(inner, one, reader, reading)
        except CorpusError as error:
            found = [Record("", problem=str(error))]
        for read in found:
            fields = {"mail": name, "attachment": title, **read.fields}
            named = replace(read, fields=fields, has_lines_of_file=False)
            yield from with_attachments(inner, named, reading, readers, level + 1)
    if skipped:
        yield name, Record("", note=f"{name}: attachments that are not read: {', '.join(skipped)}")


def _read(name: str, attachment: Attachment, reader: Reader, reading: Reading) -> list[Record]:
    """Return the records of an attachment, from a file in a folder for them.

    Raises:
        CorpusError: If it cannot be read.
    """
    with TemporaryDirectory() as folder:
        # The ending alone tells its reader, and the rest may be no name of a file here.
        ending = "".join(PurePath(attachment.name.replace("\0", "")).suffixes[-2:])
        file = Path(folder) / f"attached{ending[-_LONGEST_ENDING:]}"
        try:
            file.write_bytes(attachment.content)
            found = list(reader(file, reading))
            return [replace(one, note=one.note.replace(str(file), name)) for one in found]
        except CorpusError as error:
            raise CorpusError(str(error).replace(str(file), name)) from error
        except Exception as error:  # a missing package, and what no reader expects
            reason = str(error).replace(str(file), name)
            raise CorpusError(
                f"{name}: cannot be read ({type(error).__name__}: {reason})"
            ) from error
