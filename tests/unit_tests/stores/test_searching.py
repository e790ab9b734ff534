"""What becomes a candidate: neighbours on both sides, of different texts, of every vector."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.testing import assert_allclose, assert_array_equal
from unit_tests.stores.real_stores import (
    DIMENSIONS,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    make_chroma,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.stores.calls import run
from langchain_sift.stores.interface import Nearest, Page, adapter_for
from langchain_sift.stores.searching import (
    every_candidate,
    nearest_candidates,
    residual_candidates,
)

QUERIES = [QUERY, "why?", "when was it?", "who knows?"]


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


def search(store, searching):
    return run(searching, adapter_for(store), timeout=30.0, arguments={"filter": None})


def requests(store, searching):
    """Answer the requests of a search by hand; return them and the outcome."""
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


@pytest.mark.parametrize("opposite", [True, False])
@pytest.mark.parametrize("fetch_k", [1, 2, 7, 20, 39, 40, 41, 100])
def test_candidates_are_the_nearest_by_cosine_or_by_its_absolute_value(
    embeddings, fetch_k, opposite
):
    store = in_memory(embeddings)
    for text in QUERIES:
        query = embeddings.vector(text)
        searching = nearest_candidates(query[None], fetch_k=fetch_k, opposite=opposite)
        expected = ByHand(embeddings).candidates(query, fetch_k=fetch_k, absolute=opposite)
        assert texts_of(search(store, searching)) == expected


def test_where_everything_points_away_all_candidates_do(embeddings):
    query = embeddings.vector(QUERY)
    embeddings.given = {
        text: unit(0.3 * embeddings.vector(text) - (1 + number / 40) * query)
        for number, text in enumerate(TEXTS)
    }
    store = in_memory(embeddings)
    for fetch_k in (1, 3, 17):
        found = search(store, nearest_candidates(query[None], fetch_k=fetch_k, opposite=True))
        assert texts_of(found) == ByHand(embeddings).candidates(
            query, fetch_k=fetch_k, absolute=True
        )
        assert (found.embeddings @ query < 0).all()


def test_candidates_of_several_vectors_are_those_of_each_one_after_the_other(embeddings):
    store, queries = in_memory(embeddings), embeddings.vectors(QUERIES)
    found = search(store, nearest_candidates(queries, fetch_k=6, opposite=True))
    assert texts_of(found) == ByHand(embeddings).candidates(queries, fetch_k=6, absolute=True)
    assert_allclose(found.embeddings, embeddings.vectors(texts_of(found)), atol=1e-12)


def test_the_opposite_side_is_asked_for_only_where_there_may_be_something(embeddings):
    store, query = in_memory(embeddings), embeddings.vector(QUERY)[None]
    whole, _ = requests(store, nearest_candidates(query, fetch_k=41, opposite=True))
    assert [request.count for request in whole] == [41]
    plain, _ = requests(store, nearest_candidates(query, fetch_k=9, opposite=False))
    assert [request.count for request in plain] == [9]
    both, _ = requests(store, nearest_candidates(query, fetch_k=9, opposite=True))
    assert both[0].count == 9
    assert all(request.count <= 9 for request in both)
    for request in both[1:]:
        assert_array_equal(request.directions, -query)
    # All on the side of the query, one row of the other side is enough to see that.
    aside = CountingEmbeddings(
        given={text: unit(query[0] + 0.4 * embeddings.vector(text)) for text in TEXTS}
    )
    near, _ = requests(in_memory(aside), nearest_candidates(query, fetch_k=9, opposite=True))
    assert [request.count for request in near] == [9, 1]


def test_rows_without_a_document_are_made_up_for(embeddings):
    store, query = fill(make_chroma(embeddings)), embeddings.vector(QUERY)
    rng = np.random.default_rng(0)
    near = unit(query + 0.01 * rng.standard_normal((25, DIMENSIONS)))
    store._collection.add(ids=[f"bare {n}" for n in range(25)], embeddings=near)
    for fetch_k in (2, 10, 30):
        found = search(store, nearest_candidates(query[None], fetch_k=fetch_k, opposite=False))
        expected = ByHand(embeddings).candidates(query, fetch_k=fetch_k)
        assert texts_of(found) == expected
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=10)
    assert texts_of(retriever.invoke(QUERY)) == ByHand(embeddings).choice(query, k=6, fetch_k=10)


def test_rows_without_a_document_on_the_opposite_side_are_made_up_for(embeddings):
    store, query = fill(make_chroma(embeddings)), embeddings.vector(QUERY)
    rng = np.random.default_rng(0)
    away = unit(-query + 0.01 * rng.standard_normal((25, DIMENSIONS)))
    store._collection.add(ids=[f"bare {n}" for n in range(25)], embeddings=away)
    for fetch_k in (2, 10, 30):
        found = search(store, nearest_candidates(query[None], fetch_k=fetch_k, opposite=True))
        assert texts_of(found) == ByHand(embeddings).candidates(
            query, fetch_k=fetch_k, absolute=True
        )


def test_copies_on_the_opposite_side_leave_room_for_what_else_is_there(embeddings):
    query = embeddings.vector(QUERY)
    embeddings.given = {"repeated": unit(-query + 0.01 * embeddings.vector("any"))}
    texts = [*TEXTS, *["repeated"] * 25]
    store = in_memory(embeddings, texts)
    for fetch_k in (3, 10, 30):
        found = search(store, nearest_candidates(query[None], fetch_k=fetch_k, opposite=True))
        assert texts_of(found) == ByHand(embeddings, texts).candidates(
            query, fetch_k=fetch_k, absolute=True
        )


@pytest.mark.parametrize("make", [make_chroma, InMemoryVectorStore])
def test_a_corpus_of_fifty_copies_gives_the_choice_of_the_corpus_without(embeddings, make):
    once, copied = fill(make(embeddings)), fill(make(embeddings), TEXTS * 50)
    # 16 times 150 rows are enough for all 40 texts.
    of_copies = SIFTRetriever(vectorstore=copied, fetch_k=150)
    for query, k in zip(QUERIES, (1, 4, 7, 12), strict=True):
        retrieval = of_copies.retrieve_with_scores(query, k=k)
        assert texts_of(retrieval) == texts_of(SIFTRetriever(vectorstore=once, k=k).invoke(query))
        assert retrieval.candidates == len(TEXTS)
        assert {choice.copies for choice in retrieval.choices} == {50}


def test_of_more_copies_than_are_read_k_different_texts_are_chosen(embeddings):
    store = in_memory(embeddings, TEXTS * 50)
    # 16 times 30 rows hold 9 of the 40 texts on the side of the query.
    found = SIFTRetriever(vectorstore=store, k=9, fetch_k=30).invoke(QUERY)
    assert len(set(texts_of(found))) == 9


def test_copies_are_looked_through_sixteen_times_over_and_no_further(embeddings):
    store, query = in_memory(embeddings, ["same"] * 500), embeddings.vector(QUERY)
    made, found = requests(store, nearest_candidates(query[None], fetch_k=10, opposite=False))
    assert [request.count for request in made] == [10, 40, 160]
    assert (texts_of(found), found.copies) == (["same"], (160,))


def test_of_equal_rows_the_first_by_id_represents_its_text(embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_texts(["same", "same", "same"], ids=["b", "a", "c"])
    found = search(
        store, nearest_candidates(embeddings.vector(QUERY)[None], fetch_k=5, opposite=True)
    )
    assert [document.id for document in found.documents] == ["a"]


def test_only_the_vector_that_found_too_few_texts_is_searched_for_again(embeddings):
    query, other = np.eye(DIMENSIONS)[:2]
    embeddings.given = {"same": unit(other + 0.1), **{t: unit(query + 0.1) for t in TEXTS[:5]}}
    store = in_memory(embeddings, [*["same"] * 50, *TEXTS[:5]])
    searching = nearest_candidates(np.array([query, other]), fetch_k=5, opposite=False)
    made, _ = requests(store, searching)
    assert [len(request.directions) for request in made] == [2, 1, 1]
    assert_array_equal(made[1].directions, [other])


@pytest.mark.parametrize("second", ["opposed", "orthogonal"])
def test_neighbours_of_each_vector_explain_what_neighbours_of_their_mean_do_not(second):
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
        vectorstore=in_memory(embeddings, list(given)), k=4, fetch_k=20, noise_variance=0.01
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
def test_a_residual_search_asks_along_what_is_not_explained_yet(embeddings, m):
    store, queries = in_memory(embeddings), embeddings.vectors(QUERIES[:m])
    settings = {"k": 4, "noise_variance": 0.05}
    searching = residual_candidates(queries, step_fetch_k=3, **settings)
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


def test_a_residual_search_chooses_what_gains_most_of_what_it_has_seen(embeddings):
    store, query = in_memory(embeddings), embeddings.vector(QUERY)[None]
    settings = {"k": 5, "noise_variance": 0.05}
    made, (candidates, selection) = requests(
        store, residual_candidates(query, step_fetch_k=4, **settings)
    )
    seen = 0
    texts = texts_of(candidates)
    for step, request in enumerate(made):
        for direction in request.directions:
            near = ByHand(embeddings).candidates(direction, fetch_k=request.count)
            seen = max(seen, *(texts.index(text) + 1 for text in near))
        after = reference.variances_if_chosen(
            query, candidates.embeddings[:seen], selection.indices[:step].tolist(), 0.05
        )
        after[selection.indices[:step]] = np.inf
        assert selection.indices[step] == np.argmin(after)
        assert selection.posterior_variances[step] == pytest.approx(after.min(), abs=1e-9)


def test_a_residual_search_sees_the_same_whether_its_rows_are_copied_or_not(embeddings):
    query = embeddings.vector(QUERY)[None]
    for count in (6, 10, 20):
        once, copied = (in_memory(embeddings, TEXTS[:count] * times) for times in (1, 2))
        (one, chosen), (other, chosen_too) = (
            search(store, residual_candidates(query, step_fetch_k=5, k=3, noise_variance=0.05))
            for store in (once, copied)
        )
        assert texts_of(one) == texts_of(other)
        assert_array_equal(chosen.indices, chosen_too.indices)
        assert (set(one.copies), set(other.copies)) == ({1}, {2})


def test_a_residual_search_of_less_than_k_returns_what_there_is(embeddings):
    store = in_memory(embeddings, TEXTS[:3])
    retriever = SIFTRetriever(vectorstore=store, k=9, candidate_search="residual", step_fetch_k=1)
    assert sorted(texts_of(retriever.invoke(QUERY))) == sorted(TEXTS[:3])
