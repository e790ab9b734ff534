"""Measure the speed of SIFT, its authors' library, HullFT and LangChain's MMR in one run.

    make bench

Compare the ratios: machines differ, and are shared. The choices are compared too.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from activeft import ActiveDataLoader
from activeft.acquisition_functions.vtl import VTL
from activeft.sift import Dataset, Retriever
from benchmarks.hull import Array, as_published
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from pytest_benchmark.fixture import BenchmarkFixture
from reference import posterior_variance

from langchain_sift.selection import hull, mmr, nearest_neighbors, select

NOISE_VARIANCE = 0.01


@dataclass(frozen=True)
class Problem:
    query: np.ndarray
    candidates: np.ndarray
    k: int

    def __str__(self) -> str:
        n, d = self.candidates.shape
        return f"n={n}, d={d}, k={self.k}"


def make_problem(n: int, d: int, k: int, *, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    # Like embeddings: a direction common to all, a few dozen with most of the variance, and noise.
    shared, topics = rng.normal(size=d), rng.normal(size=(min(32, d), d))
    rows = shared + rng.normal(size=(n + 1, len(topics))) @ topics / 4.0
    rows += rng.normal(size=(n + 1, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Problem(rows[0], rows[1:], k)


SMALL = make_problem(200, 1024, 50)
MEDIUM = make_problem(1000, 1024, 50)


def choose_with_activeft(problem: Problem, noise_variance: float = NOISE_VARIANCE) -> list[int]:
    """Choose with the exact selection alone: no search, no worker process."""
    chooser = VTL(
        target=torch.tensor(problem.query[None, :], dtype=torch.float32),
        num_workers=0,
        subsample=False,
        force_nonsequential=False,
        noise_std=math.sqrt(noise_variance),
    )
    candidates = torch.tensor(problem.candidates, dtype=torch.float32)
    loader = ActiveDataLoader(
        dataset=Dataset(candidates), batch_size=problem.k, acquisition_function=chooser
    )
    return list(loader.next()[0])


def search_with_activeft(problem: Problem) -> list[int]:
    """Choose as users do: `Retriever.search`, with its worker process, over an index."""
    index = faiss.IndexFlatIP(problem.candidates.shape[1])
    index.add(problem.candidates.astype(np.float32))
    retriever = Retriever(index)
    _, indices, _, _ = retriever.search(
        problem.query[None, :].astype(np.float32), N=problem.k, K=len(problem.candidates)
    )
    return indices.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", range(200))
def test_the_choice_is_that_of_activeft(case: int, dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(case)
    n, d = int(rng.integers(20, 501)), int(rng.integers(8, 1025))
    problem = make_problem(n, d, int(rng.integers(1, 51)), seed=1000 + case)
    noise_variance = float(10 ** rng.uniform(-3, 0))
    query, candidates = problem.query.astype(dtype), problem.candidates.astype(dtype)
    ours = select(query, candidates, k=problem.k, noise_variance=noise_variance, replace=True)
    theirs = choose_with_activeft(problem, noise_variance)
    for step, (our, their) in enumerate(zip(ours.indices.tolist(), theirs, strict=True)):
        if our == their:
            continue
        # activeft computes in float32: of two candidates equal to that precision, either is right.
        before = problem.candidates[ours.indices[:step]]
        after = [
            posterior_variance(
                problem.query[None, :], np.vstack([before, problem.candidates[row]]), noise_variance
            )
            for row in (our, their)
        ]
        assert after[0] <= after[1] * (1 + 1e-5)
        return


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", [SMALL, MEDIUM], ids=str)
def test_sift(benchmark: BenchmarkFixture, problem: Problem, dtype: type[np.floating[Any]]) -> None:
    benchmark.group = f"SIFT, {problem}"
    query, candidates = problem.query.astype(dtype), problem.candidates.astype(dtype)
    selection = benchmark(select, query, candidates, k=problem.k, replace=True)
    assert len(selection.indices) == problem.k


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", [SMALL, MEDIUM], ids=str)
def test_sift_with_the_rbf_kernel(
    benchmark: BenchmarkFixture, problem: Problem, dtype: type[np.floating[Any]]
) -> None:
    benchmark.group = f"SIFT, {problem}"
    query, candidates = problem.query.astype(dtype), problem.candidates.astype(dtype)
    settings = {"kernel": "rbf", "length_scale": 0.5, "noise_variance": 0.1}
    selection = benchmark(select, query, candidates, k=problem.k, replace=True, **settings)
    assert len(selection.indices) == problem.k


@pytest.mark.parametrize("problem", [SMALL, MEDIUM], ids=str)
def test_sift_of_activeft_selection_alone(benchmark: BenchmarkFixture, problem: Problem) -> None:
    benchmark.group = f"SIFT, {problem}"
    indices = benchmark.pedantic(choose_with_activeft, (problem,), rounds=5, warmup_rounds=1)
    expected = select(problem.query, problem.candidates, k=problem.k, replace=True)
    assert indices == expected.indices.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it forks while threads run
@pytest.mark.parametrize("problem", [SMALL, MEDIUM], ids=str)
def test_sift_of_activeft_as_it_is_called(benchmark: BenchmarkFixture, problem: Problem) -> None:
    benchmark.group = f"SIFT, {problem}"
    indices = benchmark.pedantic(search_with_activeft, (problem,), rounds=5, warmup_rounds=1)
    assert len(indices) == problem.k


def with_the_package(query: Array, candidates: Array, *, k: int) -> list[int]:
    rows: list[int] = hull(query, candidates, k=k, replace=True).indices.tolist()
    return rows


@pytest.mark.parametrize("choose", [as_published, with_the_package])
def test_hullft(benchmark: BenchmarkFixture, choose: Callable[..., list[int]]) -> None:
    problem = SMALL
    benchmark.group = f"SIFT, {problem}"
    rows = benchmark.pedantic(
        choose,
        (problem.query, problem.candidates),
        {"k": problem.k},
        rounds=5,
        warmup_rounds=1,
    )
    theirs = posterior_variance(problem.query[None, :], problem.candidates[rows], NOISE_VARIANCE)
    sift = select(problem.query, problem.candidates, k=problem.k, replace=True)
    nearest = nearest_neighbors(problem.query, problem.candidates, k=problem.k)
    benchmark.extra_info["posterior_variance"] = {
        "SIFT": sift.posterior_variances[-1],
        "HullFT": theirs,
        "nearest neighbours": nearest.posterior_variances[-1],
    }
    assert sift.posterior_variances[-1] <= theirs


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_sift_over_many(benchmark: BenchmarkFixture, n: int) -> None:
    problem = make_problem(n, 384, 50)
    benchmark.group = "SIFT over many candidates, d=384, k=50"
    benchmark.pedantic(
        select,
        (problem.query, problem.candidates),
        {"k": problem.k},
        rounds=5 if n < 100_000 else 3,
        warmup_rounds=1,
    )
    tracemalloc.start()  # NumPy reports every array to it
    select(problem.query, problem.candidates, k=problem.k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    benchmark.extra_info["peak_bytes_beyond_the_candidates"] = peak
    benchmark.extra_info["bytes_of_the_factors"] = n * problem.k * 8
    assert peak < 3 * n * problem.k * 8


@pytest.mark.parametrize("problem", [SMALL], ids=str)
def test_mmr(benchmark: BenchmarkFixture, problem: Problem) -> None:
    benchmark.group = f"MMR, {problem}"
    selection = benchmark(mmr, problem.query, problem.candidates, k=problem.k)
    assert len(selection.indices) == problem.k


@pytest.mark.parametrize("problem", [SMALL], ids=str)
def test_mmr_of_langchain(benchmark: BenchmarkFixture, problem: Problem) -> None:
    benchmark.group = f"MMR, {problem}"
    indices = benchmark(
        maximal_marginal_relevance, problem.query, list(problem.candidates), k=problem.k
    )
    expected = mmr(problem.query, problem.candidates, k=problem.k)
    assert indices == expected.indices.tolist()
