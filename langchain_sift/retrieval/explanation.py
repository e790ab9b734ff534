"""Explain SIFT's choice for a query, step by step, next to the nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.checks import check_count, check_positive
from langchain_sift.errors import CorpusError
from langchain_sift.retrieval.defaults import kernel_settings
from langchain_sift.selection import Selection
from langchain_sift.selection.arguments import Array, as_matrices
from langchain_sift.selection.greedy import stopping_point
from langchain_sift.selection.nearest import choose_nearest
from langchain_sift.selection.opposites import (
    choose_for_retrieval,
    opposite_penalties,
    with_variances_of_retrieval,
)
from langchain_sift.selection.posterior import irreducible_variance
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.calls import fetch_candidates
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.embedding_calls import embed_query
from langchain_sift.stores.unit_vectors import unit_vector

STOPPING_ALPHAS = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class ExplainedChoice:
    """A chosen document with the reasons for the choice."""

    id: str | None
    text: str
    similarity: float
    """Cosine with the query."""

    gain: float
    """The reduction of the query's posterior variance by this choice."""

    gain_alone: float
    """The reduction if the document was chosen first."""

    posterior_variance: float
    """Posterior variance of the query after this choice."""

    most_like: int | None
    """Position of the most similar document chosen before, from 0. None for the first choice."""

    likeness: float
    """Cosine with that document."""

    copies: int
    """Number of fetched rows with the document's text."""

    @property
    def known(self) -> float:
        """The share of the document's information that earlier choices have, from 0 to 1."""
        return max(0.0, 1.0 - self.gain / self.gain_alone) if self.gain_alone > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The choices of SIFT and of nearest neighbours for a query."""

    query: str
    candidates: int
    """Number of candidates, of different texts."""

    kernel: str
    length_scale: float
    noise_variance: float
    prior_variance: float
    irreducible_variance: float
    """Variance that would remain if all candidates were known without noise."""

    sift: tuple[ExplainedChoice, ...]
    nearest: tuple[ExplainedChoice, ...]
    stops: Mapping[float, int | None]
    """For each `stopping_alpha`, the number of documents after which adaptive SIFT stops. None if
    it does not stop within `k`."""


def explain(
    vectorstore: VectorStore,
    query: str,
    *,
    k: int = 8,
    fetch_k: int = 200,
    kernel: str | None = None,
    length_scale: float | None = None,
    noise_variance: float | None = None,
    timeout: float = 30.0,
) -> Explanation:
    """Explain SIFT's choice for a query.

    Args:
        vectorstore: Any store that `SIFTRetriever` takes, with embeddings.
        query: The text to retrieve for.
        k: Maximum number of documents.
        fetch_k: Maximum number of candidates, at least `k`.
        kernel: "rbf" or "linear". None means the default of `SIFTRetriever`.
        length_scale: ℓ of the kernel "rbf", likewise.
        noise_variance: λ', likewise.
        timeout: Seconds that the store may take.

    Raises:
        ArgumentError: If a number is out of range.
        StoreError: If the store cannot answer.
        EmbeddingError: If the embeddings fail.
        CorpusError: If the store has no text with a vector that is neither zero nor NaN.
    """
    chosen = kernel_settings(
        vectorstore.embeddings,
        kernel=kernel,
        length_scale=length_scale,
        noise_variance=noise_variance,
    )
    check_count("k", k)
    check_count("fetch_k", fetch_k)
    check_positive("noise_variance", chosen.noise_variance)
    k, fetch_k = int(k), int(fetch_k)  # a store's client may not know NumPy's integers
    settings = SelectionSettings(k=k, **asdict(chosen))
    embedded = embed_query(vectorstore, query)
    unit = unit_vector(embedded)
    candidates = fetch_candidates(vectorstore, embedded, fetch_k=max(k, fetch_k), timeout=timeout)
    if not candidates.documents:
        raise CorpusError(
            "the store has no text with a usable vector, and there is nothing to explain: index "
            "texts, or see `langchain-sift doctor`"
        )
    rows = candidates.embeddings
    matrices = as_matrices(unit, rows)
    sift = choose_for_retrieval(matrices, settings)
    nearest = with_variances_of_retrieval(choose_nearest)(matrices, settings)
    # With no choices before, the gain is k(x, x*)² / (k(x, x) + λ'), for vectors of unit norm.
    prior = settings.kernel_function.of_products(np, rows @ unit, 1.0, 1.0)
    alone = prior**2 / (1.0 + settings.noise_variance)
    alone[opposite_penalties(matrices.queries, rows, settings) < 0.0] = 0.0
    variances = sift.posterior_variances.tolist()
    return Explanation(
        query=query,
        candidates=len(rows),
        kernel=settings.kernel,
        length_scale=settings.length_scale,
        noise_variance=settings.noise_variance,
        prior_variance=sift.prior_variance,
        irreducible_variance=float(
            irreducible_variance(unit[None, :], rows, settings.kernel_function)
        ),
        sift=_choices(unit, candidates, sift, alone),
        nearest=_choices(unit, candidates, nearest, alone),
        stops={alpha: stopping_point(variances, alpha=alpha) for alpha in STOPPING_ALPHAS},
    )


def _choices(
    query: Array, candidates: Candidates, selection: Selection, alone: Array
) -> tuple[ExplainedChoice, ...]:
    rows = candidates.embeddings[selection.indices]
    similarities = rows @ query
    among = rows @ rows.T
    choices = []
    for step, index in enumerate(selection.indices.tolist()):
        earlier = among[step, :step]
        most_like = int(np.argmax(earlier)) if step else None
        choices.append(
            ExplainedChoice(
                id=candidates.documents[index].id,
                text=candidates.documents[index].page_content,
                similarity=float(similarities[step]),
                gain=float(selection.gains[step]),
                gain_alone=float(alone[index]),
                posterior_variance=float(selection.posterior_variances[step]),
                most_like=most_like,
                likeness=float(earlier[most_like]) if most_like is not None else 0.0,
                copies=int(candidates.copies[index]),
            )
        )
    return tuple(choices)
