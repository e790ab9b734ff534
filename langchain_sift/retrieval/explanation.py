"""Why these documents: SIFT's choice for one query, step by step, beside the nearest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.checks import check_count
from langchain_sift.retrieval.settings import noise_variance_for
from langchain_sift.selection import Selection, nearest_neighbors, select
from langchain_sift.selection.arguments import Array, check_arguments
from langchain_sift.selection.greedy import stopping_point
from langchain_sift.selection.posterior import irreducible_variance
from langchain_sift.stores import Candidates, embed_query, fetch_candidates
from langchain_sift.stores.candidates import unit_vector

STOPPING_ALPHAS = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class ExplainedChoice:
    """One document of a choice, and what it brought."""

    id: str | None
    text: str
    similarity: float
    """Cosine to the query."""

    gain: float
    """By how much it lowered the posterior variance at the query."""

    gain_alone: float
    """By how much it would have, chosen first."""

    posterior_variance: float
    """What was left after it."""

    most_like: int | None
    """Which document chosen before it is most like it, from 0; none for the first."""

    likeness: float
    """Cosine to that one."""

    copies: int
    """Rows of the store with this very text."""

    @property
    def known(self) -> float:
        """The share of what it tells that was known when it was chosen, from 0 to 1."""
        return max(0.0, 1.0 - self.gain / self.gain_alone) if self.gain_alone > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What SIFT chose for a query and why, and what nearest neighbours would have chosen."""

    query: str
    candidates: int
    noise_variance: float
    prior_variance: float
    irreducible_variance: float
    """What is left when all candidates are known."""

    sift: tuple[ExplainedChoice, ...]
    nearest: tuple[ExplainedChoice, ...]
    stops: Mapping[float, int | None]
    """For each `stopping_alpha`, after how many documents adaptive stopping would stop; None if
    not within `k`."""


def explain(
    vectorstore: VectorStore,
    query: str,
    *,
    k: int = 8,
    fetch_k: int = 200,
    noise_variance: float | None = None,
    timeout: float = 30.0,
) -> Explanation:
    """Explain SIFT's choice for a query.

    Args:
        vectorstore: Any that `SIFTRetriever` takes, with embeddings.
        query: The prompt.
        k: Documents to choose.
        fetch_k: Candidates that they are chosen from; raised to `k` where it is smaller.
        noise_variance: λ'; by default as in `SIFTRetriever`.
        timeout: Seconds that the store may take.

    Raises:
        ArgumentError: If a number is out of range.
        StoreError: If the store cannot answer.
    """
    noise_variance = noise_variance_for(vectorstore.embeddings, noise_variance)
    check_arguments(k, noise_variance, None)
    check_count("fetch_k", fetch_k)
    embedded = embed_query(vectorstore, query)
    vector = unit_vector(embedded)
    candidates = fetch_candidates(vectorstore, embedded, fetch_k=max(k, fetch_k), timeout=timeout)
    rows = candidates.embeddings
    settings: dict[str, Any] = {"k": k, "noise_variance": noise_variance}
    chosen = select(vector, rows, **settings)
    return Explanation(
        query=query,
        candidates=len(rows),
        noise_variance=noise_variance,
        prior_variance=chosen.prior_variance,
        irreducible_variance=float(irreducible_variance(vector[None, :], rows)),
        sift=_choices(vector, candidates, chosen, noise_variance),
        nearest=_choices(
            vector, candidates, nearest_neighbors(vector, rows, **settings), noise_variance
        ),
        stops={
            alpha: stopping_point(chosen.posterior_variances.tolist(), alpha=alpha)
            for alpha in STOPPING_ALPHAS
        },
    )


def _choices(
    vector: Array, candidates: Candidates, selection: Selection, noise_variance: float
) -> tuple[ExplainedChoice, ...]:
    rows = candidates.embeddings[selection.indices]
    similarities = rows @ vector
    between = rows @ rows.T
    choices = []
    for step, index in enumerate(selection.indices.tolist()):
        before = between[step, :step]
        most_like = int(np.argmax(before)) if step else None
        choices.append(
            ExplainedChoice(
                id=candidates.documents[index].id,
                text=candidates.documents[index].page_content,
                similarity=float(similarities[step]),
                gain=float(selection.gains[step]),
                # With nothing chosen the gain is cov(x, x*)^2 / (k(x, x) + λ').
                gain_alone=float(similarities[step] ** 2 / (between[step, step] + noise_variance)),
                posterior_variance=float(selection.posterior_variances[step]),
                most_like=most_like,
                likeness=float(before[most_like]) if most_like is not None else 0.0,
                copies=int(candidates.copies[index]),
            )
        )
    return tuple(choices)
