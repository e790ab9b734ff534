"""Read from `InMemoryVectorStore`."""

from __future__ import annotations

import threading

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
