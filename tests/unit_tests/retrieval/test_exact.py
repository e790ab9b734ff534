"""Search candidates in memory, and choose among them as from a store."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.testing import assert_array_equal
from unit_tests.stores.real_stores import QUERY, TEXTS, CountingEmbeddings, fill

from langchain_sift.errors import DimensionMismatch
from langchain_sift.retrieval.choosing import choose
from langchain_sift.retrieval.exact import ExactIndex, choose_exactly
from langchain_sift.retrieval.queries import Query
from langchain_sift.retrieval.settings import RetrievalSettings
from langchain_sift.selection import SELECTORS, select, select_residual
from langchain_sift.selection.greedy import method_of
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.interface import Nearest, Page, adapter_for


@pytest.fixture
def embeddings():
    return CountingEmbeddings(lengths=(0.5, 1.0, 3.0))


@pytest.fixture
def index(embeddings):
    vectors = embeddings.vectors(TEXTS)
    units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    documents = tuple(Document(text, id=str(row)) for row, text in enumerate(TEXTS))
    return ExactIndex(Candidates(documents, units, (1,) * len(TEXTS)))


def settings(method=select, *, k=6, replace=False, **changes):
    selection = SelectionSettings(k=k, noise_variance=0.1, replace=replace)
    return RetrievalSettings(
        **{"method": method_of(method), "selection": selection, "fetch_k": 12, **changes}
    )


def test_the_nearest_rows_are_those_of_the_highest_cosines(index):
    units = index.candidates.embeddings
    for seed in range(20):
        direction = np.random.default_rng(seed).standard_normal(units.shape[1])
        expected = np.argsort(-(units @ direction), kind="stable")
        for count in (1, 7, 39, 40, 99):
            assert_array_equal(index.nearest(direction, count), expected[:count])


def test_of_equal_cosines_the_first_row_wins():
    documents = tuple(Document(text) for text in "abcde")
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    index = ExactIndex(Candidates(documents, vectors, (1,) * 5))
    assert index.nearest(np.array([1.0, 0.0]), 2).tolist() == [0, 2]
    assert index.nearest(np.array([0.0, 2.0]), 4).tolist() == [1, 3, 0, 2]


def test_requests_are_answered_with_the_vectors_unchanged(index):
    units = index.candidates.embeddings
    directions = units[:3]
    for direction, rows in zip(directions, index.answer(Nearest(directions, 5)), strict=True):
        assert rows.are_units
        assert_array_equal(rows.vectors, units[index.nearest(direction, 5)])
    assert index.answer(Page(None, 7)) == (index.candidates, None)


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("search", ["nearest", "exhaustive"])
def test_the_choice_is_that_of_the_method_among_the_nearest_rows(index, embeddings, method, search):
    query = embeddings.vector(QUERY)
    unit, units = query / np.linalg.norm(query), index.candidates.embeddings
    rows = index.nearest(unit, 12) if search == "nearest" else np.arange(len(TEXTS))
    chosen = SELECTORS[method](unit, units[rows], k=6, noise_variance=0.1, replace=True)
    choice = choose_exactly(
        index, settings(SELECTORS[method], candidate_search=search, replace=True), query[None]
    )
    assert choice.candidates is index.candidates
    assert_array_equal(choice.selection.indices, rows[chosen.indices])
    assert_array_equal(choice.selection.gains, chosen.gains)
    assert_array_equal(choice.selection.posterior_variances, chosen.posterior_variances)
    assert [document.page_content for document in choice.documents()] == [
        TEXTS[row] for row in rows[chosen.indices]
    ]


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_a_query_of_another_dimension_names_both(index, search):
    with pytest.raises(DimensionMismatch, match=r"query has 3 dim.* candidates have 8: embed both"):
        choose_exactly(index, settings(candidate_search=search), np.ones((1, 3)))


def test_the_residual_choice_is_that_of_select_residual(index, embeddings):
    query = embeddings.vector(QUERY)
    units, known = index.candidates.embeddings, []

    def search(directions, count):
        new = []
        for direction in directions:
            new += [
                row
                for row in index.nearest(direction, count).tolist()
                if row not in known and row not in new
            ]
        known.extend(new)
        return units[new]

    unit = query / np.linalg.norm(query)
    chosen = select_residual(unit, search, k=8, noise_variance=0.1, replace=True)
    choice = choose_exactly(
        index, settings(k=8, candidate_search="residual", replace=True), query[None]
    )
    assert_array_equal(choice.selection.indices, np.array(known)[chosen.indices])
    assert_array_equal(choice.selection.gains, chosen.gains)


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_the_choice_is_that_from_a_store_of_the_same_rows(index, embeddings, search):
    store = fill(InMemoryVectorStore(embeddings))
    queries = embeddings.vectors([QUERY, "why?"])
    changes = settings(candidate_search=search, search={"filter": None})
    expected = choose(adapter_for(store), changes, Query(queries))
    found = choose_exactly(index, changes, queries)
    texts = [[d.page_content for d in choice.documents()] for choice in (expected, found)]
    assert texts[0] == texts[1]
    np.testing.assert_allclose(found.selection.gains, expected.selection.gains, atol=1e-12)
