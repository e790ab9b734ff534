"""Score choices of documents for queries whose relevant documents are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from langchain_sift.comparison.judgments import Label
from langchain_sift.retrieval.defaults import KernelSettings
from langchain_sift.selection import nearest_neighbors
from langchain_sift.selection.arguments import Array, as_matrices
from langchain_sift.selection.opposites import choose_for_retrieval
from langchain_sift.selection.settings import SelectionSettings


@dataclass(frozen=True, slots=True, eq=False)
class TrialQuery:
    """A query with its candidates, and the label that scores a choice among them."""

    source: str
    """Source of the query; queries of one source count as one observation in intervals."""

    query: Array
    """Unit vector, shape (d,)."""

    names: tuple[str, ...]
    """Names of the candidates in the label."""

    texts: tuple[str, ...]
    embeddings: Array
    """Unit vectors of the n candidates, shape (n, d), nearest first."""

    label: Label
    metric: str
    """The metric of the label that counts."""

    def scores(self, kernel: KernelSettings | None, counts: Sequence[int]) -> Array:
        """Score a choice after each of some numbers of documents, shape (counts,).

        All are scored against the best that the largest number allows, so that fewer documents
        never score higher.

        Args:
            kernel: The settings of SIFT. None means nearest neighbours.
            counts: Numbers of documents, ascending.
        """
        k = counts[-1]
        if kernel is None:
            selection = nearest_neighbors(self.query, self.embeddings, k=k)
        else:
            settings = SelectionSettings(k=k, **asdict(kernel))
            selection = choose_for_retrieval(as_matrices(self.query, self.embeddings), settings)
        rows = selection.indices.tolist()
        names, texts = [self.names[row] for row in rows], [self.texts[row] for row in rows]
        return np.array([self.label.scores(names[:n], texts[:n], k)[self.metric] for n in counts])
