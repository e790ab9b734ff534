"""Sample the rows of a store while it is read page by page."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import ROWS_PER_CALL, Page, Rows


@dataclass(frozen=True, slots=True, eq=False)
class SampledRow:
    """A row of a store."""

    document: Document
    vector: Array
    """Shape (d,), as stored."""


class RowSample:
    """A sample of rows of different texts.

    The sample has the smallest hashes of seed and text. It does not depend on the order of the
    rows, copies make a text no likelier, and at most `count` rows are in memory.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Start empty.

        Args:
            count: Maximum number of rows.
            seed: Seed of the sample.
        """
        self._count = count
        self._seed = seed
        self._smallest: list[tuple[int, str, SampledRow]] = []  # a heap, the largest hash first
        self._texts: set[str] = set()

    def add(self, rows: Rows) -> None:
        """Add a page of rows; those whose vector is zero or not finite are left out."""
        # The sum of squares of a vector with NaN or infinity is not finite either.
        squared = np.vecdot(rows.vectors, rows.vectors) if rows.documents else np.empty(0)
        for row in np.flatnonzero((squared > 0.0) & np.isfinite(squared)).tolist():
            self._add(rows.documents[row], rows.vectors[row])

    def _add(self, document: Document, vector: Array) -> None:
        text = document.page_content
        key = -_hash(self._seed, text)
        is_full = len(self._smallest) == self._count
        if text in self._texts or (is_full and (key, text) < self._smallest[0][:2]):
            return
        entry = (key, text, SampledRow(document, vector.copy()))
        self._texts.add(text)
        if is_full:
            self._texts.discard(heapq.heappushpop(self._smallest, entry)[1])
        else:
            heapq.heappush(self._smallest, entry)

    def rows(self) -> list[SampledRow]:
        """Return the rows in the order of their hashes: any first part is a sample too."""
        ordered = sorted(self._smallest, key=lambda entry: (-entry[0], entry[1]))
        return [row for _, _, row in ordered]


def sampled_rows(count: int, seed: int) -> Generator[Page, tuple[Rows, Any], list[SampledRow]]:
    """Read all rows of a store and sample them; see `RowSample`.

    Yields:
        The page to read; send its rows and the cursor of the next page.
    """
    sample = RowSample(count, seed)
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, ROWS_PER_CALL)
        sample.add(rows)
        if cursor is None:
            return sample.rows()


def _hash(seed: int, text: str) -> int:
    data = f"{seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
