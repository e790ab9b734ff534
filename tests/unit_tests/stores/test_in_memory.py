"""Read from `InMemoryVectorStore`."""

from __future__ import annotations

import threading
from unittest import mock

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from unit_tests.stores.real_stores import (
    QUERY,
    TEXTS,
    CountingEmbeddings,
    fill,
    id_of,
    texts_of,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import DimensionMismatch, InvalidFilter
from langchain_sift.stores.adapters import in_memory
from langchain_sift.stores.interface import adapter_for


@pytest.fixture
def store():
    return fill(InMemoryVectorStore(CountingEmbeddings()))


def test_a_filter_sees_the_whole_document(store):
    retriever = SIFTRetriever(vectorstore=store, k=40)
    found = retriever.invoke(QUERY, filter=lambda document: document.page_content.endswith("7"))
    assert sorted(texts_of(found)) == ["fact 17", "fact 27", "fact 37", "fact 7"]


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_a_filter_must_be_a_function(store, search):
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search)
    with pytest.raises(InvalidFilter, match="with a function of a document, got dict"):
        retriever.invoke(QUERY, filter={"even": True})


@pytest.mark.parametrize("bad", [[0.0] * 8, [float("nan")] * 8])
def test_an_invalid_stored_vector_is_left_out_and_named_by_its_id(store, bad):
    store.store["the-bad-one"] = {
        "id": "the-bad-one",
        "text": "nothing",
        "vector": bad,
        "metadata": {},
    }
    with pytest.warns(UserWarning, match="left out, such as the-bad-one"):
        found = SIFTRetriever(vectorstore=store, k=100).invoke(QUERY)
    del store.store["the-bad-one"]
    expected = SIFTRetriever(vectorstore=store, k=100).invoke(QUERY)
    assert [document.id for document in found] == [document.id for document in expected]


@pytest.mark.parametrize("search", ["nearest", "exhaustive"])
def test_vectors_of_two_dimensions_are_named_with_the_cure(store, search):
    store.store["other"] = {**store.store[id_of(0)], "id": "other", "vector": [1.0, 2.0]}
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search)
    with pytest.raises(DimensionMismatch, match="of 2 and 8 dimensions: add its texts again"):
        retriever.invoke(QUERY)


def test_rows_can_be_added_during_a_search(store):
    retriever = SIFTRetriever(vectorstore=store, k=3)
    done = threading.Event()

    def add():
        for number in range(300):
            store.add_texts([f"later {number}"])
        done.set()

    adding = threading.Thread(target=add)
    adding.start()
    searches = 0
    while not done.is_set() or searches < 5:
        assert len(set(texts_of(retriever.invoke(QUERY)))) == 3
        searches += 1
    adding.join()
    everything = texts_of(retriever.invoke(QUERY, k=1000, candidate_search="exhaustive"))
    assert sorted(everything) == sorted([*TEXTS, *(f"later {number}" for number in range(300))])


def test_the_nearest_rows_are_those_of_brute_force_and_bad_ones_come_last(store):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((60, 8)) * rng.uniform(0.1, 20.0, (60, 1))
    vectors[40:50] = vectors[7]  # ties
    bad = [0.0, np.nan, np.inf, -np.inf, 1e-200, -1e-200, 1e200, -1e200, 0.0, np.nan]
    vectors[50:] = np.array(bad)[:, None]
    store.store = {
        str(row): {"id": str(row), "text": str(row), "vector": vector.tolist(), "metadata": None}
        for row, vector in enumerate(vectors)
    }
    directions = np.concatenate([rng.standard_normal((5, 8)), vectors[7:8]])
    units = vectors[:50] / np.linalg.norm(vectors[:50], axis=1, keepdims=True)
    for count in (1, 20, 50, 60):
        found = adapter_for(store).nearest(directions, count, timeout=1.0)
        for direction, rows in zip(directions, found, strict=True):
            numbers = [int(document.id) for document in rows.documents]
            np.testing.assert_array_equal(rows.vectors, vectors[numbers])
            assert rows.seen == count == len({*numbers})
            assert {*numbers[50:]} <= {*range(50, 60)}
            cosines = units[numbers[:50]] @ direction
            np.testing.assert_allclose(cosines, -np.sort(-units @ direction)[:count], rtol=1e-9)


def test_only_the_nearest_rows_become_documents():
    store = fill(InMemoryVectorStore(CountingEmbeddings()), [f"fact {n}" for n in range(300)])
    retriever = SIFTRetriever(vectorstore=store, k=3, fetch_k=20)
    with mock.patch.object(in_memory, "Document", side_effect=in_memory.Document) as made:
        assert len(retriever.batch([QUERY, QUERY])) == 2
    assert made.call_count == 20
