"""Retrieve with `SIFTRetriever` from real stores; LangChain's tests of retrievers."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError
from reference import retrieval
from unit_tests.stores.real_stores import (
    TEXTS,
    CountingEmbeddings,
    fill,
    make_chroma,
    make_faiss,
    make_qdrant,
    texts_of,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import (
    ArgumentError,
    EmbeddingError,
    InvalidFilter,
    StoreError,
    StoreTimeout,
)
from langchain_sift.selection import mmr, nearest_neighbors, select, uncertainty_sampling
from langchain_sift.stores.interface import adapter_for

QUERY = "Who repairs the broken clock near the border?"


class TestStandard(RetrieversIntegrationTests):
    """LangChain's standard tests of retrievers."""

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


def by_formula(query, vectors, **arguments):
    return SimpleNamespace(indices=retrieval(query[None], vectors, **arguments)[0])


def by_hand(store, chooser, *, k=4, **arguments):
    """Choose from the whole store without the retriever; return the ids."""
    rows = store.get(include=["embeddings"])
    vectors = np.array(rows["embeddings"], dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = np.array(store.embeddings.embed_query(QUERY))
    query /= np.linalg.norm(query)
    nearest_first = np.argsort(-(vectors @ query))  # of equals, the nearest is chosen
    chosen = chooser(query, vectors[nearest_first], k=k, **arguments).indices
    return [rows["ids"][nearest_first[index]] for index in chosen]


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.parametrize("noise_variance", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("replace", [False, True])
def test_the_documents_come_in_the_order_of_choice(store, noise_variance, replace):
    chooser = partial(select, replace=True) if replace else by_formula
    retriever = SIFTRetriever(vectorstore=store, k=12, noise_variance=noise_variance)
    found = retriever.invoke(QUERY, replace=replace)
    expected = by_hand(store, chooser, k=12, noise_variance=noise_variance)
    assert ids(found) == expected


@pytest.mark.parametrize(
    ("search_type", "chooser"),
    [
        ("similarity", nearest_neighbors),
        ("mmr", mmr),
        ("uncertainty_sampling", uncertainty_sampling),
    ],
)
def test_each_search_type_keeps_its_order_of_choice(store, search_type, chooser):
    settings = {"k": 10, "noise_variance": 0.01}
    retriever = SIFTRetriever(vectorstore=store, search_type=search_type, **settings)
    found = ids(retriever.invoke(QUERY))
    assert found == by_hand(store, chooser, **settings)
    assert found != ids(SIFTRetriever(vectorstore=store, **settings).invoke(QUERY))


def test_lambda_mult_is_a_setting_of_mmr_only(store):
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


def test_precedence_is_call_then_search_kwargs_then_field(store):
    field = SIFTRetriever(vectorstore=store, k=2)
    both = SIFTRetriever(vectorstore=store, k=2, search_kwargs={"k": 3, "filter": {"even": True}})
    assert len(field.invoke(QUERY)) == 2
    assert len(both.invoke(QUERY)) == 3
    assert len(both.invoke(QUERY, k=5)) == 5
    assert len(both.invoke(QUERY)) == 3
    assert {found.metadata["even"] for found in both.invoke(QUERY)} == {True}
    odd = both.invoke(QUERY, filter={"even": False})
    assert {found.metadata["even"] for found in odd} == {False}


def test_fetch_k_limits_the_candidates_and_is_at_least_k(store):
    nearest = by_hand(store, nearest_neighbors, k=15)
    few = SIFTRetriever(vectorstore=store, k=4, fetch_k=6, search_type="uncertainty_sampling")
    assert set(ids(few.invoke(QUERY))) <= set(nearest[:6])
    found = few.invoke(QUERY, k=15, fetch_k=3)
    assert sorted(ids(found)) == sorted(nearest)
    assert len(SIFTRetriever(vectorstore=store, fetch_k=2).invoke(QUERY, k=9)) == 9


def test_a_k_above_the_number_of_rows_returns_each_once(store, texts):
    found = SIFTRetriever(vectorstore=store, k=500).invoke(QUERY)
    assert sorted(document.page_content for document in found) == sorted(texts)


def test_documents_are_repeated_only_with_replace(store):
    retriever = SIFTRetriever(vectorstore=store, k=30, noise_variance=10.0)
    assert len(set(ids(retriever.invoke(QUERY)))) == 30
    assert len(set(ids(retriever.invoke(QUERY, replace=True)))) < 30


def test_stopping_returns_the_beginning_of_the_same_list(store):
    whole = SIFTRetriever(vectorstore=store, k=20, noise_variance=1.0)
    stopped = SIFTRetriever(vectorstore=store, k=20, noise_variance=1.0, stopping_alpha=0.5)
    found = ids(stopped.invoke(QUERY))
    assert 1 <= len(found) < 20
    assert found == ids(whole.invoke(QUERY))[: len(found)]


def test_a_misspelt_setting_is_an_error_everywhere(store):
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
def test_a_setting_out_of_range_is_named(store, name, value):
    with pytest.raises(ValidationError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store, **{name: value})
    with pytest.raises(ValidationError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store, search_kwargs={name: value})
    with pytest.raises(ArgumentError, match=f"{name} must be .* got {value}"):
        SIFTRetriever(vectorstore=store).invoke(QUERY, **{name: value})


@pytest.mark.parametrize("query", [None, 3, ["a"], {"question": "a"}])
def test_a_query_must_be_a_string(store, query):
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


def test_a_store_without_embeddings_raises_an_error_with_the_cure():
    bare = Chroma(collection_name=f"bare-{uuid.uuid4()}")
    with pytest.raises(StoreError, match="embedding_function="):
        SIFTRetriever(vectorstore=bare).invoke(QUERY)


def test_the_retriever_adds_documents_and_runs_in_a_chain(store):
    retriever = SIFTRetriever(vectorstore=store, k=3)
    assert isinstance(retriever, VectorStoreRetriever)
    assert retriever.add_documents([Document(id="new", page_content=QUERY)]) == ["new"]
    chain = retriever | RunnableLambda(ids)
    assert chain.invoke(QUERY)[0] == "new"


def test_the_retriever_works_in_an_ensemble(store):
    first = SIFTRetriever(vectorstore=store, k=3)
    second = SIFTRetriever(vectorstore=store, k=3, search_type="similarity")
    ensemble = EnsembleRetriever(retrievers=[first, second], weights=[0.5, 0.5])
    expected = {*ids(first.invoke(QUERY)), *ids(second.invoke(QUERY))}
    assert set(ids(ensemble.invoke(QUERY))) == expected


def test_two_calls_return_the_same(store):
    retriever = SIFTRetriever(vectorstore=store, k=20)
    assert retriever.invoke(QUERY) == retriever.invoke(QUERY)


# From here on a store whose vectors are drawn from the texts, without a model.

LONG = "what is it? where was it? who did it?"


@pytest.fixture
def drawn():
    return CountingEmbeddings()


@pytest.fixture
def facts(drawn):
    return fill(InMemoryVectorStore(drawn))


def sentences(query):
    return [f"{part}?" for part in query.split("?") if part.strip()]


def even(document):
    return document.metadata["even"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("k", [2, 3, 5]),
        ("fetch_k", [7, 11, 13]),
        ("noise_variance", [0.01, 0.5, 9.0]),
        ("stopping_alpha", [0.2, 1.5, 20.0]),
        ("candidate_search", ["nearest", "residual", "exhaustive"]),
        ("step_fetch_k", [1, 2, 5]),
    ],
)
async def test_each_setting_is_a_field_a_search_kwarg_or_an_argument_of_the_call(
    facts, name, values
):
    always = {"k": 6, "fetch_k": 20, "noise_variance": 0.01}
    if name == "step_fetch_k":
        always["candidate_search"] = "residual"
    always.pop(name, None)

    def made(*, field=None, kwarg=None):
        fields = {} if field is None else {name: field}
        kwargs = {} if kwarg is None else {name: kwarg}
        return SIFTRetriever(vectorstore=facts, search_kwargs=kwargs, **{**always, **fields})

    expected = [made(field=value).retrieve_with_scores(QUERY) for value in values]
    assert all(one != other for one in expected for other in expected if one is not other)
    first, second, third = values
    both = made(field=first, kwarg=second)
    assert both.retrieve_with_scores(QUERY) == expected[1]
    assert both.retrieve_with_scores(QUERY, **{name: third}) == expected[2]
    assert await both.aretrieve_with_scores(QUERY, **{name: third}) == expected[2]
    assert both.invoke(QUERY, **{name: third}) == expected[2].documents
    assert both.batch([QUERY], **{name: third}) == [expected[2].documents]
    assert both.retrieve_with_scores(QUERY) == expected[1]
    assert made(field=first).retrieve_with_scores(QUERY, **{name: third}) == expected[2]
    assert made(kwarg=second).retrieve_with_scores(QUERY) == expected[1]
    assert made().retrieve_with_scores(QUERY, **{name: first}) == expected[0]


def test_precedence_holds_for_the_timeout(facts):
    never = 1e-9
    for settings, call in (
        ({"timeout": never}, {}),
        ({"timeout": 9.0, "search_kwargs": {"timeout": never}}, {}),
        ({"timeout": 9.0, "search_kwargs": {"timeout": 9.0}}, {"timeout": never}),
    ):
        with pytest.raises(StoreTimeout):
            SIFTRetriever(vectorstore=facts, **settings).invoke(QUERY, **call)
    for settings, call in (
        ({"timeout": never, "search_kwargs": {"timeout": 9.0}}, {}),
        ({"timeout": never, "search_kwargs": {"timeout": never}}, {"timeout": 9}),
    ):
        assert len(SIFTRetriever(vectorstore=facts, **settings).invoke(QUERY, **call)) == 4


@pytest.mark.parametrize("name", ["k", "fetch_k", "step_fetch_k"])
@pytest.mark.parametrize("value", [True, False, 2.0, "3"])
def test_numbers_of_documents_must_be_integers(facts, name, value):
    with pytest.raises(ValidationError, match="valid integer"):
        SIFTRetriever(vectorstore=facts, **{name: value})
    problem = f"{name} must be an integer of at least 1, got {value!r}"
    with pytest.raises(ValidationError, match=problem):
        SIFTRetriever(vectorstore=facts, search_kwargs={name: value})
    with pytest.raises(ArgumentError, match=problem):
        SIFTRetriever(vectorstore=facts).invoke(QUERY, **{name: value})


@pytest.mark.parametrize("name", ["k", "fetch_k", "step_fetch_k"])
def test_a_number_that_no_store_counts_to_is_named_with_the_cure(name):
    store = fill(make_chroma(CountingEmbeddings()))
    retriever = SIFTRetriever(vectorstore=store)
    with pytest.raises(
        ArgumentError, match=rf"{name} must be below 2\*\*31, got 1{'0' * 12}: pass"
    ):
        retriever.invoke(QUERY, **{name: 10**12})
    assert len(retriever.invoke(QUERY, k=10**6)) == len(TEXTS)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), "9", None])
def test_a_timeout_must_be_a_positive_number_of_seconds(facts, timeout):
    with pytest.raises(ArgumentError, match="timeout must be a positive number of seconds, got"):
        SIFTRetriever(vectorstore=facts).invoke(QUERY, timeout=timeout)


def test_an_unknown_candidate_search_is_an_error_that_lists_all(facts):
    problem = r"candidate_search must be one of \['nearest', .*, 'exhaustive'\], got 'all'"
    with pytest.raises(ValidationError, match=problem):
        SIFTRetriever(vectorstore=facts, candidate_search="all")
    with pytest.raises(ArgumentError, match=problem):
        SIFTRetriever(vectorstore=facts).invoke(QUERY, candidate_search="all")


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "uncertainty_sampling"])
def test_a_residual_search_needs_sift(facts, search_type):
    search = "residual"
    problem = f"candidate_search 'residual' needs search_type 'sift', got {search_type!r}"
    with pytest.raises(ValidationError, match=problem):
        SIFTRetriever(vectorstore=facts, search_type=search_type, candidate_search=search)
    with pytest.raises(ArgumentError, match=problem):
        SIFTRetriever(vectorstore=facts, search_type=search_type).invoke(
            QUERY, candidate_search=search
        )
    retriever = SIFTRetriever(vectorstore=facts, candidate_search=search)
    retriever.search_type = search_type
    with pytest.raises(ArgumentError, match=problem):
        retriever.invoke(QUERY)


async def test_an_invalid_assignment_is_an_error_at_the_next_call(facts):
    retriever = SIFTRetriever(vectorstore=facts)
    retriever.search_type = "shift"
    problem = r"search_type must be one of \['sift', .*\], got 'shift'"
    with pytest.raises(ArgumentError, match=problem):
        retriever.invoke(QUERY)
    with pytest.raises(ArgumentError, match=problem):
        await retriever.ainvoke(QUERY)
    with pytest.raises(ArgumentError, match=problem):
        retriever.retrieve_with_scores(QUERY)
    retriever.search_type = "mmr"
    assert len(retriever.invoke(QUERY)) == 4
    retriever.search_kwargs["fetchk"] = 3
    with pytest.raises(ArgumentError, match="'fetchk' is no setting of a 'mmr' search"):
        retriever.invoke(QUERY)


ALLOWED = [
    *("k", "fetch_k", "noise_variance", "stopping_alpha", "candidate_search", "step_fetch_k"),
    *("timeout", "replace", "filter"),
]


@pytest.mark.parametrize("name", ["kk", "lambda_", "query_splitter", "where_document"])
async def test_a_misspelt_setting_of_a_call_is_an_error_that_lists_all(facts, drawn, name):
    retriever = SIFTRetriever(vectorstore=facts)
    vector = drawn.vector(QUERY).tolist()
    problem = f"{name!r} is no setting of a 'sift' search in InMemoryVectorStore"
    for call in (
        lambda: retriever.invoke(QUERY, **{name: 1}),
        lambda: retriever.batch([QUERY], **{name: 1}),
        lambda: retriever.retrieve_with_scores(QUERY, **{name: 1}),
        lambda: retriever.retrieve_by_vector(vector, **{name: 1}),
        lambda: retriever.retrieve_by_vectors([vector], **{name: 1}),
        lambda: retriever.bind(**{name: 1}).invoke(QUERY),
    ):
        with pytest.raises(ArgumentError, match=problem) as caught:
            call()
        assert all(repr(allowed) in str(caught.value) for allowed in ALLOWED)
    for coroutine in (
        retriever.ainvoke(QUERY, **{name: 1}),
        retriever.abatch([QUERY], **{name: 1}),
        retriever.aretrieve_with_scores(QUERY, **{name: 1}),
        retriever.aretrieve_by_vector(vector, **{name: 1}),
        retriever.aretrieve_by_vectors([vector], **{name: 1}),
    ):
        with pytest.raises(ArgumentError, match=problem):
            await coroutine


def test_a_misspelt_field_is_an_error_that_lists_all(facts):
    with pytest.raises(ValidationError, match="'kk' is no setting of SIFTRetriever") as caught:
        SIFTRetriever(vectorstore=facts, kk=3)
    assert all(repr(name) in str(caught.value) for name in SIFTRetriever.model_fields)
    with pytest.raises(ValidationError, match="'kk' is no setting of SIFTRetriever"):
        SIFTRetriever.from_retriever(facts.as_retriever(), kk=3)
    with (
        facts.embeddings.counting() as embeddings,
        pytest.raises(ArgumentError, match="'kk' is no setting of SIFTRetriever"),
    ):
        SIFTRetriever.from_texts(["a"], embeddings, vectorstore_cls=type(facts), kk=3)
    assert embeddings.documents == []


def test_a_filter_as_a_field_is_sent_to_the_search_kwargs(facts):
    with pytest.raises(ValidationError, match=r"write search_kwargs=\{'filter': ...\}"):
        SIFTRetriever(vectorstore=facts, filter={"tenant": "a"})


def test_a_threshold_of_langchain_is_an_error_that_names_what_takes_its_place(facts):
    threshold = {"search_type": "similarity_score_threshold"}
    for settings in (threshold, {"search_kwargs": {"score_threshold": 0.5}}):
        with pytest.raises(ValidationError, match=r"set min_similarity.*from_retriever"):
            SIFTRetriever(vectorstore=facts, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search_type", "search"),
    [
        *itertools.product(
            ["sift", "similarity", "mmr", "uncertainty_sampling"], ["nearest", "exhaustive"]
        ),
        ("sift", "residual"),
    ],
)
async def test_coroutines_and_batches_return_what_invoke_returns(facts, search_type, search):
    retriever = SIFTRetriever(
        vectorstore=facts, k=5, fetch_k=12, search_type=search_type, candidate_search=search
    )
    queries = [QUERY, *sentences(LONG)]
    for call in ({}, {"k": 3, "filter": even}, {"replace": True, "noise_variance": 5.0}):
        expected = [retriever.invoke(query, **call) for query in queries]
        assert [await retriever.ainvoke(query, **call) for query in queries] == expected
        assert retriever.batch(queries, **call) == expected
        assert await retriever.abatch(queries, **call) == expected
        scored = [await retriever.aretrieve_with_scores(query, **call) for query in queries]
        assert scored == [retriever.retrieve_with_scores(query, **call) for query in queries]
        assert [retrieval.documents for retrieval in scored] == expected


# The query


async def test_a_split_query_is_the_query_of_its_parts(facts, drawn):
    retriever = SIFTRetriever(vectorstore=facts, k=6, fetch_k=9, query_splitter=sentences)
    parts = sentences(LONG)
    assert len(parts) == 3
    expected = retriever.retrieve_by_vectors(drawn.vectors(parts).tolist())
    with drawn.counting():
        assert retriever.retrieve_with_scores(LONG) == expected
        assert drawn.queries == parts
    assert retriever.invoke(LONG) == expected.documents
    assert await retriever.ainvoke(LONG) == expected.documents
    assert retriever.batch([LONG, parts[0]])[0] == expected.documents
    assert await retriever.aretrieve_with_scores(LONG) == expected
    assert drawn.documents == []
    plain = SIFTRetriever(vectorstore=facts, k=6, fetch_k=9)
    assert retriever.retrieve_with_scores(parts[0]) == plain.retrieve_with_scores(parts[0])
    assert plain.retrieve_with_scores(LONG).prior_variance == pytest.approx(1.0)
    assert expected.prior_variance == pytest.approx(3.0)


@pytest.mark.parametrize("parts", [[], (), [1], [None], ["a", b"b"], "one string", None])
async def test_a_splitter_must_return_strings(facts, parts):
    retriever = SIFTRetriever(vectorstore=facts, query_splitter=lambda _: parts)
    with pytest.raises(
        ArgumentError, match="query_splitter must return a list of at least one string"
    ):
        retriever.invoke(QUERY)
    with pytest.raises(
        ArgumentError, match="query_splitter must return a list of at least one string"
    ):
        await retriever.ainvoke(QUERY)


async def test_query_embedder_replaces_the_store_s_embeddings(facts, drawn):
    own = CountingEmbeddings(given={QUERY: drawn.vector("something else")})
    retriever = SIFTRetriever(vectorstore=facts, k=6, query_embedder=own)
    expected = SIFTRetriever(vectorstore=facts, k=6).invoke("something else")
    with drawn.counting():
        assert retriever.invoke(QUERY) == expected
        assert await retriever.ainvoke(QUERY) == expected
        assert retriever.batch([QUERY]) == [expected]
    assert (drawn.queries, drawn.documents) == ([], [])
    assert (own.queries, own.documents) == ([QUERY] * 3, [])


def test_a_store_without_embeddings_serves_vectors_and_query_embedder(drawn):
    filled = fill(make_chroma(drawn))
    bare = Chroma(collection_name=filled._collection.name)
    expected = SIFTRetriever(vectorstore=filled, k=6).invoke(QUERY)
    assert SIFTRetriever(vectorstore=bare, k=6, query_embedder=drawn).invoke(QUERY) == expected
    by_vector = SIFTRetriever(vectorstore=bare, k=6).retrieve_by_vector(drawn.embed_query(QUERY))
    assert by_vector.documents == expected


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        ([], r"must have shape \(m, d\), got \(0,\)"),
        ([[]], r"must have shape \(m, d\), got \(1, 0\)"),
        ([[1.0] * 8, [1.0] * 7], "all of one dimension"),
        ([["a"] * 8], "must be numbers"),
        ([[0.0] * 8], "the vector of the query is zero, .*: ask in other words"),
        ([[1.0] * 8, [float("nan")] * 8], "the vector of the query is NaN"),
        ([[[1.0] * 8]], r"must have shape \(m, d\), got \(1, 1, 8\)"),
    ],
)
async def test_invalid_query_vectors_are_an_embedding_error(facts, vectors, problem):
    retriever = SIFTRetriever(vectorstore=facts)
    with pytest.raises(EmbeddingError, match=problem):
        retriever.retrieve_by_vectors(vectors)
    with pytest.raises(EmbeddingError, match=problem):
        await retriever.aretrieve_by_vectors(vectors)


def test_arrays_are_accepted_as_vectors(facts, drawn):
    vectors = drawn.vectors([QUERY, LONG])
    retriever = SIFTRetriever(vectorstore=facts)
    expected = retriever.retrieve_by_vectors(vectors.tolist())
    assert retriever.retrieve_by_vectors(vectors) == expected
    assert retriever.retrieve_by_vectors([*vectors]) == expected
    one = retriever.retrieve_by_vector(vectors[0])
    assert one == retriever.retrieve_with_scores(QUERY)


# A filter that must be there


def test_the_filter_of_a_call_narrows_the_required_filter(facts):
    retriever = SIFTRetriever(
        vectorstore=facts, search_kwargs={"k": 40, "filter": even}, require_filter=True
    )
    assert sorted(texts_of(retriever.invoke(QUERY))) == sorted(TEXTS[::2])
    for call in (None, {}):
        assert sorted(texts_of(retriever.invoke(QUERY, filter=call))) == sorted(TEXTS[::2])
    found = retriever.invoke(QUERY, filter=lambda document: document.metadata["number"] < 5)
    assert sorted(texts_of(found)) == ["fact 0", "fact 2", "fact 4"]
    assert retriever.invoke(QUERY, filter=lambda document: not even(document)) == []
    everything = retriever.invoke(QUERY, filter=lambda _: True, candidate_search="exhaustive")
    assert sorted(texts_of(everything)) == sorted(TEXTS[::2])


@pytest.mark.parametrize("search_kwargs", [{}, {"filter": None}, {"filter": {}}])
def test_nothing_is_searched_without_the_required_filter(facts, search_kwargs):
    retriever = SIFTRetriever(vectorstore=facts, search_kwargs=search_kwargs, require_filter=True)
    for call in ({}, {"filter": even}):
        with pytest.raises(InvalidFilter, match="search_kwargs has no filter: nothing was"):
            retriever.invoke(QUERY, **call)


@pytest.mark.parametrize(
    "required", [{"even": {"$ne": True}}, {"$or": [{"number": 3}, {"number": {"$nin": [1]}}]}]
)
def test_a_required_filter_must_name_the_allowed_values(drawn, required):
    retriever = SIFTRetriever(
        vectorstore=fill(make_chroma(drawn)),
        search_kwargs={"filter": required},
        require_filter=True,
    )
    with pytest.raises(InvalidFilter, match="must name the allowed values"):
        retriever.invoke(QUERY)


def nested():
    return {"tags": ["x"], "more": {"y": [1]}, "names": {"z"}, "pair": (1, [1])}


@pytest.mark.parametrize("scored", [False, True])
def test_changes_to_nested_metadata_reach_no_other_result(scored):
    embeddings = CountingEmbeddings()
    for store in (InMemoryVectorStore(embeddings), make_faiss(embeddings)):
        store.add_texts(["a", "b"], [nested(), nested()], ids=["1", "2"])
        retriever = SIFTRetriever(vectorstore=store, k=2)
        if scored:
            first = retriever.retrieve_with_scores("a").documents
        else:
            first, other = retriever.batch(["a", "b"])
        for document in first:
            document.metadata["tags"].append("mine")
            document.metadata["more"]["y"].append(2)
            document.metadata["names"].add("mine")
            document.metadata["pair"][1].append(2)
        if not scored:
            assert [d.metadata for d in other] == [nested(), nested()]
        again = retriever.invoke("a")
        assert [d.metadata for d in again] == [nested(), nested()]


class Later(AsyncCallbackHandler):
    """Starts a task at the end of a retrieval that retrieves again later."""

    def __init__(self, retriever):
        self.retriever, self.go_on, self.task = retriever, asyncio.Event(), None

    async def on_retriever_end(self, *_, **__):
        if self.task is None:
            self.task = asyncio.create_task(self.retrieve())

    async def retrieve(self):
        await self.go_on.wait()
        return await self.retriever.ainvoke(QUERY)


async def test_a_task_started_in_a_batch_retrieves_anew():
    store = InMemoryVectorStore(CountingEmbeddings())
    fill(store)
    retriever = SIFTRetriever(vectorstore=store, k=100)
    later = Later(retriever)
    await retriever.abatch([QUERY], {"callbacks": [later]})
    store.add_texts(["a new one"], ids=["new"])
    later.go_on.set()
    assert "a new one" in texts_of(await later.task)


def test_the_default_noise_variance_is_that_of_the_query_embedder_if_the_store_has_none():
    embeddings = CountingEmbeddings()
    embeddings.noise_variance = 0.5
    store = Chroma(collection_name=f"plain-{uuid.uuid4()}")
    assert noise_of(SIFTRetriever(vectorstore=store, query_embedder=embeddings)) == 0.5
    embeddings.noise_variance = "auto"  # of another's, for another purpose
    made = SIFTRetriever(vectorstore=store, query_embedder=embeddings, noise_variance=0.2)
    assert noise_of(made) == 0.2


def noise_of(retriever):
    return retriever._settings({}, adapter_for(retriever.vectorstore)).selection.noise_variance


# Ways to make one


def test_from_retriever_with_a_store_is_an_error_with_the_cure(facts):
    with pytest.raises(ArgumentError, match=r"got a .*make SIFTRetriever\(vectorstore=store\)"):
        SIFTRetriever.from_retriever(facts)


def test_a_retriever_in_place_of_the_store_is_an_error_with_the_cure(facts):
    for other in (facts.as_retriever(), SIFTRetriever(vectorstore=facts)):
        with pytest.raises(ValidationError, match=r"got a retriever: use .*from_retriever\(store"):
            SIFTRetriever(vectorstore=other)


def test_from_retriever_takes_store_settings_tags_and_metadata(facts):
    plain = facts.as_retriever(
        search_type="mmr",
        search_kwargs={"k": 7, "fetch_k": 9, "filter": even, "lambda_mult": 0.3},
        tags=["mine"],
        metadata={"team": "b"},
    )
    made = SIFTRetriever.from_retriever(plain, noise_variance=0.5)
    same = SIFTRetriever(
        vectorstore=facts,
        noise_variance=0.5,
        search_kwargs={"k": 7, "fetch_k": 9, "filter": even},
    )
    assert made.retrieve_with_scores(QUERY) == same.retrieve_with_scores(QUERY)
    assert made.retrieve_with_scores(QUERY).candidates == 9
    assert made.vectorstore is facts
    assert made.search_type == "sift"
    assert made.tags == plain.tags
    assert "mine" in made.tags
    assert made.metadata == {"team": "b"}
    assert plain.search_kwargs["lambda_mult"] == 0.3


def test_from_retriever_keeps_what_was_set_on_a_sift_retriever(facts):
    tenant = SIFTRetriever(
        vectorstore=facts, k=2, require_filter=True, search_kwargs={"filter": even}
    )
    made = SIFTRetriever.from_retriever(tenant, kernel="rbf")
    assert (made.k, made.require_filter, made.kernel) == (2, True, "rbf")
    assert made.invoke(QUERY, k=40, filter=lambda document: not even(document)) == []


def test_from_retriever_keeps_lambda_mult_for_mmr_only(facts):
    plain = facts.as_retriever(search_kwargs={"lambda_mult": 0.9})
    made = SIFTRetriever.from_retriever(plain, search_type="mmr")
    expected = SIFTRetriever(
        vectorstore=facts, search_type="mmr", search_kwargs={"lambda_mult": 0.9}
    )
    assert made.invoke(QUERY) == expected.invoke(QUERY)
    assert "lambda_mult" not in SIFTRetriever.from_retriever(plain).search_kwargs


@pytest.mark.filterwarnings("ignore:legacy embedding function", "ignore:Relevance scores must")
@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["Chroma", "cosine", "ip", "FAISS", "Qdrant"])
def test_from_retriever_passes_the_documents_that_a_score_threshold_passes(kind, threshold):
    embeddings = CountingEmbeddings()
    if kind in {"cosine", "ip"}:
        store = fill(make_chroma(embeddings, space=kind))
    else:
        store = fill(
            {"Chroma": make_chroma, "FAISS": make_faiss, "Qdrant": make_qdrant}[kind](embeddings)
        )
    plain = store.as_retriever(
        search_type="similarity_score_threshold",
        search_kwargs={"score_threshold": threshold, "k": 40},
    )
    made = SIFTRetriever.from_retriever(plain)
    assert set(texts_of(made.invoke(QUERY))) == set(texts_of(plain.invoke(QUERY)))
    assert plain.search_kwargs == {"score_threshold": threshold, "k": 40}


@pytest.mark.parametrize(
    ("make", "thresholds"),
    [
        (make_qdrant, (-2.0, 0.0, 0.3, 0.9)),
        (make_faiss, (0.1, 0.7, 1.2, 5.0)),
        (InMemoryVectorStore, (0.3, 2.0)),
    ],
    ids=["Qdrant", "FAISS", "InMemoryVectorStore"],
)
def test_from_retriever_passes_what_a_threshold_of_the_store_s_own_score_passes(make, thresholds):
    store = fill(make(CountingEmbeddings()))
    for threshold in thresholds:
        plain = store.as_retriever(search_kwargs={"score_threshold": threshold, "k": 40})
        made = SIFTRetriever.from_retriever(plain)
        assert set(texts_of(made.invoke(QUERY))) == set(texts_of(plain.invoke(QUERY)))


@pytest.mark.parametrize(
    ("make", "search_type", "threshold"),
    [
        (make_chroma, "similarity_score_threshold", 1.5),
        (make_qdrant, "similarity_score_threshold", 1.2),
        (make_qdrant, "similarity", 1.2),
        (make_faiss, "similarity", -0.2),
    ],
)
def test_a_threshold_that_nothing_passes_is_named_as_it_was_written(make, search_type, threshold):
    plain = fill(make(CountingEmbeddings())).as_retriever(
        search_type=search_type, search_kwargs={"score_threshold": threshold}
    )
    with pytest.raises(ArgumentError, match=rf"score_threshold {threshold}, .* passes no document"):
        SIFTRetriever.from_retriever(plain)


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_a_threshold_that_the_search_does_not_take_is_refused_with_the_cure(search_type):
    plain = make_chroma(CountingEmbeddings()).as_retriever(
        search_type=search_type, search_kwargs={"score_threshold": 0.4}
    )
    with pytest.raises(
        ArgumentError,
        match=rf"score_threshold 0.4, .*{search_type}'.*set search_type='similarity_score_th",
    ):
        SIFTRetriever.from_retriever(plain)


def test_a_score_of_an_unknown_scale_is_an_error_with_the_cure():
    store = Chroma(
        collection_name=f"own-{uuid.uuid4()}",
        embedding_function=CountingEmbeddings(),
        relevance_score_fn=lambda distance: -distance,
    )
    plain = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5}
    )
    with pytest.raises(ArgumentError, match="not known: pass min_similarity"):
        SIFTRetriever.from_retriever(plain)
    assert SIFTRetriever.from_retriever(plain, min_similarity=0.3).min_similarity == 0.3


def test_arguments_take_precedence_over_the_other_retriever_s(facts):
    plain = facts.as_retriever(search_kwargs={"k": 7}, tags=["mine"])
    made = SIFTRetriever.from_retriever(plain, search_kwargs={"k": 2}, tags=["ours"])
    assert len(made.invoke(QUERY)) == 2
    assert made.tags == ["ours"]


@pytest.mark.parametrize("vectorstore_cls", [None, InMemoryVectorStore])
def test_from_texts_and_from_documents_fill_a_new_store(drawn, vectorstore_cls, facts):
    metadatas = [{"number": n, "even": n % 2 == 0} for n in range(len(TEXTS))]
    numbers = [str(n) for n in range(len(TEXTS))]
    settings = {"vectorstore_cls": vectorstore_cls, "k": 6, "fetch_k": 12}
    expected = texts_of(SIFTRetriever(vectorstore=facts, k=6, fetch_k=12).invoke(QUERY))
    documents = [
        Document(id=number, page_content=text, metadata=metadata)
        for number, text, metadata in zip(numbers, TEXTS, metadatas, strict=True)
    ]
    of_documents = SIFTRetriever.from_documents(documents, drawn, **settings)
    of_texts = SIFTRetriever.from_texts(TEXTS, drawn, metadatas, ids=numbers, **settings)
    for made in (of_documents, of_texts):
        found = made.invoke(QUERY)
        assert texts_of(found) == expected
        for document in found:
            number = TEXTS.index(document.page_content)
            assert (document.id, document.metadata) == (str(number), metadatas[number])


def test_two_retrievers_from_texts_do_not_share_a_store(drawn):
    first = SIFTRetriever.from_texts(["one"], drawn)
    second = SIFTRetriever.from_texts(["two"], drawn)
    assert texts_of(first.invoke(QUERY)) == ["one"]
    assert texts_of(second.invoke(QUERY)) == ["two"]
    assert texts_of(first.invoke(QUERY)) == ["one"]


@pytest.mark.parametrize("name", ["metadatas", "ids"])
@pytest.mark.parametrize("count", [1, 3])
def test_from_texts_needs_metadata_and_ids_for_each_text(drawn, name, count):
    given = {"metadatas": [{}] * 3, "ids": ["1", "2", "3"]}[name][:count]
    with pytest.raises(ArgumentError, match=f"{name} must be one for each of 2 texts, got {count}"):
        SIFTRetriever.from_texts(["a", "b"], drawn, **{name: given})


def test_from_texts_takes_a_generator_and_metadata_that_are_none(drawn):
    made = SIFTRetriever.from_texts(
        (text for text in ("a", "b")),
        drawn,
        [None, {"number": 1}],
        ids=iter(["1", "2"]),
        vectorstore_cls=InMemoryVectorStore,
    )
    found = {document.id: document for document in made.invoke(QUERY)}
    assert {id_: (d.page_content, d.metadata) for id_, d in found.items()} == {
        "1": ("a", {}),
        "2": ("b", {"number": 1}),
    }


@pytest.mark.parametrize("texts", ["one text", ["a", None], None])
def test_from_texts_needs_strings(drawn, texts):
    with pytest.raises(ArgumentError, match="texts must be a sequence of str, got"):
        SIFTRetriever.from_texts(texts, drawn)


def test_from_texts_without_texts_returns_no_documents(drawn):
    made = SIFTRetriever.from_texts([], drawn, vectorstore_cls=InMemoryVectorStore)
    assert made.invoke(QUERY) == []


async def test_added_documents_are_retrieved(facts):
    retriever = SIFTRetriever(vectorstore=facts, k=3)
    assert retriever.add_documents([Document(id="a", page_content=QUERY)]) == ["a"]
    assert await retriever.aadd_documents([Document(id="b", page_content=LONG)]) == ["b"]
    assert retriever.invoke(QUERY)[0].id == "a"
    assert (await retriever.ainvoke(LONG))[0].id == "b"
