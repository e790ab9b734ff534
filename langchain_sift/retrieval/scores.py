"""Report the scores of a choice, as values and in the metadata of the documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_sift.selection import Selection
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.posterior import irreducible_variance
from langchain_sift.selection.settings import Kernel
from langchain_sift.stores.candidates import Candidates


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A chosen document with its scores, which are Python numbers."""

    document: Document
    """A copy of the stored document."""

    id: str | None
    """The document's id."""

    similarity: float
    """Cosine with the query; the mean over several query vectors."""

    gain: float
    """The reduction of the query's posterior variance by this choice."""

    posterior_variance: float
    """Posterior variance of the query after this choice, summed over the query vectors."""

    count: int
    """Number of times the document was chosen in all; more than 1 only with `replace`."""

    copies: int
    """Number of fetched rows with the document's text, or nearly its text with
    `near_duplicate_similarity`."""

    chunk: Document | None = None
    """The chunk that was chosen, if the document is its parent. None without a docstore."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The documents chosen for a query, in the order of choice, and the remaining variance."""

    choices: tuple[ScoredDocument, ...]
    """The choices, in order."""

    prior_variance: float
    """Variance of the query before the first choice, summed over the query vectors."""

    posterior_std: float
    """Posterior standard deviation of the query after the last choice, σ_n: the root of the
    mean posterior variance over the query vectors."""

    irreducible_variance: float
    """Variance that would remain if all candidates were known without noise, summed over the
    query vectors. No choice among them goes below it."""

    candidates: int
    """Number of candidates, of different texts, or of different parents."""

    missing_parents: tuple[str, ...] = ()
    """Ids of parents that the docstore lacks; their chunks are the documents."""

    @property
    def documents(self) -> list[Document]:
        """The documents, in the order of choice."""
        return [choice.document for choice in self.choices]


def score(
    queries: Array, candidates: Candidates, selection: Selection, kernel: Kernel
) -> Retrieval:
    """Score the chosen documents.

    Args:
        queries: The vectors of the query, of unit norm, shape (m, d).
        candidates: The candidates.
        selection: Indices among the candidates, in the order of choice.
        kernel: The kernel of the selection.
    """
    indices = selection.indices.tolist()
    counts = Counter(indices)
    similarities = np.vecdot(candidates.embeddings[indices], np.mean(queries, axis=0))
    choices = tuple(
        ScoredDocument(
            document=document,
            id=document.id,
            similarity=similarity,
            gain=gain,
            posterior_variance=variance,
            count=counts[index],
            copies=candidates.copies[index],
            chunk=candidates.chunks[index] if candidates.chunks else None,
        )
        for index, document, similarity, gain, variance in zip(
            indices,
            candidates.copy_documents(indices),
            similarities.tolist(),
            selection.gains.tolist(),
            selection.posterior_variances.tolist(),
            strict=True,
        )
    )
    last = choices[-1].posterior_variance if choices else selection.prior_variance
    return Retrieval(
        choices=choices,
        prior_variance=selection.prior_variance,
        posterior_std=math.sqrt(last / len(queries)),
        irreducible_variance=irreducible_variance(queries, candidates.embeddings, kernel),
        candidates=len(candidates.documents),
    )


def write_gains(
    documents: Sequence[Document], selection: Selection, gain_key: str, *, unrelated_gain: float
) -> None:
    """Write the gain of each chosen document into its metadata.

    Args:
        documents: The documents, in the order of choice.
        selection: The choice.
        gain_key: Key of the gains.
        unrelated_gain: `SelectionSettings.unrelated_gain` of the choice.
    """
    for document, gain in zip(documents, selection.gains.tolist(), strict=True):
        document.metadata = ScoredMetadata(
            document.metadata,
            gain_key,
            gain,
            whole=selection.prior_variance,
            unrelated_gain=unrelated_gain,
        )


class ScoredMetadata(dict[str, Any]):
    """Metadata with a score, which comparisons ignore.

    The score belongs to the query. If it was compared, a document retrieved for two queries
    would count as two documents, and `MultiQueryRetriever`, which removes repeats, would keep
    both.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        score_key: str,
        score: float,
        *,
        whole: float = 1.0,
        unrelated_gain: float | None = None,
    ) -> None:
        """Add the score to the metadata, and to the scores that they have already.

        Args:
            metadata: The metadata.
            score_key: Key of the score.
            score: The score.
            whole: What the score is a part of: for a gain, the variance of the query before the
                first choice.
            unrelated_gain: `SelectionSettings.unrelated_gain` of the choice. None means unknown.
        """
        super().__init__({**metadata, score_key: score})
        self._score_key = score_key
        self._score_keys = {score_key, *_score_keys(metadata)}
        self._whole = whole
        self.unrelated_gain = unrelated_gain

    @property
    def score(self) -> float | None:
        """The score that was added last. None if a caller removed it."""
        return self.get(self._score_key)

    @property
    def share(self) -> float | None:
        """The score as a share of the whole. None if a caller removed it."""
        return None if self.score is None else self.score / self._whole

    def __eq__(self, other: object) -> bool:
        """Compare without the scores of either side."""
        if not isinstance(other, Mapping):
            return NotImplemented
        scores = self._score_keys.union(_score_keys(other))
        mine, theirs = (
            {key: value for key, value in metadata.items() if key not in scores}
            for metadata in (self, other)
        )
        return mine == theirs

    def __ne__(self, other: object) -> bool:
        """Negate `__eq__`; the inherited method of `dict` would compare the scores."""
        return not self == other

    __hash__ = None


def _score_keys(metadata: Mapping[str, Any]) -> set[str]:
    return metadata._score_keys if isinstance(metadata, ScoredMetadata) else set()


def too_little_to_gain(documents: Sequence[Document], min_gain: float) -> str | None:
    """Return the reason to skip training if the documents' summed gain is below `min_gain`.

    Args:
        documents: Documents of a prompt. A gain is known if SIFT chose the document and its
            metadata have the gain.
        min_gain: Smallest sum of gains that is worth a training, from 0 to 1.

    Returns:
        The reason; None if the gain suffices, or a document's gain is unknown.
    """
    gains = [_share_of(document) for document in documents]
    gain = sum(gain for gain in gains if gain is not None)
    if None not in gains and gain < min_gain:
        return f"the documents' gain, {gain:.3g}, is below {min_gain}"
    return None


def uncertainty_given(documents: Sequence[Document]) -> float | None:
    """Return the posterior standard deviation of a prompt given its documents, from 0 to 1.

    Each gain, as a share of the prior variance, is what a document explains. With several vectors
    of a prompt the deviation is that of their mean variance, as `Retrieval.posterior_std`.

    Args:
        documents: Documents that SIFT chose, with their gains in the metadata.

    Returns:
        None if there is no document, or a gain is unknown.
    """
    gains = [_share_of(document) for document in documents]
    known = [gain for gain in gains if gain is not None]
    if not known or len(known) < len(gains):
        return None
    return math.sqrt(max(0.0, 1.0 - sum(known)))


def gain_of(document: Document) -> float | None:
    """Return a document's gain; None if it is unknown.

    The type of the metadata decides: a store may hold any value under any key.
    """
    metadata = document.metadata
    return metadata.score if isinstance(metadata, ScoredMetadata) else None


def _share_of(document: Document) -> float | None:
    """Return a document's gain as a share of the prior variance; None if it is unknown."""
    metadata = document.metadata
    return metadata.share if isinstance(metadata, ScoredMetadata) else None


def unrelated_gain_of(documents: Sequence[Document]) -> float | None:
    """Return `SelectionSettings.unrelated_gain` of the choice; None if unknown or not the same."""
    found = {getattr(document.metadata, "unrelated_gain", None) for document in documents}
    return found.pop() if len(found) == 1 else None
