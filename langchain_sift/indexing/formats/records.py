"""Define the texts that files are read as, and the settings of reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from langchain_sift.errors import ArgumentError

TEXT_KEYS = ("text", "page_content", "content")
"""Default names of the text in an object or a row; the first that is there holds it."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of a text."""

    line: int
    """Number of its line, from 0."""

    level: int
    """From 1, the highest."""

    title: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file within a file."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A text of a file, with its position and its other fields."""

    text: str

    fields: Mapping[str, object] = field(default_factory=dict)
    """The other fields of a JSON object or a CSV row, as the file has them."""

    unit: str = ""
    """Kind of the part that holds the text: "line", "row", "item", "page" or "slide". Empty means
    the file."""

    number: int | None = None
    """Number of that part, from 1. None means the whole file."""

    headings: tuple[Heading, ...] = ()
    """The headings that divide the text, in their order."""

    has_lines_of_file: bool = False
    """True if the lines of the text are those of the file."""

    attachments: tuple[Attachment, ...] = ()
    """Files within the file."""

    note: str = ""
    """Message about the file, for its owner."""

    problem: str = ""
    """Reason that a part of the file cannot be read, such as an attachment."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a text: a file, and a line, row, page or slide in it."""

    file: str
    """Name of the file, within the folder that was named."""

    unit: str = ""
    number: int | None = None

    @property
    def id(self) -> str:
        """The default id of the text."""
        return self.file if self.number is None else f"{self.file}:{self.number}"

    def __str__(self) -> str:
        """Return the location for a message."""
        return self.file if self.number is None else f"{self.file}, {self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings of reading, for files that do not tell."""

    encoding: str | None = None
    """Encoding of text files that are not UTF-8 and name no other, such as "windows-1252". None
    means that they cannot be read."""

    password: str | None = field(default=None, repr=False)
    """Password of encrypted PDFs. Those with an empty one need none."""

    text_keys: tuple[str, ...] = ()
    """Names of the columns of a CSV file and keys of a JSON object whose texts, one after the
    other, are the text. Empty means the first of `TEXT_KEYS` that is there."""

    def __post_init__(self) -> None:
        """Check the encoding.

        Raises:
            ArgumentError: If Python has no encoding of this name.
        """
        try:
            if self.encoding is not None:
                "".encode(self.encoding)
        except (LookupError, ValueError) as error:
            raise ArgumentError(
                f"there is no encoding {self.encoding!r}: name one of Python's, such as "
                "windows-1252"
            ) from error


Reader = Callable[[Path, Reading], Iterator[Record]]
