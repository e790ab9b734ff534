"""SIFT for many prompts at once: the same choices, in arrays with an axis of prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.greedy import (
    Selection,
    as_matrices,
    as_numpy,
    check_arguments,
    is_enough,
    make_selection,
)
from langchain_sift.selection.posterior import kernel_of_few, prior, rounding


def select_batch(
    query_embeddings: Sequence[Any],
    candidate_embeddings: Sequence[Any],
    *,
    k: int,
    noise_variance: float = 0.01,
    replace: bool = False,
    stopping_alpha: float | None = None,
) -> list[Selection]:
    """Choose for every prompt what `select` would choose, all prompts in step.

    On an accelerator a step costs nearly the same for one prompt and for many. Candidates are
    padded to the longest list, so memory is O(b n (d + k)) for b prompts of at most n.

    Args:
        query_embeddings: For each prompt an array of shape (d,) or (m, d).
        candidate_embeddings: For each prompt an array of shape (n, d); n may differ. Of the
            same library and on the same device.
        k: As in `select`; so are the others.
        noise_variance: As in `select`.
        replace: As in `select`.
        stopping_alpha: As in `select`; each prompt stops for itself.

    Returns:
        One selection for each prompt.

    Raises:
        ArgumentError: If an argument is out of range or the two sequences differ in length.
        EmbeddingError: If a vector is NaN, infinite, zero, or of the wrong dimension.
    """
    check_arguments(k, noise_variance, stopping_alpha)
    if len(query_embeddings) != len(candidate_embeddings):
        raise ArgumentError(
            f"query_embeddings and candidate_embeddings must be of one length, got "
            f"{len(query_embeddings)} and {len(candidate_embeddings)}"
        )
    problems = [
        as_matrices(queries, candidates)
        for queries, candidates in zip(query_embeddings, candidate_embeddings, strict=True)
    ]
    counts = [len(candidates) for _, candidates in problems]
    if not any(counts):
        return [make_selection([], [float((queries**2).sum())]) for queries, _ in problems]
    xp = array_api_compat.array_namespace(*problems[0])
    queries = _padded(xp, [queries for queries, _ in problems])
    candidates = _padded(xp, [candidates for _, candidates in problems])
    wanted = [0 if count == 0 else k if replace else min(k, count) for count in counts]
    indices, variances = _choose(
        xp, queries, candidates, counts, steps=max(wanted), noise_variance=noise_variance,
        replace=replace,
    )  # fmt: skip
    selections = []
    for prompt, steps in enumerate(wanted):
        count = len(problems[prompt][0])
        left = variances[prompt, : steps + 1].tolist()
        kept = _until_enough(left[1:], count, stopping_alpha)
        selections.append(make_selection(indices[:kept, prompt].tolist(), left[: kept + 1]))
    return selections


def _choose(
    xp: Any,
    queries: Any,
    candidates: Any,
    counts: list[int],
    *,
    steps: int,
    noise_variance: float,
    replace: bool,
) -> tuple[Any, Any]:
    """Return indices, (k, b), and variances, (b, 1 + k), as NumPy arrays."""
    batch, longest, _ = candidates.shape
    device = candidates.device
    posteriors = _Posteriors(xp, queries, candidates, noise_variance=noise_variance, capacity=steps)
    places = xp.arange(longest, device=device)[None, :]
    is_padding = places >= xp.asarray(counts, device=device)[:, None]
    barred = xp.where(is_padding, -math.inf, 0.0)
    prompts = xp.arange(batch, device=device)
    indices = []
    variances = [posteriors.query_variances]
    for _ in range(steps):  # nothing in here waits for the device
        best = _first_of_highest(xp, posteriors.gains() + barred, posteriors.rounding)
        posteriors.condition(best)
        if not replace:
            barred[prompts, best] = -math.inf
        indices.append(best)
        variances.append(posteriors.query_variances)
    return as_numpy(xp.stack(indices)), as_numpy(xp.stack(variances, axis=-1))


class _Posteriors:
    """`Posterior` of each prompt, in arrays with an axis of b prompts in front."""

    def __init__(
        self, xp: Any, queries: Any, candidates: Any, *, noise_variance: float, capacity: int
    ) -> None:
        queries, candidates, norms = prior(xp, queries, candidates, noise_variance)
        batch, count, _ = candidates.shape
        device = candidates.device
        self._xp = xp
        self._noise_variance = noise_variance
        self._candidates = candidates
        self._kernel = kernel_of_few(xp, candidates, capacity)
        self._prompts = xp.arange(batch, device=device)
        self._factors = xp.empty((batch, capacity, count), dtype=xp.float64, device=device)
        self._choices = 0
        self.rounding = rounding(xp, candidates, float(norms.max()), noise_variance)
        self.noisy_variances = norms + noise_variance
        self.covariances = xp.astype(queries @ candidates.mT, xp.float64)
        self.query_variances = xp.astype(xp.vecdot(queries, queries), xp.float64).sum(-1)

    def gains(self) -> Any:
        """Return by how much each candidate would lower its prompt's variance, shape (b, n)."""
        return (self.covariances * self.covariances).sum(-2) / self.noisy_variances

    def condition(self, indices: Any) -> None:
        """Observe a candidate of each prompt, shape (b,)."""
        prompts, done = self._prompts, self._choices
        factors = self._kernel_rows(indices)
        if done:
            earlier = self._factors[:, :done, :]
            factors = factors - (earlier[prompts, :, indices][:, None, :] @ earlier)[:, 0, :]
        precisions = self.noisy_variances[prompts, indices][:, None] ** -0.5
        factors = factors * precisions
        explained = self.covariances[prompts, :, indices] * precisions
        self._factors[:, done, :] = factors
        self._choices = done + 1
        noisy_variances = self.noisy_variances - factors * factors
        # The rounding of many choices may be as much as λ'.
        self.noisy_variances = self._xp.clip(noisy_variances, min=self._noise_variance)
        self.covariances -= explained[..., None] * factors[:, None, :]
        self.query_variances = self.query_variances - (explained * explained).sum(-1)

    def _kernel_rows(self, indices: Any) -> Any:
        if self._kernel is not None:
            return self._kernel[self._prompts, indices]
        chosen = self._candidates[self._prompts, indices]
        rows = (self._candidates @ chosen[..., None])[..., 0]
        return self._xp.astype(rows, self._xp.float64, copy=False)


def _first_of_highest(xp: Any, scores: Any, rounding: float) -> Any:
    """Return the places of the highest scores, shape (b,); of those equal to rounding the first."""
    highest = xp.max(scores, axis=-1, keepdims=True)
    equal = scores >= highest - rounding * abs(highest)
    return xp.argmax(xp.astype(equal, xp.int8), axis=-1)


def _until_enough(variances: list[float], queries: int, alpha: float | None) -> int:
    """Return how many of the choices adaptive SIFT keeps."""
    if alpha is not None:
        for steps, variance in enumerate(variances, start=1):
            if is_enough(variance, queries, steps, alpha):
                return steps
    return len(variances)


def _padded(xp: Any, matrices: list[Any]) -> Any:
    """Stack the matrices, shape (b, n, d), with rows of zeros below the shorter ones."""
    longest = max(len(matrix) for matrix in matrices)
    dimensions = max(matrix.shape[1] for matrix in matrices)
    dtype = xp.float32 if all(m.dtype == xp.float32 for m in matrices) else xp.float64
    shape = (len(matrices), longest, dimensions)
    stacked = xp.zeros(shape, dtype=dtype, device=matrices[0].device)
    for place, matrix in enumerate(matrices):
        if len(matrix):
            stacked[place, : len(matrix), :] = matrix
    return stacked
