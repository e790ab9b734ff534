"""Collect candidates of different texts from several answers, and search a store for them."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
import reference
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.testing import assert_allclose, assert_array_equal
from unit_tests.stores.real_stores import (
    DIMENSIONS,
    LINEAR,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    make_chroma,
    make_faiss,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import DimensionMismatch, EmbeddingError
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import (
    CandidatePool,
    every_candidate,
    nearest_candidates,
    residual_candidates,
)
from langchain_sift.stores.interface import Nearest, Page, Rows, adapter_for
from langchain_sift.stores.unit_vectors import unit_vector, with_units

ROWS = np.eye(6)


def documents(*texts, ids=None):
    ids = ids or [str(uuid.uuid4()) for _ in texts]
    return [Document(id=id_, page_content=text) for id_, text in zip(ids, texts, strict=True)]


def test_a_pool_keeps_the_order_and_the_first_row_of_each_text():
    pool = CandidatePool(6)
    pool.add(documents("a", "b", "a"), ROWS[:3])
    pool.add(documents("c", "b"), ROWS[3:5])
    candidates = pool.candidates()
    assert texts_of(candidates) == ["a", "b", "c"]
    assert_array_equal(candidates.embeddings, ROWS[[0, 1, 3]])
    assert candidates.copies == (2, 2, 1)


def test_a_row_in_two_answers_counts_as_one_copy():
    pool = CandidatePool(6)
    for _ in range(3):
        pool.add(documents("a", "a", ids=["first", "second"]), ROWS[:2])
    assert pool.candidates().copies == (2,)


def test_rows_without_an_id_are_counted_per_answer():
    pool = CandidatePool(6)
    nameless = [Document(page_content=text) for text in ("a", "b", "a", "a")]
    pool.add(nameless, ROWS[:4])
    pool.add(nameless[:3], ROWS[:3])
    assert pool.candidates().copies == (3, 1)


def test_add_returns_the_vectors_of_new_texts():
    pool = CandidatePool(6)
    assert_array_equal(pool.add(documents("a", "a", "b"), ROWS[:3]), ROWS[[0, 2]])
    assert_array_equal(pool.add(documents("b", "c"), ROWS[3:5]), ROWS[[4]])
    assert pool.add(documents("c"), ROWS[5:]).shape == (0, 6)


def test_a_limit_counts_different_texts_new_or_known():
    pool = CandidatePool(6)
    pool.add(documents("a"), ROWS[:1])
    new = pool.add(documents("a", "b", "c", "b", ids=["1", "2", "3", "4"]), ROWS[1:5], limit=2)
    assert_array_equal(new, ROWS[[2]])
    candidates = pool.candidates()
    assert texts_of(candidates) == ["a", "b"]
    assert candidates.copies == (2, 2)


def test_an_empty_pool_has_the_dimensions_of_the_query():
    candidates = CandidatePool(5).candidates()
    assert candidates.documents == candidates.copies == ()
    assert candidates.embeddings.shape == (0, 5)


def test_rows_of_any_length_are_scaled_to_unit_norm():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5, 7)) * np.array([1e-100, 1e-3, 1, 1e3, 1e100])[:, None]
    documents = [Document(str(n), id=str(n)) for n in range(5)]
    kept, units = with_units(Rows(documents, rows, 5), 7)
    assert kept.documents == documents
    assert_allclose(np.linalg.norm(units, axis=1), 1.0, rtol=1e-14)
    assert_allclose(units * np.linalg.norm(rows, axis=1)[:, None], rows, rtol=1e-13)
    assert_allclose(unit_vector(rows[2]), units[2], rtol=1e-14)


@pytest.mark.parametrize(
    ("bad", "what"),
    [(0.0, "zero"), (math.nan, "NaN or infinite"), (math.inf, "NaN or infinite")],
)
def test_a_row_without_a_direction_is_left_out_and_named(bad, what):
    vectors = np.ones((4, 4))
    vectors[1] = vectors[3] = bad
    documents = [Document(id_, id=id_) for id_ in ("first", "second", "third", "fourth")]
    with pytest.warns(UserWarning, match="2 documents are left out, such as second: their vectors"):
        kept, units = with_units(Rows(documents, vectors, 4), 4)
    assert [document.id for document in kept.documents] == ["first", "third"]
    assert_allclose(units, np.full((2, 4), 0.5))
    with pytest.raises(EmbeddingError, match=f"the vector of the query is {what}"):
        unit_vector(vectors[1])


def test_a_dimension_mismatch_names_both_dimensions():
    with pytest.raises(DimensionMismatch, match=r"query has 3 dim.* vectors have 4: open the sto"):
        with_units(Rows([Document("a"), Document("b")], np.ones((2, 4)), 2), 3)


# The searches

QUERIES = [QUERY, "why?", "when was it?", "who knows?"]


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


def nearest(queries, *, fetch_k):
    return nearest_candidates(queries, unit(queries), fetch_k=fetch_k)


def search(store, searching):
    return run(searching, adapter_for(store), timeout=30.0, arguments={"filter": None})


def requests(store, searching):
    """Answer the requests of a search; return the requests and the result."""
    adapter, made, answer = adapter_for(store), [], None
    while True:
        try:
            request = searching.send(answer)
        except StopIteration as end:
            return made, end.value
        made.append(request)
        if isinstance(request, Page):
            answer = adapter.page(request.cursor, request.size, timeout=1.0)
        else:
            answer = adapter.nearest(request.directions, request.count, timeout=1.0)


def in_memory(embeddings, texts=TEXTS):
    return fill(InMemoryVectorStore(embeddings), texts)


@pytest.mark.parametrize("fetch_k", [1, 2, 7, 20, 39, 40, 41, 100])
def test_candidates_are_the_nearest_by_cosine(embeddings, fetch_k):
    store = in_memory(embeddings)
    for text in QUERIES:
        query = embeddings.vector(text)
        expected = ByHand(embeddings).candidates(query, fetch_k=fetch_k)
        assert texts_of(search(store, nearest(query[None], fetch_k=fetch_k))) == expected


def test_candidates_of_several_vectors_are_united_in_their_order(embeddings):
    store, queries = in_memory(embeddings), embeddings.vectors(QUERIES)
    found = search(store, nearest(queries, fetch_k=6))
    assert texts_of(found) == ByHand(embeddings).candidates(queries, fetch_k=6)
    assert_allclose(found.embeddings, embeddings.vectors(texts_of(found)), atol=1e-12)


def test_a_search_for_neighbours_is_one_request(embeddings):
    store, query = in_memory(embeddings), embeddings.vector(QUERY)[None]
    for fetch_k in (9, 41):
        made, _ = requests(store, nearest(query, fetch_k=fetch_k))
        assert [request.count for request in made] == [fetch_k]
        assert_array_equal(made[0].directions, query)


def test_rows_without_a_text_are_replaced_by_further_rows(embeddings):
    store, query = fill(make_chroma(embeddings)), embeddings.vector(QUERY)
    rng = np.random.default_rng(0)
    near = unit(query + 0.01 * rng.standard_normal((25, DIMENSIONS)))
    store._collection.add(ids=[f"bare {n}" for n in range(25)], embeddings=near)
    for fetch_k in (2, 10, 30):
        found = search(store, nearest(query[None], fetch_k=fetch_k))
        expected = ByHand(embeddings).candidates(query, fetch_k=fetch_k)
        assert texts_of(found) == expected
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=10)
    assert texts_of(retriever.invoke(QUERY)) == ByHand(embeddings).choice(query, k=6, fetch_k=10)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_chroma, InMemoryVectorStore])
def test_fifty_copies_of_each_text_do_not_change_the_choice(embeddings, make):
    once, copied = fill(make(embeddings)), fill(make(embeddings), TEXTS * 50)
    # 16 times 150 rows are enough for all 40 texts.
    of_copies = SIFTRetriever(vectorstore=copied, fetch_k=150)
    for query, k in zip(QUERIES, (1, 4, 7, 12), strict=True):
        retrieval = of_copies.retrieve_with_scores(query, k=k)
        assert texts_of(retrieval) == texts_of(SIFTRetriever(vectorstore=once, k=k).invoke(query))
        assert retrieval.candidates == len(TEXTS)
        assert {choice.copies for choice in retrieval.choices} == {50}


def test_k_different_texts_are_chosen_among_very_many_copies(embeddings):
    store = in_memory(embeddings, TEXTS * 50)
    # 16 times 30 rows hold 9 of the 40 texts on the side of the query.
    with pytest.warns(UserWarning, match="at most 480, have fewer than 30 different texts"):
        found = SIFTRetriever(vectorstore=store, k=9, fetch_k=30).invoke(QUERY)
    assert len(set(texts_of(found))) == 9


def test_at_most_sixteen_times_fetch_k_rows_are_read(embeddings):
    store, query = in_memory(embeddings, ["same"] * 500), embeddings.vector(QUERY)
    with pytest.warns(UserWarning, match="further rows are not read: remove copies"):
        made, found = requests(store, nearest(query[None], fetch_k=10))
    assert [request.count for request in made] == [10, 40, 160]
    assert (texts_of(found), found.copies) == (["same"], (160,))


@pytest.mark.parametrize("text", ["same", None], ids=["copies", "without text"])
def test_rows_that_an_index_does_not_find_are_no_end_of_the_store(text, monkeypatch):
    """Among thousands of equal vectors, the index of Chroma finds fewer rows than requested."""
    store, count = make_chroma(CountingEmbeddings()), 150
    collection, vector = store._collection, np.eye(DIMENSIONS)[0].tolist()
    ids = [f"{number}" for number in range(400)]
    documents = None if text is None else [text] * len(ids)
    collection.add(ids=ids, embeddings=[vector] * len(ids), documents=documents)

    def few(own, *, n_results, include, **_):
        fields = [name for name in include if name != "distances"]
        found = own.get(limit=min(n_results, 320), include=fields)
        return {name: None if value is None else [value] for name, value in found.items()}

    monkeypatch.setattr(type(collection), "query", few)
    with pytest.warns(UserWarning, match="at most 2400, have fewer than 150 different texts"):
        search(store, nearest(np.array([vector]), fetch_k=count))


@pytest.mark.parametrize("fetch_k", [5, 20])
def test_rows_without_a_direction_crowd_out_no_others(embeddings, fetch_k):
    """By distance, a zero vector is nearer to a query than a text whose cosine is below 1/2."""
    query = embeddings.vector(QUERY)
    expected = ByHand(embeddings).linear_choice(query, k=4, fetch_k=fetch_k)
    zeros = [f"zero {number}" for number in range(3 * fetch_k)]
    embeddings.given = dict.fromkeys(zeros, np.zeros(DIMENSIONS))
    store = fill(make_faiss(embeddings), [*zeros, *TEXTS])
    retriever = SIFTRetriever(vectorstore=store, k=4, fetch_k=fetch_k, **LINEAR)
    with pytest.warns(UserWarning, match=f"{len(zeros)} documents are left out"):
        assert texts_of(retriever.invoke(QUERY)) == expected


def test_rows_without_a_direction_beyond_the_limit_are_named(embeddings):
    zeros = [f"zero {number}" for number in range(100)]
    embeddings.given = dict.fromkeys(zeros, np.zeros(DIMENSIONS))
    store = fill(make_faiss(embeddings), zeros)
    with (
        pytest.warns(UserWarning, match="at most 64, have fewer than 4 different texts"),
        pytest.warns(UserWarning, match="64 documents are left out"),
    ):
        assert search(store, nearest(embeddings.vector(QUERY)[None], fetch_k=4)).documents == ()


def test_the_first_id_represents_rows_of_equal_text(embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_texts(["same", "same", "same"], ids=["b", "a", "c"])
    found = search(store, nearest(embeddings.vector(QUERY)[None], fetch_k=5))
    assert [document.id for document in found.documents] == ["a"]


def test_only_vectors_with_too_few_texts_are_searched_again(embeddings):
    query, other = np.eye(DIMENSIONS)[:2]
    embeddings.given = {"same": unit(other + 0.1), **{t: unit(query + 0.1) for t in TEXTS[:5]}}
    store = in_memory(embeddings, [*["same"] * 50, *TEXTS[:5]])
    searching = nearest(np.array([query, other]), fetch_k=5)
    made, _ = requests(store, searching)
    assert [len(request.directions) for request in made] == [2, 1, 1]
    assert_array_equal(made[1].directions, [other])


@pytest.mark.parametrize("second", ["opposed", "orthogonal"])
def test_neighbours_of_each_vector_leave_less_variance_than_neighbours_of_the_mean(second):
    rng = np.random.default_rng(5)
    one = unit(rng.standard_normal(64))
    aside = rng.standard_normal(64)
    aside = unit(aside - (aside @ one) * one)
    other = aside if second == "orthogonal" else unit(-one + 0.5 * aside)
    mean = unit(one + other)

    def around(center, name):
        rows = unit(center + 0.05 * rng.standard_normal((30, 64)))
        return {f"{name} {number}": row for number, row in enumerate(rows)}

    given = {**around(one, "one"), **around(other, "other"), **around(mean, "between")}
    embeddings = CountingEmbeddings(dimensions=64, given=given)
    retriever = SIFTRetriever(
        vectorstore=in_memory(embeddings, list(given)), k=4, fetch_k=20, **LINEAR
    )
    queries = np.array([one, other])
    found = retriever.retrieve_by_vectors(queries.tolist())
    of_mean = retriever.retrieve_by_vector(mean.tolist())
    left, left_by_mean = (
        reference.posterior_variance(queries, embeddings.vectors(texts_of(each)), 0.01)
        for each in (found, of_mean)
    )
    assert found.choices[-1].posterior_variance == pytest.approx(left, rel=1e-9)
    assert left < 0.5 * left_by_mean
    assert {text.split()[0] for text in texts_of(found)} >= {"one", "other"}


def test_every_candidate_is_read_page_by_page(embeddings):
    texts = [f"row {number}" for number in range(700)]
    store = fill(make_chroma(embeddings), texts)
    made, found = requests(store, every_candidate(DIMENSIONS))
    assert [request.cursor for request in made] == [None, 300, 600]
    assert sorted(texts_of(found)) == sorted(texts)
    expected = embeddings.vectors(texts_of(found))
    assert_allclose(found.embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("m", [1, 3])
def test_a_residual_search_queries_along_the_residual(embeddings, m):
    store, queries = in_memory(embeddings), embeddings.vectors(QUERIES[:m])
    settings = SelectionSettings(k=4, noise_variance=0.05)
    searching = residual_candidates(queries, unit(queries), settings, step_fetch_k=3)
    made, (candidates, selection) = requests(store, searching)
    assert all(
        isinstance(request, Nearest) and 3 <= request.count <= 3 + step
        for step, request in enumerate(made)
    )
    chosen = candidates.embeddings[selection.indices]
    for step, request in enumerate(made):
        known = chosen[:step]
        kernel = known @ known.T + 0.05 * np.eye(step)
        left = queries - (queries @ known.T) @ np.linalg.solve(kernel, known)
        expected = np.concatenate([unit(left), -unit(left)])
        assert_allclose(request.directions[: 2 * m], expected, atol=1e-9)
        assert len(request.directions) == 2 * m + (step > 0)


def test_a_residual_search_chooses_the_largest_gain_among_the_fetched_rows(embeddings):
    store, query = in_memory(embeddings), embeddings.vector(QUERY)[None]
    settings = SelectionSettings(k=5, noise_variance=0.05)
    made, (candidates, selection) = requests(
        store, residual_candidates(query, unit(query), settings, step_fetch_k=4)
    )
    seen = 0
    texts = texts_of(candidates)
    for step, request in enumerate(made):
        for direction in request.directions:
            near = ByHand(embeddings).candidates(direction, fetch_k=request.count)
            seen = max(seen, *(texts.index(text) + 1 for text in near))
        rows = candidates.embeddings[:seen]
        is_away = reference.points_away(query, rows)
        before = selection.indices[:step].tolist()
        assert not is_away[before].any()
        after = reference.variances_if_chosen(query, rows, before, 0.05)
        after[before] = np.inf
        after[is_away] = np.inf
        assert selection.indices[step] == np.argmin(after)
        assert selection.posterior_variances[step] == pytest.approx(after.min(), abs=1e-9)


def test_copies_do_not_change_a_residual_search(embeddings):
    query = embeddings.vector(QUERY)[None]
    settings = SelectionSettings(k=3, noise_variance=0.05)
    for count in (6, 10, 20):
        once, copied = (in_memory(embeddings, TEXTS[:count] * times) for times in (1, 2))
        (one, chosen), (other, chosen_too) = (
            search(
                store,
                residual_candidates(query, unit(query), settings, step_fetch_k=5),
            )
            for store in (once, copied)
        )
        assert texts_of(one) == texts_of(other)
        assert_array_equal(chosen.indices, chosen_too.indices)
        assert (set(one.copies), set(other.copies)) == ({1}, {2})


def test_a_residual_search_of_a_small_store_returns_all_documents(embeddings):
    store = in_memory(embeddings, TEXTS[:3])
    retriever = SIFTRetriever(vectorstore=store, k=9, candidate_search="residual", step_fetch_k=1)
    assert sorted(texts_of(retriever.invoke(QUERY))) == sorted(TEXTS[:3])
