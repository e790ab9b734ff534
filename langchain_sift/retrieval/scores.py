"""Report the scores of a choice, as values and in the metadata of the documents."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import (
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_sift.retrieval.search import Choice
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.posterior import irreducible_variance
from langchain_sift.stores.candidates import normalized


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A choice, and what it was chosen for. All numbers are Python's own."""

    document: Document
    """As the store holds it."""

    id: str | None
    """The document's."""

    similarity: float
    """Cosine with the query; with several query vectors their mean."""

    gain: float
    """By how much it lowered the posterior variance of the query when it was chosen."""

    posterior_variance: float
    """Posterior variance of the query after it, summed over the query vectors."""

    count: int
    """How often it was chosen in all; more than 1 only with `replace`."""

    copies: int
    """How many rows among those fetched have its text."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was chosen for a query, in the order of choice, and what is still unknown."""

    choices: tuple[ScoredDocument, ...]
    """One for each choice."""

    prior_variance: float
    """Variance of the query before the first choice, summed over the query vectors."""

    posterior_std: float
    """Posterior standard deviation of the query after the last choice, σ_n: the root of the
    mean posterior variance over the query vectors."""

    irreducible_variance: float
    """What would remain if all candidates were known without noise, summed over the query
    vectors: no choice among them goes below it."""

    candidates: int
    """How many different texts there were to choose from."""

    @property
    def documents(self) -> list[Document]:
        """The documents, in the order of choice."""
        return [choice.document for choice in self.choices]


def scored(queries: Array, choice: Choice) -> Retrieval:
    """Return the choice with what is known of each document."""
    queries = normalized(queries)
    candidates, selection = choice.candidates, choice.selection
    chosen = selection.indices.tolist()
    counts = Counter(chosen)
    similarities = np.vecdot(candidates.embeddings[chosen], np.mean(queries, axis=0))
    choices = tuple(
        ScoredDocument(
            document=_own(candidates.documents[index]),
            id=candidates.documents[index].id,
            similarity=similarity,
            gain=gain,
            posterior_variance=variance,
            count=counts[index],
            copies=candidates.copies[index],
        )
        for index, similarity, gain, variance in zip(
            chosen,
            similarities.tolist(),
            selection.gains.tolist(),
            selection.posterior_variances.tolist(),
            strict=True,
        )
    )
    remaining = choices[-1].posterior_variance if choices else selection.prior_variance
    return Retrieval(
        choices=choices,
        prior_variance=selection.prior_variance,
        posterior_std=math.sqrt(remaining / len(queries)),
        irreducible_variance=irreducible_variance(queries, candidates.embeddings),
        candidates=len(candidates.documents),
    )


def with_scores(choice: Choice, score_key: str | None) -> list[Document]:
    """Return the documents, with their gains in the metadata if there is a key for them.

    Each is the caller's own: what it does to one, neither another answer of the same batch sees
    nor the store.
    """
    documents = [_own(document) for document in choice.documents]
    if score_key is not None:
        for document, gain in zip(documents, choice.selection.gains.tolist(), strict=True):
            document.metadata = ScoredMetadata(document.metadata, score_key, gain)
    return documents


def _own(document: Document) -> Document:
    """Return a copy, with the lists and dictionaries in its metadata."""
    return document.model_copy(update={"metadata": _copied(document.metadata)})


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        own = copy.copy(value)  # of its own class: scored metadata are to stay so
        own.update({key: _copied(one) for key, one in value.items()})
        return own
    return [_copied(one) for one in value] if isinstance(value, list) else value


class ScoredMetadata(dict[str, Any]):
    """Metadata with a score, which is no part of what the metadata are equal to.

    The score belongs to the query. Were it compared, the same document found by two queries
    would be two, and what removes repeats, such as `MultiQueryRetriever`, would keep both.
    """

    def __init__(self, metadata: Mapping[str, Any], score_key: str, score: float) -> None:
        """Add the score, to those that there are."""
        super().__init__({**metadata, score_key: score})
        self._score_key = score_key
        self._score_keys = {score_key, *_score_keys(metadata)}

    @property
    def score(self) -> float | None:
        """The score, the last one given; None where a caller took it out."""
        return self.get(self._score_key)

    def __eq__(self, other: object) -> bool:
        """Compare without the score, on either side."""
        if not isinstance(other, Mapping):
            return NotImplemented
        scores = self._score_keys.union(_score_keys(other))
        mine, theirs = (
            {key: value for key, value in metadata.items() if key not in scores}
            for metadata in (self, other)
        )
        return mine == theirs

    def __ne__(self, other: object) -> bool:
        """Differ where not equal; `dict` has a comparison of its own."""
        return not self == other

    __hash__ = None


def _score_keys(metadata: Mapping[str, Any]) -> set[str]:
    return metadata._score_keys if isinstance(metadata, ScoredMetadata) else set()


def too_little_to_gain(documents: Sequence[Document], min_gain: float) -> str | None:
    """Return the reason to skip training if the documents' summed gain is below `min_gain`.

    Args:
        documents: Documents of a prompt; a gain is known where SIFT chose the document and wrote
            the gain into its metadata.
        min_gain: Smallest sum of gains that is worth a training, from 0 to 1.

    Returns:
        The reason; None if the gain suffices, or a document's gain is unknown.
    """
    gains = [gain_of(document) for document in documents]
    gain = sum(gain for gain in gains if gain is not None)
    if None not in gains and gain < min_gain:
        return f"the documents' gain, {gain:.3g}, is below {min_gain}"
    return None


def gain_of(document: Document) -> float | None:
    """Return a document's gain; None if it is unknown.

    The type of the metadata tells: a store may hold anything under any key.
    """
    metadata = document.metadata
    return metadata.score if isinstance(metadata, ScoredMetadata) else None
