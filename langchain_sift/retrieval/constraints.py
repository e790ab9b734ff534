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
from langchain_core.documents import Document

from langchain_sift.checks import check_count, check_fraction
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.candidates import Candidates

# A score of zero means infinite noise. This one leaves as little of a gain.
_LEAST_WEIGHT = 1e-9
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
        """True if texts or metadata of the candidates count."""
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
        candidates: The candidates, in the order of the search.
        queries: The vectors of the query, of unit norm, shape (m, d).
        settings: The settings of the selection, with one λ' for all candidates.
        constraints: The constraints.

    Raises:
        ArgumentError: If a score is no finite number, or no candidate has a score.
    """
    if not candidates.documents:
        return candidates, settings
    if constraints.min_similarity is not None:
        # For several query vectors the best counts: a document may answer one part of a question.
        similarities = (candidates.embeddings @ queries.T).max(axis=1)
        candidates = candidates.take(np.flatnonzero(similarities >= constraints.min_similarity))
    if constraints.near_duplicate_similarity is not None:
        candidates = merge_near_duplicates(candidates, constraints.near_duplicate_similarity)
    documents = candidates.documents
    if candidates.relevance is not None:
        noise = weighted_noise(settings.noise_variance, candidates.relevance)
        settings = replace(settings, noise_variance=noise)
    if constraints.score_key is not None:
        noise = noise_variances(documents, constraints.score_key, settings.noise_variance)
        settings = replace(settings, noise_variance=noise)
    if constraints.max_tokens is not None:
        count = counter_of(constraints.token_counter)
        costs = np.array([max(1, count(document.page_content)) for document in documents])
        settings = replace(settings, costs=costs, max_cost=float(constraints.max_tokens))
    if constraints.max_per_source is not None:
        groups = group_numbers(documents, constraints.group_by)
        settings = replace(settings, groups=groups, max_per_group=constraints.max_per_source)
    return candidates, settings


def merge_near_duplicates(candidates: Candidates, similarity: float) -> Candidates:
    """Merge each candidate into the first one whose cosine with it is at least `similarity`.

    The first stands for all; its number of copies is that of all their rows, and its relevance
    the highest.
    """
    vectors, relevance = candidates.embeddings, candidates.relevance
    is_free = np.ones(len(vectors), dtype=bool)
    kept, copies, best = [], [], []
    all_copies = np.array(candidates.copies)
    for row in range(len(vectors)):
        if not is_free[row]:
            continue
        # Equal rows may have a product just below 1.
        is_alike = vectors[row:] @ vectors[row] >= similarity - 1e-9
        alike = row + np.flatnonzero(is_alike & is_free[row:])
        alike = np.union1d(alike, [row])
        is_free[alike] = False
        kept.append(row)
        copies.append(int(all_copies[alike].sum()))
        if relevance is not None:
            best.append(float(relevance[alike].max()))
    merged = replace(candidates.take(kept), copies=tuple(copies))
    return merged if relevance is None else replace(merged, relevance=np.array(best))


def weighted_noise(noise_variance: float | Array, weights: Array) -> Array:
    """Return the λ' for which each document's first gain is multiplied by its weight.

    Args:
        noise_variance: λ' at the weight 1: one number, or one per document.
        weights: From 0 to 1, shape (n,).
    """
    result: Array = (1.0 + noise_variance) / np.maximum(weights, _LEAST_WEIGHT) - 1.0
    return result


def noise_variances(
    documents: Sequence[Document], key: str, noise_variance: float | Array
) -> Array:
    """Return a λ' for each document from its score, shape (n,).

    A document's first gain, k² / (1 + λ'), is multiplied by its weight w: the score, if all
    scores are from 0 to 1; else (score − least) / (largest − least). So λ'_i = (1 + λ') / w − 1,
    which is λ' at the weight 1 and infinite at 0. A document without the key has the mean weight.

    Args:
        documents: The candidates.
        key: The key of the scores in the metadata; more is better.
        noise_variance: λ', for a document of the weight 1: one number, or one per document.

    Raises:
        ArgumentError: If a score is no finite number, or no document has one.
    """
    scores = np.array([_score(document, key) for document in documents], dtype=np.float64)
    is_known = ~np.isnan(scores)
    if not is_known.any() and len(scores):
        raise ArgumentError(
            f"score_key: none of {len(scores)} documents has a score under {key!r} in its "
            "metadata; to write gains there, use gain_key"
        )
    known = scores[is_known]
    if len(known) and not (known.min() >= 0.0 and known.max() <= 1.0):
        spread = float(np.ptp(known))
        known = (known - known.min()) / spread if spread else np.ones_like(known)
    weights = np.full(len(scores), known.mean() if len(known) else 1.0)
    weights[is_known] = known
    return weighted_noise(noise_variance, weights)


def _score(document: Document, key: str) -> float:
    """Return the score of a document; NaN if it has none."""
    value = document.metadata.get(key)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, Real | np.number):
        problem = f"is a {type(value).__name__}"
    elif not math.isfinite(float(value)):
        problem = f"is {float(value)}"
    else:
        return float(value)
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
        ArgumentError: If it is nothing of these.
    """
    if token_counter is None:
        return lambda text: math.ceil(len(text) / _CHARACTERS_PER_TOKEN)
    if hasattr(token_counter, "get_num_tokens"):
        return lambda text: int(token_counter.get_num_tokens(text))
    if hasattr(token_counter, "encode"):
        return lambda text: len(token_counter.encode(text))
    if callable(token_counter):
        return lambda text: int(token_counter(text))
    raise ArgumentError(
        "token_counter must be a function of a text, a tokenizer or a LangChain model, got a "
        f"{type(token_counter).__name__}"
    )


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
