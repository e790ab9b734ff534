"""Candidates are gathered from several answers, each different text once."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
from langchain_core.documents import Document
from numpy.testing import assert_allclose, assert_array_equal

from langchain_sift.errors import DimensionMismatch, EmbeddingError
from langchain_sift.stores.candidates import CandidatePool, unit_rows, unit_vector

ROWS = np.eye(6)


def documents(*texts, ids=None):
    ids = ids or [str(uuid.uuid4()) for _ in texts]
    return [Document(id=id_, page_content=text) for id_, text in zip(ids, texts, strict=True)]


def texts_of(candidates):
    return [document.page_content for document in candidates.documents]


def test_a_pool_keeps_the_order_and_the_first_of_each_text():
    pool = CandidatePool(6)
    pool.add(documents("a", "b", "a"), ROWS[:3])
    pool.add(documents("c", "b"), ROWS[3:5])
    candidates = pool.candidates()
    assert texts_of(candidates) == ["a", "b", "c"]
    assert_array_equal(candidates.embeddings, ROWS[[0, 1, 3]])
    assert candidates.copies == (2, 2, 1)


def test_a_row_that_comes_again_is_no_further_copy():
    pool = CandidatePool(6)
    for _ in range(3):
        pool.add(documents("a", "a", ids=["first", "second"]), ROWS[:2])
    assert pool.candidates().copies == (2,)


def test_rows_without_an_id_are_as_many_as_one_answer_has():
    pool = CandidatePool(6)
    nameless = [Document(page_content=text) for text in ("a", "b", "a", "a")]
    pool.add(nameless, ROWS[:4])
    pool.add(nameless[:3], ROWS[:3])
    assert pool.candidates().copies == (3, 1)


def test_add_returns_the_vectors_of_those_that_are_new():
    pool = CandidatePool(6)
    assert_array_equal(pool.add(documents("a", "a", "b"), ROWS[:3]), ROWS[[0, 2]])
    assert_array_equal(pool.add(documents("b", "c"), ROWS[3:5]), ROWS[[4]])
    assert pool.add(documents("c"), ROWS[5:]).shape == (0, 6)


def test_a_limit_counts_different_texts_known_ones_too_and_still_counts_copies():
    pool = CandidatePool(6)
    pool.add(documents("a"), ROWS[:1])
    new = pool.add(documents("a", "b", "c", "b", ids=["1", "2", "3", "4"]), ROWS[1:5], limit=2)
    assert_array_equal(new, ROWS[[2]])
    candidates = pool.candidates()
    assert texts_of(candidates) == ["a", "b"]
    assert candidates.copies == (2, 2)


def test_a_pool_of_nothing_has_the_dimensions_it_was_made_for():
    candidates = CandidatePool(5).candidates()
    assert candidates.documents == candidates.copies == ()
    assert candidates.embeddings.shape == (0, 5)


def test_rows_are_scaled_to_norm_one_whatever_their_length():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5, 7)) * np.array([1e-100, 1e-3, 1, 1e3, 1e100])[:, None]
    units = unit_rows(rows, ["x"] * 5, 7)
    assert_allclose(np.linalg.norm(units, axis=1), 1.0, rtol=1e-14)
    assert_allclose(units * np.linalg.norm(rows, axis=1)[:, None], rows, rtol=1e-13)
    assert_allclose(unit_vector(rows[2]), units[2], rtol=1e-14)


@pytest.mark.parametrize(
    ("bad", "what"),
    [(0.0, "zero"), (math.nan, "NaN or infinite"), (math.inf, "NaN or infinite")],
)
def test_a_row_without_a_direction_is_named(bad, what):
    rows = np.ones((3, 4))
    rows[1] = bad
    with pytest.raises(EmbeddingError, match=f"the vector of second is {what}: embed that text"):
        unit_rows(rows, ["first", "second", "third"], 4)
    with pytest.raises(EmbeddingError, match=f"the vector of the query is {what}"):
        unit_vector(rows[1])


def test_rows_of_another_dimension_than_the_query_name_both():
    with pytest.raises(DimensionMismatch, match=r"query has 3 dim.* vectors have 4: open the sto"):
        unit_rows(np.ones((2, 4)), ["a", "b"], 3)
