"""Read from a vector store without an adapter."""

from __future__ import annotations

import sqlite3
import warnings

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import VectorStore
from unit_tests.stores.real_stores import (
    LINEAR,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    id_of,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.stores.adapters import re_embedding

QUERIES = [QUERY, "why?", "when was it?", "who knows?"]


class ListStore(VectorStore):
    """A store with LangChain's methods only, which return no vectors."""

    def __init__(self, embeddings=None):
        self._embeddings = embeddings
        self._rows = []

    @property
    def embeddings(self):
        return self._embeddings

    def add_texts(self, texts, metadatas=None, *, ids=None, **_):
        texts = list(texts)
        vectors = self._embeddings.embed_documents(texts)
        for row in zip(ids, texts, metadatas, vectors, strict=True):
            self._rows.append(row)
        return ids

    def similarity_search_by_vector(self, embedding, k=4, *, smallest=0):
        nearest = sorted(self._rows, key=lambda row: -float(np.dot(unit(row[3]), embedding)))
        return [
            Document(id=id_, page_content=text, metadata=dict(metadata))
            for id_, text, metadata, _ in nearest
            if metadata["number"] >= smallest
        ][:k]

    def similarity_search(self, query, k=4, **arguments):
        return self.similarity_search_by_vector(self._embeddings.embed_query(query), k, **arguments)

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, *, ids=None, **_):
        store = cls(embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


@pytest.fixture
def store(embeddings, monkeypatch):
    monkeypatch.setattr(re_embedding, "_warned", {ListStore})
    return fill(ListStore(embeddings))


def test_the_choice_equals_brute_force(store, embeddings):
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=12)
    for query in QUERIES:
        found = retriever.invoke(query)
        expected = ByHand(embeddings).choice(embeddings.vector(query), k=6, fetch_k=12)
        assert texts_of(found) == expected
        assert [document.id for document in found] == [
            id_of(TEXTS.index(text)) for text in expected
        ]
        assert all(TEXTS[d.metadata["number"]] == d.page_content for d in found)


def test_a_residual_search_with_steps_as_large_as_the_store_chooses_from_all_of_it(
    store, embeddings
):
    settings = {"candidate_search": "residual", "step_fetch_k": len(TEXTS), **LINEAR}
    found = SIFTRetriever(vectorstore=store, k=6, **settings).invoke(QUERY)
    expected = ByHand(embeddings).linear_choice(embeddings.vector(QUERY), k=6, fetch_k=len(TEXTS))
    assert texts_of(found) == expected


class AnythingStore(ListStore):
    """A store whose search takes any argument, and ignores those that it does not know."""

    def similarity_search_by_vector(self, embedding, k=4, *, smallest=0, **_):
        return super().similarity_search_by_vector(embedding, k, smallest=smallest)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("score_threshold", "min_similarity"),
        ("min_similarty", "did you mean 'min_similarity'"),
        ("noise_varianc", "did you mean 'noise_variance'"),
        ("lambda_mult", "use search_type='mmr'"),
    ],
)
def test_a_misspelt_setting_is_an_error_even_if_the_store_takes_any(
    embeddings, monkeypatch, name, instead
):
    monkeypatch.setattr(re_embedding, "_warned", {AnythingStore})
    store = fill(AnythingStore(embeddings))
    with pytest.raises(ArgumentError, match=f"{name!r} is no setting .*{instead}"):
        SIFTRetriever(vectorstore=store).invoke(QUERY, **{name: 0.5})
    retriever = SIFTRetriever(vectorstore=store, search_kwargs={"smallest": 20, "namespace": "x"})
    assert all(document.metadata["number"] >= 20 for document in retriever.invoke(QUERY))


@pytest.mark.slow
@pytest.mark.parametrize("search", ["nearest", "residual"])
def test_each_different_text_is_embedded_once(store, embeddings, search):
    store.add_texts(TEXTS, [{"number": -1} for _ in TEXTS], ids=[f"copy of {t}" for t in TEXTS])
    retriever = SIFTRetriever(
        vectorstore=store, k=5, fetch_k=12, candidate_search=search, step_fetch_k=4
    )
    for _ in range(2):
        with embeddings.counting():
            candidates = retriever.retrieve_with_scores(QUERY).candidates
        assert embeddings.queries == [QUERY]
        assert len(embeddings.documents) == len(set(embeddings.documents)) >= candidates


def test_a_batch_embeds_each_text_once(store, embeddings):
    retriever = SIFTRetriever(vectorstore=store, k=5, fetch_k=12)
    expected = [retriever.invoke(query) for query in QUERIES]
    with embeddings.counting():
        assert retriever.batch(QUERIES) == expected
    assert len(embeddings.documents) == len(set(embeddings.documents))


def test_each_class_of_stores_is_warned_about_once(embeddings, monkeypatch):
    monkeypatch.setattr(re_embedding, "_warned", set())

    class Other(ListStore):
        pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in (ListStore, Other, ListStore, Other):
            retriever = SIFTRetriever(vectorstore=fill(kind(embeddings)))
            for query in QUERIES:
                retriever.invoke(query)
    assert [warning.category for warning in caught] == [UserWarning, UserWarning]
    for warning, name in zip(caught, ("ListStore", "Other"), strict=True):
        assert f"the vectors of a {name} cannot be read" in str(warning.message)
        assert "register_adapter" in str(warning.message)


def test_unknown_arguments_are_passed_on_to_the_store(store, embeddings):
    late = ByHand(embeddings, TEXTS[20:])
    expected = late.choice(embeddings.vector(QUERY), k=5, fetch_k=len(TEXTS))
    retriever = SIFTRetriever(vectorstore=store, search_kwargs={"k": 5, "smallest": 20})
    assert texts_of(retriever.invoke(QUERY)) == expected
    assert retriever.invoke(QUERY, smallest=99) == []
    with pytest.raises(StoreError, match="ListStore: search failed: TypeError"):
        retriever.invoke(QUERY, largest=3)


def test_an_exhaustive_search_is_not_supported(store):
    retriever = SIFTRetriever(vectorstore=store, candidate_search="exhaustive")
    with pytest.raises(StoreError, match="ListStore cannot be read from end to end: use another"):
        retriever.invoke(QUERY)


def test_filters_cannot_be_joined(store):
    settings = {"search_kwargs": {"filter": "tenant = 1"}, "require_filter": True}
    with pytest.raises(ArgumentError, match=r"filters of a ListStore cannot be joined"):
        SIFTRetriever(vectorstore=store, **settings).invoke(QUERY, filter="year = 2024")


def test_a_store_that_cannot_be_searched_by_vector_is_named_with_the_cure(store, monkeypatch):
    monkeypatch.delattr(ListStore, "similarity_search_by_vector")
    monkeypatch.setattr(re_embedding, "_warned", set())
    # No warning says that its documents are embedded again.
    with pytest.raises(StoreError, match="cannot be searched by vector: put a SIFTReranker over"):
        SIFTRetriever(vectorstore=store).invoke(QUERY)


def test_a_store_without_embeddings_is_a_store_error(store, embeddings):
    store._embeddings = None
    with pytest.raises(StoreError, match="no embedding function"):
        SIFTRetriever(vectorstore=store).invoke(QUERY)
    with pytest.raises(StoreError, match="no embedding function, and its vectors cannot be read"):
        SIFTRetriever(vectorstore=store, query_embedder=embeddings).invoke(QUERY)


def test_an_empty_store_returns_no_documents(embeddings, monkeypatch):
    monkeypatch.setattr(re_embedding, "_warned", {ListStore})
    with embeddings.counting():
        assert SIFTRetriever(vectorstore=ListStore(embeddings)).invoke(QUERY) == []
    assert embeddings.documents == []


class ListStoreOfCoroutines(ListStore):
    """The same store, for coroutines only."""

    def similarity_search_by_vector(self, embedding, k=4, **arguments):
        raise NotImplementedError

    async def asimilarity_search_by_vector(self, embedding, k=4, **arguments):
        return ListStore.similarity_search_by_vector(self, embedding, k, **arguments)


@pytest.mark.filterwarnings("ignore:the vectors of a ListStoreOfCoroutines")
async def test_the_store_s_coroutines_are_used(store, embeddings):
    expected = SIFTRetriever(vectorstore=store, k=5, fetch_k=9)
    of_coroutines = ListStoreOfCoroutines(embeddings)
    of_coroutines._rows = store._rows
    retriever = SIFTRetriever(vectorstore=of_coroutines, k=5, fetch_k=9)
    for query in QUERIES:
        assert await retriever.ainvoke(query) == expected.invoke(query)
    assert await retriever.abatch(QUERIES) == expected.batch(QUERIES)
    with pytest.raises(StoreError, match="cannot be searched by vector"):
        retriever.invoke(QUERY)


class ListStoreInSQLite(ListStore):
    """A store that only the thread that opened it can query."""

    def __init__(self, embeddings):
        super().__init__(embeddings)
        self._connection = sqlite3.connect(":memory:")

    def similarity_search_by_vector(self, embedding, k=4, **arguments):
        self._connection.execute("select 1")
        return super().similarity_search_by_vector(embedding, k, **arguments)


@pytest.mark.filterwarnings("ignore:the vectors of a ListStoreInSQLite")
def test_a_store_of_one_thread_raises_an_error_with_the_cure(embeddings):
    store = ListStoreInSQLite(embeddings)
    with pytest.raises(StoreError, match="check_same_thread=False"):
        SIFTRetriever(vectorstore=store).invoke(QUERY)
    store._connection.close()


class BoundToThread(Embeddings):
    """Embeddings, and a retriever, that only the thread that opened them can use."""

    def __init__(self):
        self.connection = sqlite3.connect(":memory:")

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return [len(text), *self.connection.execute("select 1").fetchone()]

    def invoke(self, query):
        return [Document(str(self.embed_query(query)))]


@pytest.mark.filterwarnings("ignore:the vectors of a ListStore")
async def test_other_objects_of_one_thread_raise_it_too(store):
    bound = BoundToThread()
    for settings in (
        {"query_embedder": bound},
        {"second_retriever": RunnableLambda(bound.invoke)},
    ):
        retriever = SIFTRetriever(vectorstore=store, k=2, **settings)
        with pytest.raises(StoreError, match=r"opened .* give .*check_same_thread=False"):
            await retriever.ainvoke(QUERY)
    bound.connection.close()


def test_a_text_that_cannot_be_embedded_fails_its_query_only(store, embeddings, monkeypatch):
    retriever = SIFTRetriever(vectorstore=store, k=2, fetch_k=2)
    expected = retriever.batch(QUERIES)
    others = {document.page_content for found in expected[1:] for document in found}
    bad = next(d.page_content for d in expected[0] if d.page_content not in others)
    embed = embeddings.embed_documents

    def embed_documents(texts):
        if bad in texts:
            raise OSError
        return embed(texts)

    monkeypatch.setattr(embeddings, "embed_documents", embed_documents)
    first, *rest = retriever.batch(QUERIES, return_exceptions=True)
    assert type(first) is StoreError
    assert rest == expected[1:]
