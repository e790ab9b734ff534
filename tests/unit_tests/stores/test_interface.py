"""Register adapters, and find the adapter of a store."""

from __future__ import annotations

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from unit_tests.stores.real_stores import (
    KINDS,
    LINEAR,
    QUERY,
    CountingEmbeddings,
    fill,
    make_chroma,
    make_store,
    texts_of,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import StoreError
from langchain_sift.stores import fetch_candidates, register_adapter
from langchain_sift.stores import interface as adapter
from langchain_sift.stores.adapters.in_memory import InMemoryAdapter
from langchain_sift.stores.interface import AsyncStoreAdapter, StoreAdapter, adapter_for


class Own(InMemoryVectorStore):
    """A store of a user's."""


class OwnChild(Own):
    """A subclass of the user's store."""


class Loud(InMemoryAdapter):
    """An adapter that records its calls."""

    def __init__(self, vectorstore):
        super().__init__(vectorstore)
        self.label = "Loud"


class Coroutines:
    """An adapter for coroutines only."""

    search_arguments = ("filter",)
    label = "Coroutines"

    def __init__(self, vectorstore):
        self._adapter = InMemoryAdapter(vectorstore)

    async def anearest(self, directions, count, *, timeout, **search):
        return self._adapter.nearest(directions, count, timeout=timeout, **search)

    async def apage(self, cursor, size, *, timeout, **search):
        return self._adapter.page(cursor, size, timeout=timeout, **search)

    def conjunction(self, first, second):
        return self._adapter.conjunction(first, second)


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch):
    monkeypatch.setattr(adapter, "_registered", {})


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_store_has_its_adapter(kind, embeddings, tmp_path):
    found = adapter_for(make_store(kind, embeddings, tmp_path))
    name = kind.split()[0].replace("VectorStore", "")
    assert type(found).__name__ == f"{name}Adapter"
    assert isinstance(found, StoreAdapter)
    assert kind.split()[0] in found.label


def test_a_subclass_of_a_store_has_the_same_adapter(embeddings):
    assert type(adapter_for(OwnChild(embeddings))) is InMemoryAdapter


def test_a_registered_adapter_serves_the_class_and_its_subclasses(embeddings):
    register_adapter(Own, Loud)
    assert adapter_for(Own(embeddings)).label == "Loud"
    assert adapter_for(OwnChild(embeddings)).label == "Loud"
    assert adapter_for(InMemoryVectorStore(embeddings)).label == "InMemoryVectorStore"
    with pytest.raises(ValueError, match="search in Loud: use one of"):
        SIFTRetriever(vectorstore=OwnChild(embeddings), search_kwargs={"wrong": 1})


def test_the_nearest_ancestor_takes_precedence(embeddings):
    register_adapter(OwnChild, Loud)
    register_adapter(Own, InMemoryAdapter)
    register_adapter(InMemoryVectorStore, InMemoryAdapter)
    assert adapter_for(OwnChild(embeddings)).label == "Loud"
    assert adapter_for(Own(embeddings)).label == "InMemoryVectorStore"


def test_a_registered_adapter_takes_precedence_over_a_built_in_one(embeddings):
    register_adapter(InMemoryVectorStore, Loud)
    assert adapter_for(InMemoryVectorStore(embeddings)).label == "Loud"
    assert adapter_for(make_chroma(embeddings)).label.startswith("Chroma")


def test_a_registration_applies_to_existing_retrievers(embeddings):
    store = fill(OwnChild(embeddings))
    retriever = SIFTRetriever(vectorstore=store, k=5)
    before = retriever.invoke(QUERY)
    made_for = []

    def make_adapter(vectorstore):
        made_for.append(vectorstore)
        return InMemoryAdapter(vectorstore)

    register_adapter(Own, make_adapter)
    assert retriever.invoke(QUERY) == before
    assert made_for == [store]


async def test_an_asynchronous_adapter_serves_coroutines_only(embeddings):
    store = fill(Own(embeddings))
    expected = SIFTRetriever(vectorstore=store, k=5, **LINEAR).invoke(QUERY)
    register_adapter(Own, Coroutines)
    assert isinstance(adapter_for(store), AsyncStoreAdapter)
    assert not isinstance(adapter_for(store), StoreAdapter)
    for search in ("nearest", "residual", "exhaustive"):
        settings = {"candidate_search": search, "step_fetch_k": 40}
        retriever = SIFTRetriever(vectorstore=store, k=5, **LINEAR, **settings)
        assert await retriever.ainvoke(QUERY) == expected
        assert await retriever.abatch([QUERY]) == [expected]
        with pytest.raises(StoreError, match="only coroutines can query Coroutines: use `ainv"):
            retriever.invoke(QUERY)
    with pytest.raises(StoreError, match="only coroutines can query Coroutines: open the store"):
        fetch_candidates(store, embeddings.vector(QUERY), fetch_k=5)


def test_filters_reach_a_registered_adapter(embeddings):
    register_adapter(Own, Loud)
    retriever = SIFTRetriever(vectorstore=fill(Own(embeddings)), k=3)
    found = retriever.invoke(QUERY, filter=lambda document: document.metadata["number"] == 5)
    assert texts_of(found) == ["fact 5"]


@pytest.mark.parametrize("other", [None, "a store", object()])
def test_an_object_that_is_no_vector_store_is_a_type_error(other):
    with pytest.raises(TypeError, match=f"a LangChain VectorStore, got {type(other).__name__}"):
        adapter_for(other)
