"""Reject bad input with a typed error that names the value and the row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from langchain_sift.errors import ArgumentError, EmbeddingError, SIFTError
from langchain_sift.selection import SELECTORS

QUERY, CANDIDATES = np.array([1.0, 2.0, 3.0]), np.eye(3)
BAD_ARGUMENTS = [
    ("k", 0, "k must be an integer of at least 1, got 0"),
    ("k", -3, "k must be an integer of at least 1, got -3"),
    ("k", True, "k must be an integer of at least 1, got True"),
    ("k", 2.0, r"k must be an integer of at least 1, got 2\.0"),
    ("noise_variance", 0.0, r"noise_variance must be positive and finite, got 0\.0"),
    ("noise_variance", -1.0, r"noise_variance must be positive and finite, got -1\.0"),
    ("noise_variance", 5e-324, "noise_variance must be at least 1e-12, got 5e-324"),
    ("noise_variance", math.nan, "noise_variance must be positive and finite, got nan"),
    ("noise_variance", math.inf, "noise_variance must be positive and finite, got inf"),
    ("stopping_alpha", 0.0, r"stopping_alpha must be positive and finite, or None, got 0\.0"),
    ("stopping_alpha", -2.0, r"stopping_alpha must be positive and finite, or None, got -2\.0"),
    ("stopping_alpha", math.nan, "stopping_alpha must be positive and finite, or None, got nan"),
]


@pytest.fixture(params=sorted(SELECTORS))
def selector(request):
    return SELECTORS[request.param]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ARGUMENTS)
def test_an_argument_out_of_range_is_named_with_its_value(selector, name, value, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        selector(QUERY, CANDIDATES, **{"k": 2, name: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SIFTError)


@pytest.mark.parametrize("name", ["k", "noise_variance"])
def test_arguments_are_checked_without_candidates(selector, name):
    with pytest.raises(ArgumentError, match=f"{name} must be"):
        selector(QUERY, np.empty((0, 3)), **{"k": 2, name: 0})


def test_numpy_integers_count_as_integers(selector):
    assert len(selector(QUERY, CANDIDATES, k=np.int64(2)).indices) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_vector_that_is_not_finite_is_named_by_its_row(selector, bad, library):
    convert = np.asarray if library == "numpy" else pytest.importorskip("torch").asarray
    candidates, queries = np.eye(3), np.ones((2, 3))
    candidates[2, 1] = queries[1, 0] = bad
    with pytest.raises(EmbeddingError, match=r"candidate_embeddings must be finite.* in row 2"):
        selector(convert(QUERY), convert(candidates), k=2)
    with pytest.raises(EmbeddingError, match=r"query_embeddings must be finite.* in row 1"):
        selector(convert(queries), convert(np.eye(3)), k=2)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_zero_vector_is_named_by_its_row(selector, library):
    convert = np.asarray if library == "numpy" else pytest.importorskip("torch").asarray
    candidates = np.eye(3)
    candidates[1] = 0.0
    with pytest.raises(EmbeddingError, match=r"candidate_embeddings must not be zero.* in row 1"):
        selector(convert(QUERY), convert(candidates), k=2)
    with pytest.raises(EmbeddingError, match=r"query_embeddings must not be zero.* in row 0"):
        selector(convert(np.zeros(3)), convert(np.eye(3)), k=2)


def test_vectors_of_another_dimension_are_named_with_both_dimensions(selector):
    with pytest.raises(EmbeddingError, match="query has 3 dimensions and the candidates have 4"):
        selector(QUERY, np.eye(4), k=2)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_candidates_that_are_no_matrix_are_named_with_their_shape(selector, shape):
    with pytest.raises(EmbeddingError, match=r"candidate_embeddings must have shape \(n, d\)"):
        selector(QUERY, np.ones(shape), k=2)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1, 3), ()])
def test_queries_that_are_no_matrix_are_named_with_their_shape(selector, shape):
    with pytest.raises(EmbeddingError, match=r"query_embeddings must have shape .* got \("):
        selector(np.ones(shape), CANDIDATES, k=2)


def test_neither_argument_is_written_to(selector):
    query, candidates = QUERY.copy(), np.arange(1.0, 13.0).reshape(4, 3)
    before = candidates.copy()
    selector(query, candidates, k=4)
    assert (query == QUERY).all()
    assert (candidates == before).all()


def test_a_length_that_single_precision_cannot_square_is_named(selector):
    candidates = np.eye(3, dtype=np.float32)
    candidates[1, 1] = 1e-30
    with pytest.raises(EmbeddingError, match=r"about unit norm, .* in row 1"):
        selector(np.float32(QUERY), candidates, k=2)


def test_an_empty_list_is_no_candidates(selector):
    assert len(selector(QUERY, [], k=2).indices) == 0


def test_rows_of_different_lengths_are_refused(selector):
    with pytest.raises(EmbeddingError, match="as many in each row"):
        selector(QUERY, [[1.0], [1.0, 2.0, 3.0]], k=1)
