"""Compare every store with brute force on the vectors that filled it."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from unit_tests.stores.real_stores import (
    DIMENSIONS,
    KINDS,
    LINEAR,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    condition,
    fill,
    id_of,
    make_chroma,
    make_faiss,
    make_qdrant,
    make_store,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import DimensionMismatch, InvalidFilter, StoreTimeout
from langchain_sift.selection import select
from langchain_sift.stores import fetch_candidates
from langchain_sift.stores.interface import StoreAdapter, adapter_for

pytestmark = pytest.mark.slow

QUERIES = [QUERY, "why?", "when was it?", "who knows?"]
SEARCHES = ["nearest", "residual", "exhaustive"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


@pytest.fixture
def by_hand(embeddings):
    return ByHand(embeddings)


@pytest.fixture
def empty(kind, embeddings, tmp_path):
    return make_store(kind, embeddings, tmp_path)


@pytest.fixture
def store(empty):
    return fill(empty)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"k": 6, "fetch_k": fetch_k, "noise_variance": noise_variance}
        for fetch_k, noise_variance in [(12, 0.01), (12, 1.0), (100, 0.1)]
    ],
)
def test_the_choice_equals_brute_force_among_the_nearest_by_cosine(
    store, embeddings, by_hand, settings
):
    retriever = SIFTRetriever(vectorstore=store, **settings)
    for query in QUERIES:
        expected = by_hand.choice(embeddings.vector(query), **settings)
        assert texts_of(retriever.invoke(query)) == expected


async def test_coroutines_and_threads_return_the_same(store, by_hand, embeddings):
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=12)
    found = texts_of(await retriever.ainvoke(QUERY))
    assert found == by_hand.choice(embeddings.vector(QUERY), k=6, fetch_k=12)


@pytest.mark.parametrize("count", [2, 9])
def test_several_vectors_unite_their_neighbours_and_share_one_choice(
    store, by_hand, embeddings, count
):
    queries = embeddings.vectors([f"question {number}" for number in range(count)])
    retriever = SIFTRetriever(vectorstore=store, k=5, fetch_k=5)
    retrieval = retriever.retrieve_by_vectors(queries.tolist())
    expected = by_hand.candidates(queries, fetch_k=5)
    assert retrieval.candidates == len(expected)
    assert texts_of(retrieval) == by_hand.choice(queries, k=5, fetch_k=5)


def test_an_exhaustive_search_chooses_from_every_row(store, by_hand, embeddings):
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=1, candidate_search="exhaustive")
    expected = by_hand.choice(embeddings.vector(QUERY), k=6, fetch_k=len(TEXTS))
    assert texts_of(retriever.invoke(QUERY)) == expected
    assert retriever.retrieve_with_scores(QUERY).candidates == len(TEXTS)


def test_a_residual_search_with_steps_as_large_as_the_store_is_exhaustive(
    store, by_hand, embeddings
):
    retriever = SIFTRetriever(
        vectorstore=store, k=6, candidate_search="residual", step_fetch_k=len(TEXTS), **LINEAR
    )
    queries = embeddings.vectors(QUERIES)
    for vectors in (queries[:1], queries):
        expected = by_hand.linear_choice(vectors, k=6, fetch_k=len(TEXTS))
        assert texts_of(retriever.retrieve_by_vectors(vectors.tolist())) == expected


def test_a_residual_search_reads_few_rows_and_chooses_among_them(store):
    retriever = SIFTRetriever(
        vectorstore=store, k=3, candidate_search="residual", step_fetch_k=2, noise_variance=0.1
    )
    found = retriever.retrieve_with_scores(QUERY)
    # In two directions, then in three, with as many more rows as there are choices.
    assert 3 <= found.candidates <= 2 * 2 + 3 * 3 + 3 * 4 < len(TEXTS)
    assert len(set(texts_of(found))) == 3


@pytest.mark.parametrize("search", SEARCHES)
def test_the_query_is_embedded_once_and_no_document_again(store, embeddings, search):
    retriever = SIFTRetriever(vectorstore=store, k=5, candidate_search=search)
    with embeddings.counting():
        assert len(retriever.invoke(QUERY)) == 5
    assert (embeddings.queries, embeddings.documents) == ([QUERY], [])


@pytest.mark.parametrize("search", SEARCHES)
def test_ids_and_metadata_are_those_of_the_store_s_own_search(store, search):
    stored = {found.page_content: found for found in store.similarity_search(QUERY, k=len(TEXTS))}
    for found in SIFTRetriever(vectorstore=store, k=9, candidate_search=search).invoke(QUERY):
        number = TEXTS.index(found.page_content)
        assert found.id == id_of(number)
        assert found.metadata.items() >= {"number": number, "even": number % 2 == 0}.items()
        assert found.metadata == stored[found.page_content].metadata


def test_changes_to_a_document_do_not_reach_the_store(store):
    retriever = SIFTRetriever(vectorstore=store, k=3)
    expected = [dict(document.metadata) for document in retriever.invoke(QUERY)]
    for document in [*retriever.invoke(QUERY), *retriever.retrieve_with_scores(QUERY).documents]:
        document.metadata["number"] = "changed"
        document.page_content = "changed"
    found = retriever.invoke(QUERY)
    assert [document.metadata for document in found] == expected
    assert set(texts_of(found)) <= set(TEXTS)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_filter_in_the_store_s_form_is_applied(kind, store, embeddings, search):
    even = ByHand(embeddings, TEXTS[::2])
    expected = even.linear_choice(embeddings.vector(QUERY), k=5, fetch_k=len(TEXTS))
    settings = {"candidate_search": search, "step_fetch_k": len(TEXTS), **LINEAR}
    passes = condition(kind, "even", value=True)
    retriever = SIFTRetriever(vectorstore=store, k=5, **settings)
    assert texts_of(retriever.invoke(QUERY, filter=passes)) == expected
    filtered = SIFTRetriever(
        vectorstore=store, search_kwargs={"k": 5, "filter": passes}, **settings
    )
    assert texts_of(filtered.invoke(QUERY)) == expected
    assert texts_of(filtered.invoke(QUERY, filter=condition(kind, "number", 7))) == [TEXTS[7]]
    assert filtered.invoke(QUERY, filter=condition(kind, "number", -1)) == []


def test_a_selective_filter_returns_all_matching_rows(kind, store):
    retriever = SIFTRetriever(vectorstore=store, k=1, fetch_k=1)
    for number in range(0, len(TEXTS), 7):
        found = retriever.invoke(QUERY, filter=condition(kind, "number", number))
        assert texts_of(found) == [TEXTS[number]]


def test_joined_filters_pass_rows_that_both_pass(kind, store):
    first, second = condition(kind, "even", value=True), condition(kind, "number", 6)
    adapter = adapter_for(store)
    assert isinstance(adapter, StoreAdapter)
    retriever = SIFTRetriever(vectorstore=store, k=40)
    joined = adapter.conjunction(first, second)
    assert texts_of(retriever.invoke(QUERY, filter=joined)) == [TEXTS[6]]
    neither = adapter.conjunction(first, condition(kind, "number", 7))
    assert retriever.invoke(QUERY, filter=neither) == []


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_empty_filter_passes_everything(store, nothing):
    found = SIFTRetriever(vectorstore=store, k=100).invoke(QUERY, filter=nothing)
    assert sorted(texts_of(found)) == sorted(TEXTS)


@pytest.mark.parametrize("nothing", [0, "", [], False])
@pytest.mark.parametrize("required", [False, True])
def test_what_is_no_filter_is_refused(kind, store, nothing, required):
    passes = condition(kind, "even", value=True)
    retriever = SIFTRetriever(
        vectorstore=store, search_kwargs={"filter": passes}, require_filter=required
    )
    with pytest.raises(InvalidFilter, match=f"got {type(nothing).__name__}|FAISS cannot read the"):
        retriever.invoke(QUERY, filter=nothing)


@pytest.mark.parametrize("search", SEARCHES)
def test_an_empty_store_returns_no_documents(empty, search):
    retriever = SIFTRetriever(vectorstore=empty, candidate_search=search)
    assert retriever.invoke(QUERY) == []
    retrieval = retriever.retrieve_with_scores(QUERY)
    assert (retrieval.choices, retrieval.candidates) == ((), 0)
    left = (retrieval.prior_variance, retrieval.posterior_std, retrieval.irreducible_variance)
    assert left == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_a_k_above_the_number_of_rows_returns_each_once(store, search):
    found = SIFTRetriever(vectorstore=store, k=100, candidate_search=search).invoke(QUERY)
    assert sorted(texts_of(found)) == sorted(TEXTS)


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_of_one_text_are_one_candidate_with_a_count(empty, search):
    copies = {"once": 1, "twice": 2, "four times": 4}
    fill(empty, [text for text, count in copies.items() for _ in range(count)])
    retriever = SIFTRetriever(vectorstore=empty, k=10, candidate_search=search)
    retrieval = retriever.retrieve_with_scores(QUERY)
    assert retrieval.candidates == 3
    assert {c.document.page_content: c.copies for c in retrieval.choices} == copies


@pytest.mark.slow
@pytest.mark.parametrize("count", [299, 300, 301])
def test_an_exhaustive_search_reads_every_row_once(kind, tmp_path, count):
    texts = [f"row {number}" for number in range(count)]
    store = fill(make_store(kind, CountingEmbeddings(), tmp_path), texts)
    retriever = SIFTRetriever(vectorstore=store, k=1, candidate_search="exhaustive")
    (choice,) = retriever.retrieve_with_scores(QUERY).choices
    assert retriever.retrieve_with_scores(QUERY).candidates == count
    assert choice.copies == 1


@pytest.mark.slow
def test_deleted_rows_disappear_and_added_rows_appear(store, embeddings):
    retriever = SIFTRetriever(vectorstore=store, k=5, fetch_k=12)
    gone = retriever.invoke(QUERY)[0]
    store.delete([gone.id])
    store.add_texts(["new"], metadatas=[{"number": -1, "even": False}], ids=[id_of(99)])
    left = ByHand(embeddings, [*(text for text in TEXTS if text != gone.page_content), "new"])
    for query in QUERIES:
        expected = left.choice(embeddings.vector(query), k=5, fetch_k=12)
        assert texts_of(retriever.invoke(query)) == expected


@pytest.mark.parametrize("search", ["nearest", "exhaustive"])
def test_a_query_of_another_dimension_names_both(store, search):
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search)
    with pytest.raises(DimensionMismatch) as caught:
        retriever.retrieve_by_vector([1.0, 2.0, 3.0])
    assert "3" in str(caught.value)
    assert str(DIMENSIONS) in str(caught.value)


def test_a_row_opposite_to_the_query_is_the_farthest(empty, embeddings):
    query = embeddings.vector(QUERY)
    aside = np.linalg.svd(query[None])[2][-1]  # a unit vector orthogonal to the query
    embeddings.given = {
        "opposite": -query,
        "near": unit(query + 0.5 * aside),
        "far": unit(query + 2.0 * aside),
        "farther": unit(query + 3.0 * aside),
    }
    fill(empty, list(embeddings.given))
    retriever = SIFTRetriever(vectorstore=empty, k=1, fetch_k=1)
    assert texts_of(retriever.invoke(QUERY)) == ["near"]
    neighbours = SIFTRetriever(vectorstore=empty, k=4, fetch_k=4, search_type="similarity")
    assert texts_of(neighbours.invoke(QUERY)) == ["near", "far", "farther", "opposite"]
    for fetch_k in (1, 2, 3):
        found = neighbours.invoke(QUERY, k=fetch_k, fetch_k=fetch_k)
        assert "opposite" not in texts_of(found)


def test_candidates_are_the_unit_vectors_stored_nearest_first(kind, tmp_path):
    embeddings = CountingEmbeddings(lengths=(0.2, 1.0, 30.0))
    texts = [f"fact{'!' * (number % 5)} {number}" for number in range(12)]
    store = fill(make_store(kind, embeddings, tmp_path), texts)
    query = unit(embeddings.vector(QUERY))
    candidates = fetch_candidates(store, query, fetch_k=12)
    expected = ByHand(embeddings, texts).candidates(query, fetch_k=12)
    assert texts_of(candidates) == expected
    vectors = unit(embeddings.vectors(expected))
    assert candidates.embeddings.dtype == np.float64
    np.testing.assert_allclose(candidates.embeddings, vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(candidates.embeddings, axis=1), 1.0, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        *(
            pytest.param(lambda e, space=space: make_chroma(e, space=space), id=f"Chroma {space}")
            for space in ("l2", "cosine", "ip")
        ),
        *(
            pytest.param(lambda e, name=name: make_qdrant(e, distance=name), id=f"Qdrant {name}")
            for name in ("COSINE", "DOT", "EUCLID")
        ),
        *(
            pytest.param(lambda e, index=index: make_faiss(e, index=index(DIMENSIONS)), id=name)
            for name, index in [
                ("FAISS L2", faiss.IndexFlatL2),
                ("FAISS inner product", faiss.IndexFlatIP),
            ]
        ),
    ],
)
def test_the_metric_of_the_store_does_not_change_the_choice(make, embeddings, by_hand):
    retriever = SIFTRetriever(vectorstore=fill(make(embeddings)), k=6, fetch_k=12)
    for query in QUERIES:
        expected = by_hand.choice(embeddings.vector(query), k=6, fetch_k=12)
        assert texts_of(retriever.invoke(query)) == expected


@pytest.mark.parametrize(
    "make",
    [make_chroma, make_faiss, lambda embeddings: make_qdrant(embeddings, distance="EUCLID")],
    ids=["Chroma", "FAISS", "Qdrant"],
)
def test_a_store_of_long_vectors_is_queried_with_long_vectors(make):
    # Queried with a unit vector, it would return the shortest rows.
    embeddings = CountingEmbeddings(lengths=(5.4, 5.7, 6.0, 6.3, 6.6))
    texts = [f"{'x' * (number % 5)} {number}" for number in range(400)]
    store = fill(make(embeddings), texts)
    rows = embeddings.vectors(texts)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = SIFTRetriever(vectorstore=store, k=8, fetch_k=40, search_type="similarity")
    residual = SIFTRetriever(
        vectorstore=store, k=8, noise_variance=1.0, candidate_search="residual"
    )
    for query in QUERIES:
        direction = unit(embeddings.vector(query))
        expected = [texts[row] for row in np.argsort(-rows @ direction)[:8]]
        assert texts_of(nearest.invoke(query)) == expected
        toward = rows[rows @ direction > 0.0]
        best = select(direction, toward, k=8, noise_variance=1.0).posterior_variances[-1]
        found = residual.retrieve_with_scores(query).choices[-1].posterior_variance
        assert found <= 1.02 * best


def test_a_slow_store_raises_a_timeout(kind, store):
    with pytest.raises(StoreTimeout, match=f"{kind.split()[0]}.*within 1e-09 s: raise"):
        SIFTRetriever(vectorstore=store, timeout=1e-9).invoke(QUERY)
