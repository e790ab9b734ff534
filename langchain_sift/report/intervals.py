"""Estimate confidence intervals, and decide whether one method is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from langchain_sift.selection.arguments import Array

Verdict = Literal["better", "worse", "cannot tell"]

CONFIDENCE = 0.95
_RESAMPLES = 10_000
MIN_CLUSTERS_RESAMPLED = 8
"""Number of sources below which an interval is Student's, and few differences decide."""

# Below, nothing is decided: all signs agree by chance in 2 / 2⁵ = 6 % of all cases, and Student's
# interval assumes normal differences, while a few prompts often make most of a difference.
_MIN_CLUSTERS_DECIDED = 6
_ROUNDING = 1e-9  # relative error of sums
_MAX_DRAWS = 2_000_000  # numbers drawn at once
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    clusters: int
    """Number of independent observations."""

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def within(self, limit: float) -> Interval:
        """Clip the interval to [-limit, limit]."""
        return replace(self, low=max(self.low, -limit), high=min(self.high, limit))


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two methods on the prompts that both were measured on."""

    first: str
    second: str
    metric: str
    interval: Interval
    """First minus second: in points of percent of base, or in the unit of the metric."""

    prompts: int
    verdict: Verdict
    """Result for the first method against the second."""

    prompts_needed: int | None
    """Estimated number of similar prompts that would settle the comparison. None if it is settled,
    if no number would settle it, or if there are too few sources for an estimate."""

    too_few: bool
    """True if the comparison is open because there are too few sources of prompts."""


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
) -> Interval:
    """Estimate sum(numerators) / sum(denominators) with its interval.

    Bootstrap over whole clusters: observations of the same cluster are alike, and resampling single
    observations would make the interval too short (Field & Welsh, 2007). Expanded percentiles,
    because plain percentiles are too narrow for few clusters (Hesterberg, 2014, arXiv 1411.5279,
    section 5.3). Fewer than eight clusters have too few different samples: Student's interval.
    Clusters that all have the same ratio, other than 0, show no spread, and fewer than decide give
    no interval.

    Args:
        numerators: A number for each prompt.
        denominators: A positive number for each prompt; ones for a mean.
        clusters: The source of each prompt.
        seed: Seed of the resampling.
    """
    sums = _cluster_sums(np.array([numerators, denominators], dtype=np.float64), clusters)
    count = sums.shape[1]
    value = _ratio(sums.sum(axis=1))
    if count < 2:
        return Interval(value, math.nan, math.nan, count)
    if count < MIN_CLUSTERS_RESAMPLED:
        half = student_quantile(count - 1) * ratio_standard_error(
            numerators, denominators, clusters
        )
        is_equal = half <= _ROUNDING * abs(value)
        if is_equal and value and count < _MIN_CLUSTERS_DECIDED:
            return Interval(value, math.nan, math.nan, count)
        return Interval(value, value - half, value + half, count)
    resampled = _resampled_ratios(sums, seed)
    low, high = np.percentile(resampled, _percentiles(count))
    return Interval(value, float(low), float(high), count)


def ratio_standard_error(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[str]
) -> float:
    """Estimate the standard error of the ratio of the sums, over clusters.

    Cochran (1977), Sampling Techniques, eq. 6.9, with clusters as units.
    """
    sums = _cluster_sums(np.array([numerators, denominators], dtype=np.float64), clusters)
    count = sums.shape[1]
    if count < 2:
        return math.nan
    residuals = sums[0] - _ratio(sums.sum(axis=1)) * sums[1]
    return float(math.sqrt(count / (count - 1) * (residuals @ residuals)) / sums[1].sum())


def judge(
    first: str,
    second: str,
    metric: str,
    interval: Interval,
    *,
    prompts: int,
    lower_is_better: bool,
    limit: float = math.inf,
) -> Difference:
    """Decide from the interval of a difference whether the first method is better.

    Fewer than six sources decide nothing: by a sign test, six are the first that can.

    Args:
        first: A method.
        second: The method that it is compared with.
        metric: The metric of the difference.
        interval: First minus second.
        prompts: Number of prompts with both methods.
        lower_is_better: If True, lower values of the metric are better.
        limit: Largest possible difference, in either direction.
    """
    verdict: Verdict = "cannot tell"
    is_few = interval.clusters < _MIN_CLUSTERS_DECIDED
    if not is_few and (interval.high < 0 or interval.low > 0):
        verdict = "better" if (interval.high < 0) is lower_is_better else "worse"
    possible = interval.within(limit)
    too_few = verdict == "cannot tell" and (
        is_few or math.isnan(possible.half_width) or possible.half_width >= limit
    )
    needed = None
    if verdict == "cannot tell" and not too_few and interval.half_width > 0 and interval.value:
        # The interval shrinks with the root of the number of prompts.
        needed = math.ceil(prompts * (interval.half_width / abs(interval.value)) ** 2)
        needed = max(needed, prompts + 1)
    return Difference(first, second, metric, possible, prompts, verdict, needed, too_few)


def correlation(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> Interval:
    """Estimate Spearman's rank correlation with its interval, by the same bootstrap."""
    x, y = _centered_ranks(first), _centered_ranks(second)
    products = np.array([np.ones_like(x), x, y, x * x, y * y, x * y])
    sums = _cluster_sums(products, clusters)
    count = sums.shape[1]
    value = float(_pearson(sums.sum(axis=1, keepdims=True))[0])
    if count < 3 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, count)
    weights = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=2000)
    resampled = _pearson(sums @ weights.T)
    low, high = np.nanpercentile(resampled, _percentiles(count))
    return Interval(value, float(low), float(high), count).within(1.0)


def _percentiles(count: int) -> tuple[float, float]:
    """Return the expanded percentiles for a number of clusters (Hesterberg, 2014, section 5.3)."""
    tail = _NORMAL.cdf(-math.sqrt(count / (count - 1)) * student_quantile(count - 1))
    return 100 * tail, 100 * (1 - tail)


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t.

    Abramowitz & Stegun (1964), 26.7.5, from 3 degrees of freedom on; below, the exact values.
    """
    if degrees < 3:
        return (12.706204736, 4.302652730)[degrees - 1]
    z, n = _NORMAL.inv_cdf(1 - (1 - CONFIDENCE) / 2), degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def _cluster_sums(values: Array, clusters: Sequence[str]) -> Array:
    """Sum the columns of each cluster, shape (rows, clusters)."""
    _, labels = np.unique(np.array(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(values), int(labels.max()) + 1 if len(labels) else 0))
    for row, total in zip(values, sums, strict=True):
        np.add.at(total, labels, row)
    return sums


def _ratio(sums: Array) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _resampled_ratios(sums: Array, seed: int) -> Array:
    rng, count = np.random.default_rng(seed), sums.shape[1]
    size = max(1, _MAX_DRAWS // count)
    parts = []
    for start in range(0, _RESAMPLES, size):
        draws = min(size, _RESAMPLES - start)
        weights = rng.multinomial(count, [1 / count] * count, size=draws)
        numerators, denominators = sums @ weights.T
        parts.append(numerators / denominators)
    return np.concatenate(parts)


def _centered_ranks(values: Sequence[float]) -> Array:
    """Return ranks less their mean; equal values share the mean of their ranks."""
    array = np.array(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    centered: Array = ranks - ranks.mean()
    return centered


def _pearson(sums: Array) -> Array:
    """Return correlations from sums of 1, x, y, x², y² and xy, each of shape (n,)."""
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations: Array = (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
    return correlations
