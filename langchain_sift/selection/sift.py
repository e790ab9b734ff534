"""Choose with SIFT: Hübotter, Bongni, Hakimi & Krause, arXiv 2410.08020.

Read on in `greedy.py`, the loop over the choices (Algorithm 1 of the paper), and in
`posterior.py`, the update after each (Rasmussen & Williams (2006), Algorithm 2.1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from langchain_sift.selection.arguments import Matrices, as_matrices, as_numpy
from langchain_sift.selection.greedy import Score, Selection, choose
from langchain_sift.selection.posterior import Posterior
from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE, SelectionSettings


def choose_by_gain(
    matrices: Matrices, settings: SelectionSettings, *, penalties: Any | None = None
) -> Selection:
    """Choose as `select` does, on checked arguments.

    Args:
        matrices: The queries and the candidates.
        settings: The settings of the selection.
        penalties: Added to the gain of each candidate, or to its gain per cost, shape (n,). None
            adds nothing.
    """
    if settings.costs is None:
        return choose(matrices, settings, score=_score(None, penalties))
    if settings.max_cost is not None:
        # A budget that does not bind changes nothing.
        without_costs = replace(settings, costs=None, max_cost=None)
        plain = choose(matrices, without_costs, score=_score(None, penalties))
        if as_numpy(settings.costs)[plain.indices].sum() <= settings.max_cost:
            return plain
    xp, candidates = matrices.xp, matrices.candidates
    costs = xp.asarray(settings.costs, dtype=xp.float64, device=candidates.device)
    return choose(matrices, settings, score=_score(costs, penalties))


def _score(costs: Any | None, penalties: Any | None) -> Score:
    """Return the score of SIFT, for candidates of these costs; see `choose_by_gain`."""

    def score(posterior: Posterior) -> Any:
        # arXiv 2410.08020, section 3.1: x_{n+1} = argmin over x of σ²_{X_n ∪ {x}}(x*), which is
        # the argmax of the gains.
        scores = posterior.gains()
        if costs is not None:
            # The greedy rule of budgeted maximisation: Khuller, Moss & Naor (1999), section 2.
            scores = scores / costs
        return scores if penalties is None else scores + penalties

    return score


def select(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    k: int,
    noise_variance: Any = 0.01,
    kernel: str = "linear",
    length_scale: float = DEFAULT_LENGTH_SCALE,
    replace: bool = False,
    stopping_alpha: float | None = None,
    costs: Any = None,
    max_cost: float | None = None,
    groups: Any = None,
    max_per_group: int | None = None,
) -> Selection:
    """Choose greedily the candidates that most reduce the posterior variance at the query.

    The choice is exact, in O(k n (d + k)) time and O(n k) memory. It is deterministic: of equal
    candidates the first is chosen. Products of float32 embeddings are computed in float32, at
    half the time and memory of float64 and as exact as such embeddings are. All sums over the
    choices are float64, and so are the products if λ' is below 0.01 (below 0.01 / ℓ² with the
    kernel "rbf").

    Args:
        query_embeddings: x*, shape (d,), or (m, d) for several queries, whose variances are
            summed. NumPy arrays or PyTorch tensors, on CPU or GPU.
        candidate_embeddings: Shape (n, d), of the same library and on the same device.
            The method assumes unit norm; the vectors are not normalised.
        k: Number of candidates to choose; without `replace` at most n.
        noise_variance: λ', at least 1e-12, and at least 1e-12 of the largest squared norm. As it
            falls to zero, the choice depends only on how much each candidate adds to what the
            others say about the query. As it grows, the choice tends to the nearest neighbours
            (with `replace`, to the nearest one again and again). The best value depends on the
            embedding. The default is the paper's; `SIFTRetriever` has a larger one. Shape (n,)
            gives each candidate its own: a large value means that its text says little about its
            subject, and counts for little.
        kernel: "linear", xᵀx', as in the paper, or "rbf", exp(−‖x − x'‖² / (2 ℓ²)), for which
            texts of low similarity are unrelated. The prior variance of a query is then 1.
        length_scale: ℓ of the kernel "rbf", positive. If it is small, candidates that are not
            almost equal are unrelated, and the choice is close to the nearest neighbours; below
            about 0.05 most gains round to zero, and of equal gains the first candidate is chosen.
            As it grows, all candidates are alike.
        replace: If True, a candidate may be chosen again, as in the paper, where a repeat is
            one more gradient step on it. For retrieval a repeat is useless.
        stopping_alpha: α of the paper's adaptive rule: stop at the first n with
            σ_n > 1 / (α n), where σ_n² is the mean posterior variance of the queries. Larger
            values stop earlier; at least one candidate is chosen. None means all k.
        costs: Cost of each candidate, such as its number of tokens, positive, shape (n,). The
            choice then has the largest reduction per cost, unless the choices of the largest
            reductions fit the budget anyway. None means equal costs.
        max_cost: Budget: the choices cost at most this together, and a candidate that costs more
            than what is left is passed over. The selection is empty if no candidate costs as
            little. None means no limit.
        groups: Group of each candidate, such as its source, shape (n,): integers or strings.
        max_per_group: Maximum number of choices from one group, repeats counted.

    Returns:
        The choices and the variance that remains after each. Empty without candidates.

    Raises:
        ArgumentError: If a setting is unknown or out of range, or has not one value for each
            candidate.
        EmbeddingError: If a vector is NaN, infinite, zero, or of the wrong dimension.
    """
    settings = SelectionSettings(
        k=k,
        noise_variance=noise_variance,
        kernel=kernel,
        length_scale=length_scale,
        replace=replace,
        stopping_alpha=stopping_alpha,
        costs=costs,
        max_cost=max_cost,
        groups=groups,
        max_per_group=max_per_group,
    )
    return choose_by_gain(as_matrices(query_embeddings, candidate_embeddings), settings)
