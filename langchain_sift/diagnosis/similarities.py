"""Measure the similarities of a store's texts: of random pairs, and of nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langchain_sift.errors import EmbeddingError
from langchain_sift.selection.arguments import Array, normalize_rows
from langchain_sift.stores.batches import together
from langchain_sift.stores.candidates import Candidates, nearest_candidates
from langchain_sift.stores.interface import Search
from langchain_sift.stores.sampling import SampledRow
from langchain_sift.stores.unit_vectors import unit_queries

NEIGHBOURS = 10
_SEARCHES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of numbers; NaN if there are none."""

    percent_5: float
    median: float
    percent_95: float

    @classmethod
    def of(cls, values: Array) -> Distribution:
        """Compute the quantiles of values, shape (n,)."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            return cls(np.nan, np.nan, np.nan)
        low, median, high = np.percentile(finite, [5, 50, 95]).tolist()
        return cls(low, median, high)


@dataclass(frozen=True, slots=True)
class Similarities:
    """Cosines of sampled texts, with each other and with their neighbours in the store."""

    texts: int
    """Number of sampled texts."""

    random_pairs: Distribution
    """Cosines of pairs of sampled texts: the similarity of unrelated texts."""

    nearest: Distribution
    """Cosines of the sampled texts with the nearest other text."""

    tenth: Distribution
    """Cosines with the tenth nearest other text."""

    near_duplicates: float
    """Fraction of the sampled texts whose nearest other text is a near duplicate."""

    near_duplicates_among_ten: float
    """Mean number of near duplicates among a text's ten nearest others."""

    near_duplicate_similarity: float
    """Cosine from which on a text counts as a near duplicate."""


def measure_similarities(
    sample: Sequence[SampledRow], near_duplicate_similarity: float
) -> Search[Similarities]:
    """Search the store for the neighbours of sampled texts.

    Copies of a text are one text. The neighbours come from the store's own search, which may be
    approximate. A text near a vector that is zero or NaN has no known neighbours.

    Args:
        sample: At least one row, with a vector that is neither zero nor NaN.
        near_duplicate_similarity: Cosine from which on a text counts as a near duplicate.
    """
    vectors = np.array([row.vector for row in sample])
    cosines = np.full((len(sample), NEIGHBOURS), np.nan)
    is_known = np.ones(len(sample), dtype=bool)
    for start in range(0, len(sample), _SEARCHES_AT_ONCE):
        part = vectors[start : start + _SEARCHES_AT_ONCE]
        searches = [
            nearest_candidates(vector[None], unit_queries(vector[None]), fetch_k=NEIGHBOURS + 1)
            for vector in part
        ]
        for index, found in enumerate((yield from together(searches)), start=start):
            if isinstance(found, EmbeddingError):
                is_known[index] = False
                continue
            if isinstance(found, Exception):
                raise found
            values = _others(sample[index], found)
            cosines[index, : len(values)] = values
    units = normalize_rows(np, vectors)
    duplicates = (cosines[is_known] >= near_duplicate_similarity).sum(axis=1)
    return Similarities(
        texts=len(sample),
        random_pairs=Distribution.of((units @ units.T)[np.triu_indices(len(units), k=1)]),
        nearest=Distribution.of(cosines[:, 0]),
        tenth=Distribution.of(cosines[:, -1]),
        near_duplicates=float((duplicates > 0).mean()) if is_known.any() else np.nan,
        near_duplicates_among_ten=float(duplicates.mean()) if is_known.any() else np.nan,
        near_duplicate_similarity=near_duplicate_similarity,
    )


def _others(row: SampledRow, found: Candidates) -> Array:
    """Return the cosines of a row with the candidates of other texts, the highest first."""
    query = row.vector / np.linalg.norm(row.vector)
    is_other = [document.page_content != row.document.page_content for document in found.documents]
    cosines: Array = np.sort(found.embeddings[is_other] @ query)[::-1][:NEIGHBOURS]
    return cosines
