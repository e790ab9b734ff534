"""Name the origin that the rows of a run belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_sift.errors import ArgumentError
from langchain_sift.indexing.metadata import Scalar, storable


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin that the rows of a run belong to, such as a tenant."""

    key: str = ""
    value: Scalar = ""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Origin:
        """Return the origin that KEY=VALUE names; no text means none.

        Raises:
            ArgumentError: If there are two, the text has another form, or Chroma reserves the key.
        """
        if not texts:
            return cls()
        if len(texts) > 1:
            raise ArgumentError(
                f"give one --origin, got {' and '.join(map(repr, texts))}: one value may name "
                "both, such as owner=tenant/project"
            )
        key, equals, value = texts[0].partition("=")
        if not (key and equals and value):
            raise ArgumentError(
                f"the origin must be KEY=VALUE, such as tenant=example, got {texts[0]!r}"
            )
        if storable({key: value}) != {key: value}:
            raise ArgumentError(f"the origin {texts[0]!r} cannot be stored: give another key")
        return cls(key, value)

    @property
    def name(self) -> str:
        """The name of the origin; "" without one."""
        return f"{self.key}={self.value}" if self.key else ""

    @property
    def metadata(self) -> dict[str, Scalar]:
        """The metadata of its rows."""
        return {self.key: self.value} if self.key else {}
