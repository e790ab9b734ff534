"""How fast SIFT chooses beside its authors' library, and MMR beside LangChain's, in one run.

    make bench

The ratios are what counts: machines differ, and are shared.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from activeft import ActiveDataLoader
from activeft.acquisition_functions.vtl import VTL
from activeft.sift import Dataset
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from pytest_benchmark.fixture import BenchmarkFixture

from langchain_sift.selection import mmr, select

CANDIDATES, DIMENSIONS, K = 200, 1024, 50


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(CANDIDATES, DIMENSIONS))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    query = candidates[:8].sum(axis=0) + 0.1 * rng.normal(size=DIMENSIONS)
    return query / np.linalg.norm(query), candidates


@pytest.mark.benchmark(group=f"SIFT, n={CANDIDATES}, d={DIMENSIONS}, k={K}")
def test_sift(benchmark: BenchmarkFixture, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    selection = benchmark(select, *vectors, k=K, replace=True)
    assert len(selection.indices) == K


@pytest.mark.benchmark(group=f"SIFT, n={CANDIDATES}, d={DIMENSIONS}, k={K}")
def test_sift_of_activeft(
    benchmark: BenchmarkFixture, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    query, candidates = (torch.tensor(array, dtype=torch.float32) for array in vectors)
    # Its own selection alone: without its search, and without the worker process it forks.
    chooser = VTL(
        target=query[None, :],
        num_workers=0,
        subsample=False,
        force_nonsequential=False,
        noise_std=math.sqrt(0.01),
    )

    def choose() -> list[int]:
        loader = ActiveDataLoader(
            dataset=Dataset(candidates), batch_size=K, acquisition_function=chooser
        )
        return list(loader.next()[0])

    indices = benchmark.pedantic(choose, rounds=5, warmup_rounds=1)
    assert indices == select(*vectors, k=K, replace=True).indices.tolist()


@pytest.mark.benchmark(group=f"MMR, n={CANDIDATES}, d={DIMENSIONS}, k={K}")
def test_mmr(benchmark: BenchmarkFixture, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    selection = benchmark(mmr, *vectors, k=K)
    assert len(selection.indices) == K


@pytest.mark.benchmark(group=f"MMR, n={CANDIDATES}, d={DIMENSIONS}, k={K}")
def test_mmr_of_langchain(
    benchmark: BenchmarkFixture, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    query, candidates = vectors
    indices = benchmark(maximal_marginal_relevance, query, list(candidates), k=K)
    assert indices == mmr(query, candidates, k=K).indices.tolist()
