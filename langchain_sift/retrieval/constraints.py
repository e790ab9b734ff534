"""Prepare the candidates of a retrieval: floors, near duplicates, scores, budgets and caps.

Axes: n candidates, d dimensions, m query vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from langchain_sift.checks import check_count, check_fraction, is_finite_number
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.candidates import Candidates

# A score of zero means infinite noise. This one leaves as little of a gain.
_LEAST_WEIGHT = 1e-9
_ROUNDING = 1e-6  # of cosines: a store may hold its vectors in float32
_CHARACTERS_PER_TOKEN = 4  # as LangChain's `count_tokens_approximately` assumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """The constraints of a retrieval, checked; `SIFTRetriever` explains them."""

    max_tokens: int | None = None
    token_counter: Any = None
    max_per_source: int | None = None
    group_by: str = "source"
    min_similarity: float | None = None
    near_duplicate_similarity: float | None = None
    score_key: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range.
        """
        for name in ("max_tokens", "max_per_source"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("group_by", "score_key"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (name, value) != ("score_key", None):
                raise ArgumentError(f"{name} must be a key of the metadata, got {value!r}")
        if self.min_similarity is not None and not _is_cosine(self.min_similarity):
            raise ArgumentError(f"min_similarity must be from -1 to 1, got {self.min_similarity!r}")
        if self.near_duplicate_similarity is not None:
            check_fraction("near_duplicate_similarity", self.near_duplicate_similarity)
        if self.token_counter is not None:
            counter_of(self.token_counter)

    @property
    def reads_documents(self) -> bool:
        """True if a constraint needs the texts or the metadata of the candidates."""
        keys = (self.max_tokens, self.max_per_source, self.score_key)
        return any(key is not None for key in keys)

    @property
    def names(self) -> list[str]:
        """The constraints that are set."""
        names = ("max_tokens", "max_per_source", "min_similarity", "near_duplicate_similarity")
        return [name for name in (*names, "score_key") if getattr(self, name) is not None]


def _is_cosine(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and -1 <= float(value) <= 1


def prepare(
    candidates: Candidates, queries: Array, settings: SelectionSettings, constraints: Constraints
) -> tuple[Candidates, SelectionSettings]:
    """Return the candidates that remain, and the settings of their selection.

    Args:
        candidates: The candidates of `similar_candidates`, in the order of the search.
        queries: The vectors of the query, of unit norm, shape (m, d).
        settings: The settings of the selection, with one λ' for all candidates.
        constraints: The constraints.

    Raises:
        ArgumentError: If a score is no finite number, or no candidate has a score.
    """
    if not candidates.documents:
        return candidates, settings
    if constraints.score_key is not None:
        weights = weights_of(candidates.rows, constraints.score_key)
        if candidates.relevance is not None:
            weights = weights * candidates.relevance
        candidates = replace(candidates, relevance=weights)
    if constraints.near_duplicate_similarity is not None:
        candidates = merge_near_duplicates(
            candidates, queries, constraints.near_duplicate_similarity
        )
    documents = candidates.documents
    if candidates.relevance is not None:
        noise = weighted_noise(settings.noise_variance, candidates.relevance)
        settings = replace(settings, noise_variance=noise)
    if constraints.max_tokens is not None:
        count = counter_of(constraints.token_counter)
        costs = np.array([max(1, count(document.page_content)) for document in documents])
        settings = replace(settings, costs=costs, max_cost=float(constraints.max_tokens))
    if constraints.max_per_source is not None:
        groups = group_numbers(documents, constraints.group_by)
        settings = replace(settings, groups=groups, max_per_group=constraints.max_per_source)
    return candidates, settings


def similar_candidates(
    candidates: Candidates, queries: Array, min_similarity: float | None
) -> Candidates:
    """Return the candidates whose cosine with a query vector is at least `min_similarity`.

    For several query vectors the highest counts: a document may answer one part of a question.
    None returns all.
    """
    if min_similarity is None or not candidates.documents:
        return candidates
    similarities = (candidates.embeddings @ queries.T).max(axis=1)
    is_similar = similarities >= min_similarity - _ROUNDING
    return candidates.take(np.flatnonzero(is_similar))


def merge_near_duplicates(candidates: Candidates, queries: Array, similarity: float) -> Candidates:
    """Merge candidates whose cosine is at least `similarity`, the most similar to a query first.

    The most similar stands for all; its number of copies is that of all their rows, and its
    relevance the highest. The order of the candidates stays.
    """
    vectors = candidates.embeddings
    is_free = np.ones(len(vectors), dtype=bool)
    alike_of: dict[int, npt.NDArray[np.int64]] = {}
    for row in np.argsort(-(vectors @ queries.T).max(axis=1), kind="stable").tolist():
        if is_free[row]:
            is_alike = (vectors @ vectors[row] >= similarity - _ROUNDING) & is_free
            is_alike[row] = True
            alike_of[row] = np.flatnonzero(is_alike)
            is_free &= ~is_alike
    kept = sorted(alike_of)
    copies, relevance = np.array(candidates.copies), candidates.relevance
    merged = replace(
        candidates.take(kept), copies=tuple(int(copies[alike_of[row]].sum()) for row in kept)
    )
    if relevance is None:
        return merged
    highest = np.array([float(relevance[alike_of[row]].max()) for row in kept])
    return replace(merged, relevance=highest)


def weighted_noise(noise_variance: float | Array, weights: Array) -> Array:
    """Return the λ' for which each document's first gain is multiplied by its weight.

    Args:
        noise_variance: λ' at the weight 1: one number, or one per document.
        weights: From 0 to 1, shape (n,).
    """
    result: Array = (1.0 + noise_variance) / np.maximum(weights, _LEAST_WEIGHT) - 1.0
    return result


def weights_of(rows: Sequence[Sequence[Document]], key: str) -> Array:
    """Return the weight of each candidate from its score, from 0 to 1, shape (n,).

    The weight is the score if all scores are from 0 to 1; score / highest if none is negative;
    else (score - least) / (highest - least). A candidate without a score has the mean
    weight.

    Args:
        rows: The documents of each candidate; of several scores the highest counts.
        key: The key of the scores in the metadata; more is better.

    Raises:
        ArgumentError: If a score is no finite number, or no document has one.
    """
    scores = [_highest_score(documents, key) for documents in rows]
    known = np.array([score for score in scores if score is not None], dtype=np.float64)
    if not len(known):
        raise ArgumentError(
            f"score_key: none of {len(scores)} documents has a score under {key!r} in its "
            "metadata; to write gains there, use gain_key"
        )
    largest = float(np.abs(known).max())
    if known.min() < 0.0:
        known = known / largest  # the difference of two large numbers may overflow
        spread = float(np.ptp(known))
        known = (known - known.min()) / spread if spread else np.ones_like(known)
    elif largest > 1.0:
        known = known / largest
    weights = np.full(len(scores), known.mean())
    weights[[score is not None for score in scores]] = known
    return weights


def _highest_score(documents: Sequence[Document], key: str) -> float | None:
    """Return the highest score of the documents. None if they have none."""
    scores = [
        _checked_score(document, key)
        for document in documents
        if document.metadata.get(key) is not None
    ]
    return max(scores, default=None)


def _checked_score(document: Document, key: str) -> float:
    value = document.metadata[key]
    if is_finite_number(value):
        return float(value)
    problem = f"is {value}" if isinstance(value, float) else f"is a {type(value).__name__}"
    raise ArgumentError(
        f"score_key: the score under {key!r} of document {document.id!r} {problem}: it must be "
        "a finite number"
    )


def group_numbers(documents: Sequence[Document], key: str) -> Any:
    """Return the number of each document's group, shape (n,).

    Documents of one value under the key are a group. A document without the key is a group of
    its own.
    """
    number_of: dict[object, int] = {}
    numbers = []
    for row, document in enumerate(documents):
        value = document.metadata.get(key)
        label: object = ("row", row) if value is None else ("value", repr(value))
        numbers.append(number_of.setdefault(label, len(number_of)))
    return np.array(numbers, dtype=np.int64)


def counter_of(token_counter: Any) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text.

    Args:
        token_counter: Such a function; a tokenizer with `encode`; a LangChain model with
            `get_num_tokens`. None counts four characters as a token.

    Raises:
        ArgumentError: If it is none of these.
    """
    if token_counter is None:
        return lambda text: math.ceil(len(text) / _CHARACTERS_PER_TOKEN)
    if hasattr(token_counter, "get_num_tokens"):
        return _checked_counter(token_counter.get_num_tokens)
    if hasattr(token_counter, "encode") and not isinstance(token_counter, str):
        return _checked_counter(lambda text: len(token_counter.encode(text)))
    if callable(token_counter):
        return _checked_counter(token_counter)
    raise ArgumentError(
        "token_counter must be a function of a text, a tokenizer or a LangChain model, got a "
        f"{type(token_counter).__name__}"
    )


def _checked_counter(count: Callable[[str], object]) -> Callable[[str], int]:
    """Return the counter with a check of its numbers; no message contains the text."""

    def checked(text: str) -> int:
        number = count(text)
        if not is_finite_number(number) or number < 0:
            # Anything else than a number may contain the text.
            got = number if isinstance(number, int | float) else f"a {type(number).__name__}"
            raise ArgumentError(
                f"token_counter must return a number of tokens, 0 or more, got {got}"
            )
        return math.ceil(number)

    return checked


def tokenizer_of(embeddings: object) -> Any:
    """Return the tokenizer of embeddings; None if they show none.

    `HiddenStateEmbeddings` have the attribute `tokenizer`. Those of langchain-huggingface have a
    sentence-transformer as `_client`, and those of langchain-community as `client`.
    """
    for owner in (embeddings, *(getattr(embeddings, name, None) for name in ("_client", "client"))):
        tokenizer = getattr(owner, "tokenizer", None)
        if hasattr(tokenizer, "encode"):
            return tokenizer
    return None
