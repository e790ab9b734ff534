"""Count the rows of a store while it is read page by page."""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass

import numpy as np

from langchain_sift.stores.interface import Rows

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Numbers of rows, and the lengths of their vectors."""

    rows: int
    """Number of rows that were read."""

    complete: bool
    """False if the store has more rows than were read."""

    without_text: int
    """Rows that hold a vector and no text; retrieval leaves them out."""

    blank: int
    """Rows whose text is blank."""

    texts: int
    """Number of different texts."""

    exact_copies: float
    """Fraction of the rows whose text another row before them has."""

    most_copies: int
    """Number of rows with the most frequent text."""

    dimensions: tuple[int, ...]
    """Dimensions of the vectors; one number in a sound store."""

    zero_vectors: int
    non_finite_vectors: int
    """Vectors with NaN or infinity."""

    unit_vectors: float
    """Fraction of the other vectors whose norm is 1, up to 0.001."""

    shortest_norm: float
    longest_norm: float
    """NaN, as the shortest, if every vector is zero or not finite."""


class RowCounter:
    """Counts rows page by page. It keeps 8 bytes for each row, and no text."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seen = 0
        self._blank = 0
        self._hashes = array("Q")
        self._dimensions: set[int] = set()
        self._zero = self._non_finite = self._unit = self._sound = 0
        self._shortest, self._longest = math.inf, -math.inf

    def add(self, rows: Rows) -> None:
        """Count the rows of a page."""
        self.seen += rows.seen
        for document in rows.documents:
            text = document.page_content
            self._blank += not text.strip()
            self._hashes.append(_hash(text))
        if rows.documents:
            self._add_norms(rows)

    def _add_norms(self, rows: Rows) -> None:
        self._dimensions.add(rows.vectors.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(rows.vectors, axis=1)
        is_finite = np.isfinite(norms)
        sound = norms[is_finite & (norms > 0.0)]
        self._non_finite += int((~is_finite).sum())
        self._zero += int((norms == 0.0).sum())
        self._sound += len(sound)
        self._unit += int((np.abs(sound - 1.0) <= _UNIT_TOLERANCE).sum())
        if len(sound):
            self._shortest = min(self._shortest, float(sound.min()))
            self._longest = max(self._longest, float(sound.max()))

    def counts(self, *, complete: bool) -> RowCounts:
        """Return the numbers so far.

        Args:
            complete: True if all rows of the store were read.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        _, copies = np.unique(hashes, return_counts=True)
        return RowCounts(
            rows=self.seen,
            complete=complete,
            without_text=self.seen - len(hashes),
            blank=self._blank,
            texts=len(copies),
            exact_copies=1.0 - len(copies) / len(hashes) if len(hashes) else 0.0,
            most_copies=int(copies.max()) if len(copies) else 0,
            dimensions=tuple(sorted(self._dimensions)),
            zero_vectors=self._zero,
            non_finite_vectors=self._non_finite,
            unit_vectors=self._unit / self._sound if self._sound else math.nan,
            shortest_norm=self._shortest if self._sound else math.nan,
            longest_norm=self._longest if self._sound else math.nan,
        )


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
