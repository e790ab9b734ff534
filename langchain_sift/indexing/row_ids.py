"""Name the rows of a collection by text, file and metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_core.documents import Document

_FORM = re.compile("([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{12})")
_EARLIER = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class RowId:
    """The id of a row: three digests.

    Rows of two files, or with different metadata, are different rows, also if their texts are
    equal. So whatever changes in a file, a row is never changed: it is there, missing, or gone.
    """

    text: str
    """Digest of the text, 32 digits."""

    file: str
    """Digest of the file, 16 digits; see `file_digest`."""

    metadata: str
    """Digest of the metadata, 12 digits."""

    def __str__(self) -> str:
        """Return the id as the collection has it."""
        return f"{self.text}-{self.file}-{self.metadata}"

    @classmethod
    def of(cls, text: str, file: str, metadata: Mapping[str, object]) -> RowId:
        """Return the id of a row.

        Args:
            text: Its text.
            file: The digest of its file.
            metadata: Its metadata, in any order.
        """
        return cls(text_digest(text), file, _metadata_digest(metadata))

    @classmethod
    def parse(cls, id_: str) -> RowId | None:
        """Return the parts of an id; None if it has another form."""
        match = _FORM.fullmatch(id_)
        return None if match is None else cls(*match.groups())


def text_digest(text: str) -> str:
    """Return the digest of a text. It is the whole id in collections of earlier versions."""
    return _digest(text)[:32]


def content_id(text: str, metadata: Mapping[str, object]) -> str:
    """Return an id for a document without one: equal documents have the same."""
    return f"{text_digest(text)}-{_metadata_digest(metadata)}"


def are_equal(one: Document, other: Document) -> bool:
    """Return True for documents with equal texts and metadata; a NaN equals another."""
    if (one.page_content, one.metadata) == (other.page_content, other.metadata):
        return True
    first, second = (content_id(each.page_content, each.metadata) for each in (one, other))
    return first == second


def is_earlier_id(id_: str) -> bool:
    """Return True for an id of an earlier version: the digest of a text."""
    return _EARLIER.fullmatch(id_) is not None


def file_digest(origin: str, path: str) -> str:
    """Return the digest of a file that belongs to an origin, such as a tenant."""
    return _digest(f"{origin}\0{path}")[:16]


def _metadata_digest(metadata: Mapping[str, object]) -> str:
    return _digest(json.dumps(_with_text_keys(metadata), sort_keys=True, default=str))[:12]


def _with_text_keys(value: object) -> object:
    """Return a value of metadata whose keys can be sorted."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [*map(_with_text_keys, value)] if isinstance(value, list | tuple) else value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
