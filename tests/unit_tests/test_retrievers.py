"""`SIFTRetriever` on a real store and model, and LangChain's own tests for retrievers."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, StoreError
from langchain_sift.selection import mmr, nearest_neighbors, select, uncertainty_sampling

QUERY = "Who repairs the broken clock near the border?"


class TestStandard(RetrieversIntegrationTests):
    """What LangChain asks of every retriever."""

    @pytest.fixture(autouse=True)
    def _use(self, store):
        self.store = store

    @property
    def retriever_constructor(self):
        return SIFTRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self):
        return QUERY


def by_hand(store, chooser=select, *, k=4, **arguments):
    """Choose from the whole store without the retriever; return the documents' ids."""
    rows = store.get(include=["embeddings"])
    vectors = np.array(rows["embeddings"], dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = np.array(store.embeddings.embed_query(QUERY))
    nearest_first = np.argsort(-(vectors @ query))  # of equals, the nearest is chosen
    chosen = chooser(query, vectors[nearest_first], k=k, **arguments).indices
    return [rows["ids"][nearest_first[index]] for index in chosen]


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.parametrize("noise_variance", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("replace", [False, True])
def test_the_documents_are_those_chosen_from_the_stored_vectors_in_that_order(
    store, noise_variance, replace
):
    retriever = SIFTRetriever(vectorstore=store, k=12, noise_variance=noise_variance)
    found = retriever.invoke(QUERY, replace=replace)
    expected = by_hand(store, k=12, noise_variance=noise_variance, replace=replace)
    assert ids(found) == expected


@pytest.mark.parametrize(
    ("search_type", "chooser"),
    [
        ("similarity", nearest_neighbors),
        ("mmr", mmr),
        ("uncertainty_sampling", uncertainty_sampling),
    ],
)
def test_another_search_type_is_another_method_in_its_own_order(store, search_type, chooser):
    retriever = SIFTRetriever(vectorstore=store, k=10, search_type=search_type)
    found = ids(retriever.invoke(QUERY))
    assert found == by_hand(store, chooser, k=10)
    assert found != ids(SIFTRetriever(vectorstore=store, k=10).invoke(QUERY))


def test_the_trade_off_of_mmr_is_a_setting_of_mmr_alone(store):
    settings = {"vectorstore": store, "search_kwargs": {"lambda_mult": 0.9}}
    found = SIFTRetriever(search_type="mmr", **settings).invoke(QUERY)
    assert ids(found) == by_hand(store, mmr, lambda_mult=0.9)
    with pytest.raises(ValidationError, match="'lambda_mult' is no setting of a 'sift' search"):
        SIFTRetriever(**settings)


def test_ids_and_metadata_come_as_stored_and_a_copy_may_be_changed(store, texts):
    retriever = SIFTRetriever(vectorstore=store)
    for document in retriever.invoke(QUERY):
        number = texts.index(document.page_content)
        assert document.id == f"text-{number}"
        assert document.metadata == {"number": number, "even": number % 2 == 0}
        document.metadata["number"] = "changed"
    assert all(isinstance(found.metadata["number"], int) for found in retriever.invoke(QUERY))


def test_a_setting_of_the_call_goes_before_search_kwargs_before_the_field(store):
    field = SIFTRetriever(vectorstore=store, k=2)
    both = SIFTRetriever(vectorstore=store, k=2, search_kwargs={"k": 3, "filter": {"even": True}})
    assert len(field.invoke(QUERY)) == 2
    assert len(both.invoke(QUERY)) == 3
    assert len(both.invoke(QUERY, k=5)) == 5
    assert len(both.invoke(QUERY)) == 3
    assert {found.metadata["even"] for found in both.invoke(QUERY)} == {True}
    odd = both.invoke(QUERY, filter={"even": False})
    assert {found.metadata["even"] for found in odd} == {False}


def test_fetch_k_is_how_many_are_chosen_from_and_is_raised_to_k(store):
    nearest = by_hand(store, nearest_neighbors, k=15)
    few = SIFTRetriever(vectorstore=store, k=4, fetch_k=6, search_type="uncertainty_sampling")
    assert set(ids(few.invoke(QUERY))) <= set(nearest[:6])
    found = few.invoke(QUERY, k=15, fetch_k=3)
    assert sorted(ids(found)) == sorted(nearest)
    assert len(SIFTRetriever(vectorstore=store, fetch_k=2).invoke(QUERY, k=9)) == 9


def test_more_than_the_store_holds_returns_each_once(store, texts):
    found = SIFTRetriever(vectorstore=store, k=500).invoke(QUERY)
    assert sorted(document.page_content for document in found) == sorted(texts)


def test_a_document_is_repeated_only_where_that_is_asked_for(store):
    retriever = SIFTRetriever(vectorstore=store, k=30, noise_variance=10.0)
    assert len(set(ids(retriever.invoke(QUERY)))) == 30
    assert len(set(ids(retriever.invoke(QUERY, replace=True)))) < 30


def test_stopping_returns_the_beginning_of_the_same_list(store):
    whole = SIFTRetriever(vectorstore=store, k=20, noise_variance=1.0)
    stopped = SIFTRetriever(vectorstore=store, k=20, noise_variance=1.0, stopping_alpha=0.5)
    found = ids(stopped.invoke(QUERY))
    assert 1 <= len(found) < 20
    assert found == ids(whole.invoke(QUERY))[: len(found)]


def test_a_misspelt_setting_is_an_error_wherever_it_is_given(store):
    with pytest.raises(ValidationError, match="fetch_kk"):
        SIFTRetriever(vectorstore=store, fetch_kk=9)
    with pytest.raises(ValidationError, match=r"'fetch_kk' is no setting.*'fetch_k'"):
        SIFTRetriever(vectorstore=store, search_kwargs={"fetch_kk": 9})
    with pytest.raises(ArgumentError, match=r"'fetch_kk' is no setting.*'fetch_k'"):
        SIFTRetriever(vectorstore=store).invoke(QUERY, fetch_kk=9)
    with pytest.raises(ValidationError, match=r"search_type must be one of \['sift', .*'shift'"):
        SIFTRetriever(vectorstore=store, search_type="shift")


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 0), ("k", -1), ("fetch_k", 0), ("noise_variance", 0.0), ("stopping_alpha", -1.0)],
)
def test_a_setting_out_of_range_is_named_when_it_is_given(store, name, value):
    with pytest.raises(ValidationError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store, **{name: value})
    with pytest.raises(ValidationError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store, search_kwargs={name: value})
    with pytest.raises(ArgumentError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store).invoke(QUERY, **{name: value})


@pytest.mark.parametrize("query", [None, 3, ["a"], {"question": "a"}])
def test_a_query_that_is_no_string_is_a_type_error(store, query):
    with pytest.raises(TypeError, match=f"must be a string, got {type(query).__name__}"):
        SIFTRetriever(vectorstore=store).invoke(query)


async def test_ainvoke_and_batch_return_what_invoke_returns(store):
    retriever = SIFTRetriever(vectorstore=store, k=6)
    queries = [QUERY, "seven maps at sea", "cold iron"]
    expected = [retriever.invoke(query) for query in queries]
    assert len({tuple(ids(found)) for found in expected}) == 3
    assert [await retriever.ainvoke(query) for query in queries] == expected
    assert retriever.batch(queries) == expected
    assert await retriever.abatch(queries) == expected
    with pytest.raises(ArgumentError, match="k must be"):
        await retriever.ainvoke(QUERY, k=0)


def test_a_store_without_an_embedding_function_says_how_to_open_it():
    bare = Chroma(collection_name=f"bare-{uuid.uuid4()}")
    with pytest.raises(StoreError, match="embedding_function="):
        SIFTRetriever(vectorstore=bare).invoke(QUERY)


def test_it_is_a_vector_store_retriever_that_adds_documents_and_runs_in_a_chain(store):
    retriever = SIFTRetriever(vectorstore=store, k=3)
    assert isinstance(retriever, VectorStoreRetriever)
    assert retriever.add_documents([Document(id="new", page_content=QUERY)]) == ["new"]
    chain = retriever | RunnableLambda(ids)
    assert chain.invoke(QUERY)[0] == "new"


def test_it_serves_in_an_ensemble(store):
    first = SIFTRetriever(vectorstore=store, k=3)
    second = SIFTRetriever(vectorstore=store, k=3, search_type="similarity")
    ensemble = EnsembleRetriever(retrievers=[first, second], weights=[0.5, 0.5])
    expected = {*ids(first.invoke(QUERY)), *ids(second.invoke(QUERY))}
    assert set(ids(ensemble.invoke(QUERY))) == expected


def test_two_calls_return_the_same(store):
    retriever = SIFTRetriever(vectorstore=store, k=20)
    assert retriever.invoke(QUERY) == retriever.invoke(QUERY)
