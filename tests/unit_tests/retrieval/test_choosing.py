"""Compare scores with the dense formula on the vectors that filled the store."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from reference import posterior_variance
from unit_tests.stores.real_stores import (
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.retrieval.scores import (
    ScoredMetadata,
    too_little_to_gain,
    uncertainty_given,
    unrelated_gain_of,
)
from langchain_sift.stores import Candidates

QUERIES = [QUERY, "why?", "when was it?"]
NOISE = 0.1


@pytest.fixture
def embeddings():
    return CountingEmbeddings(lengths=(0.5, 1.0, 3.0))


@pytest.fixture
def store(embeddings):
    return fill(InMemoryVectorStore(embeddings))


def make(store, **settings):
    defaults = {"k": 6, "kernel": "linear", "noise_variance": NOISE}
    return SIFTRetriever(vectorstore=store, **{**defaults, **settings})


def unexplained(queries, candidates):
    """Return the squared distances of the queries from the candidates' span, summed."""
    weights, *_ = np.linalg.lstsq(candidates.T, queries.T, rcond=None)
    return float(np.sum((queries.T - candidates.T @ weights) ** 2))


def check(retrieval, queries, embeddings, *, candidates=None):
    """Compare every number with its definition."""
    chosen = unit(embeddings.vectors(texts_of(retrieval)))
    left = [posterior_variance(queries, chosen[:n], NOISE) for n in range(len(chosen) + 1)]
    counts = Counter(texts_of(retrieval))
    assert retrieval.prior_variance == pytest.approx(left[0], rel=1e-9)
    assert retrieval.posterior_std == pytest.approx(math.sqrt(left[-1] / len(queries)), abs=1e-9)
    for step, choice in enumerate(retrieval.choices):
        cosines = queries @ chosen[step]
        assert choice.similarity == pytest.approx(np.mean(cosines), abs=1e-12)
        assert choice.gain == pytest.approx(left[step] - left[step + 1], abs=1e-9)
        assert choice.posterior_variance == pytest.approx(left[step + 1], abs=1e-9)
        assert choice.id == choice.document.id
        assert choice.count == counts[choice.document.page_content]
    if candidates is not None:
        rest = unexplained(queries, unit(embeddings.vectors(candidates)))
        assert retrieval.irreducible_variance == pytest.approx(rest, abs=1e-9)
        assert retrieval.candidates == len(candidates)
    last = retrieval.choices[-1].posterior_variance
    assert retrieval.prior_variance >= last >= retrieval.irreducible_variance - 1e-9
    assert retrieval.irreducible_variance >= 0.0


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("fetch_k", [2, 6, 100])
def test_every_number_equals_the_dense_formula(store, embeddings, m, fetch_k):
    queries = unit(embeddings.vectors(QUERIES[:m]))
    retriever = make(store, k=2, fetch_k=fetch_k)
    candidates = ByHand(embeddings).candidates(queries, fetch_k=fetch_k)
    for k, replace in itertools.product((1, 2, 9) if fetch_k > 9 else (1, 2), (False, True)):
        retrieval = retriever.retrieve_by_vectors(queries.tolist(), k=k, replace=replace)
        assert len(retrieval.choices) == k
        check(retrieval, queries, embeddings, candidates=candidates)


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "uncertainty_sampling"])
def test_the_numbers_of_every_method_equal_the_formula(store, embeddings, search_type):
    for m in (1, 3):
        queries = unit(embeddings.vectors(QUERIES[:m]))
        retrieval = make(store, search_type=search_type).retrieve_by_vectors(queries.tolist())
        check(retrieval, queries, embeddings, candidates=TEXTS)


@pytest.mark.parametrize("search", ["residual", "exhaustive"])
def test_the_numbers_of_every_candidate_search_equal_the_formula(store, embeddings, search):
    queries = unit(embeddings.vectors(QUERIES))
    retriever = make(store, candidate_search=search, step_fetch_k=3)
    retrieval = retriever.retrieve_by_vectors(queries.tolist())
    check(retrieval, queries, embeddings, candidates=TEXTS if search == "exhaustive" else None)


def test_a_single_candidate_leaves_the_orthogonal_part(embeddings):
    store = fill(InMemoryVectorStore(embeddings), TEXTS[:1])
    query, only = (unit(embeddings.vector(text)) for text in (QUERY, TEXTS[0]))
    retrieval = make(store).retrieve_with_scores(QUERY)
    cosine = float(query @ only)
    assert retrieval.irreducible_variance == pytest.approx(1 - cosine**2, abs=1e-12)
    (choice,) = retrieval.choices
    assert choice.similarity == pytest.approx(cosine, abs=1e-12)
    assert choice.posterior_variance == pytest.approx(1 - cosine**2 / (1 + NOISE), abs=1e-12)


def test_all_numbers_are_python_numbers_and_json_serializable(store):
    retrieval = make(store).retrieve_with_scores(QUERY, replace=True)
    expected = {
        "prior_variance": float,
        "posterior_std": float,
        "irreducible_variance": float,
        "candidates": int,
    }
    assert {name: type(getattr(retrieval, name)) for name in expected} == expected
    expected = {
        "document": Document,
        "id": str,
        "similarity": float,
        "gain": float,
        "posterior_variance": float,
        "count": int,
        "copies": int,
        "chunk": type(None),  # there is no docstore
    }
    for choice in retrieval.choices:
        assert {field.name: type(getattr(choice, field.name)) for field in fields(choice)} == (
            expected
        )
    numbers = [[choice.gain, choice.count] for choice in retrieval.choices]
    assert json.loads(json.dumps(numbers)) == numbers


def test_a_repeated_document_is_counted_in_each_of_its_choices(store):
    retrieval = make(store, k=12, noise_variance=20.0).retrieve_with_scores(QUERY, replace=True)
    counts = Counter(texts_of(retrieval))
    assert max(counts.values()) > 1
    assert [choice.count for choice in retrieval.choices] == [
        counts[text] for text in texts_of(retrieval)
    ]
    once = make(store, k=12).retrieve_with_scores(QUERY)
    assert {choice.count for choice in once.choices} == {1}


@pytest.mark.parametrize("replace", [False, True])
def test_the_documents_are_those_of_invoke(store, replace):
    retriever = make(store)
    for query in QUERIES:
        retrieval = retriever.retrieve_with_scores(query, replace=replace)
        assert retrieval.documents == retriever.invoke(query, replace=replace)
        assert retrieval.documents == [choice.document for choice in retrieval.choices]


async def test_the_asynchronous_methods_return_the_same(store, embeddings):
    retriever = make(store)
    vectors = embeddings.vectors(QUERIES).tolist()
    for settings in ({}, {"k": 3}, {"candidate_search": "residual"}, {"replace": True}):
        one = await retriever.aretrieve_with_scores(QUERY, **settings)
        assert one == retriever.retrieve_with_scores(QUERY, **settings)
        assert one == retriever.retrieve_by_vector(vectors[0], **settings)
        assert one == await retriever.aretrieve_by_vector(vectors[0], **settings)
        several = retriever.retrieve_by_vectors(vectors, **settings)
        assert several == await retriever.aretrieve_by_vectors(vectors, **settings)
        assert several != one


def test_the_length_of_a_query_vector_changes_nothing(store, embeddings):
    vector = unit(embeddings.vector(QUERY))
    expected = make(store).retrieve_by_vector(vector.tolist())
    for length in (1e-3, 250.0):
        found = make(store).retrieve_by_vector((length * vector).tolist())
        assert texts_of(found) == texts_of(expected)
        assert found.posterior_std == pytest.approx(expected.posterior_std, rel=1e-9)
        assert found.prior_variance == pytest.approx(1.0, rel=1e-12)


# The score in the metadata


def test_a_gain_key_writes_the_gain_and_does_not_change_the_store(store):
    retriever = make(store, gain_key="gain")
    plain = make(store)
    gains = [choice.gain for choice in plain.retrieve_with_scores(QUERY).choices]
    for _ in range(2):
        found = retriever.invoke(QUERY)
        assert [document.metadata["gain"] for document in found] == gains
        assert {type(document.metadata["gain"]) for document in found} == {float}
        assert [document.id for document in found] == [d.id for d in plain.invoke(QUERY)]
        found[0].metadata["gain"] = -1.0
    assert all(set(document.metadata) == {"number", "even"} for document in plain.invoke(QUERY))
    assert all(set(row["metadata"]) == {"number", "even"} for row in store.store.values())


async def test_a_gain_key_applies_to_every_way_of_calling(store):
    retriever = make(store, gain_key="gain")
    expected = [dict(document.metadata) for document in retriever.invoke(QUERY)]
    ways = [
        await retriever.ainvoke(QUERY),
        *retriever.batch([QUERY]),
        *await retriever.abatch([QUERY]),
    ]
    for found in ways:
        assert [dict(document.metadata) for document in found] == expected


def test_documents_with_scores_survive_json(store):
    for document in make(store, gain_key="gain").invoke(QUERY):
        read = Document.model_validate_json(document.model_dump_json())
        assert dict(read.metadata) == dict(document.metadata)
        assert read == document


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_the_gains_of_a_split_query_are_shares_of_all_its_parts(store, embeddings, parts):
    texts = [f"part {number}" for number in range(parts)]
    retriever = make(store, query_splitter=lambda _: texts, gain_key="gain")
    documents = retriever.invoke(QUERY)
    vectors = unit(embeddings.vectors(texts))
    chosen = unit(embeddings.vectors([document.page_content for document in documents]))
    left = posterior_variance(vectors, chosen, NOISE) / parts
    assert uncertainty_given(documents) == pytest.approx(math.sqrt(left), abs=1e-9)
    assert too_little_to_gain(documents, 1 - left - 1e-6) is None
    assert too_little_to_gain(documents, 1 - left + 1e-6) is not None
    assert unrelated_gain_of(documents) == pytest.approx(0.274**2 / (1 + NOISE))
    assert unrelated_gain_of([*documents, Document("another")]) is None
    del documents[0].metadata["gain"]
    assert uncertainty_given(documents) is None


def test_documents_of_two_queries_are_equal(store):
    retriever = make(store, k=40, gain_key="gain")
    first, second = (retriever.invoke(query) for query in QUERIES[:2])
    by_id = {document.id: document for document in second}
    assert any(d.metadata["gain"] != by_id[d.id].metadata["gain"] for d in first)
    for document in first:
        assert document == by_id[document.id]
        assert sum(document == other for other in second) == 1


def test_the_score_is_ignored_on_either_side_of_a_comparison():
    scored = ScoredMetadata({"a": 1}, "gain", 0.5)
    assert dict(scored) == {"a": 1, "gain": 0.5}
    for equal in (
        ScoredMetadata({"a": 1}, "gain", 0.25),
        {"a": 1},
        {"a": 1, "gain": 0.25},
        {"gain": None, "a": 1},
    ):
        assert scored == equal
        assert equal == scored
        assert (scored != equal) is False
        assert (equal != scored) is False
    for other in (
        ScoredMetadata({"a": 2}, "gain", 0.5),
        ScoredMetadata({"a": 1, "b": 1}, "gain", 0.5),
        {"a": 2, "gain": 0.5},
        {"gain": 0.5},
        {"a": 1, "b": 1, "gain": 0.5},
        [("a", 1)],
        None,
    ):
        assert scored != other
        assert other != scored
        assert (scored == other) is False
    with pytest.raises(TypeError, match="unhashable"):
        hash(scored)


def test_an_existing_key_is_overwritten_in_the_copy_only():
    stored = {"gain": "stored", "a": 1}
    scored = ScoredMetadata(stored, "gain", 0.5)
    assert scored["gain"] == 0.5
    assert stored == {"gain": "stored", "a": 1}


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda scored: pickle.loads(pickle.dumps(scored))],  # noqa: S301
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_of_scored_metadata_compares_like_the_original(copied):
    scored = ScoredMetadata({"a": [1]}, "gain", 0.5)
    again = copied(scored)
    assert (type(again), dict(again)) == (ScoredMetadata, dict(scored))
    again["gain"] = 0.25
    assert again == scored
    assert again == {"a": [1]}
    assert again != {"a": [2]}


def test_a_second_score_is_ignored_too():
    first = ScoredMetadata({"a": [1]}, "similarity", 0.5)
    both = ScoredMetadata(first, "gain", 0.25)
    assert dict(both) == {"a": [1], "similarity": 0.5, "gain": 0.25}
    for equal in (first, {"a": [1]}, ScoredMetadata({"a": [1]}, "gain", 1.0)):
        assert both == equal
        assert equal == both
    assert both != {"a": [2]}
    document = Document("text").model_copy(update={"metadata": both})
    candidates = Candidates((document,), np.eye(1), (1,))
    kept = candidates.copy_documents([0])[0].metadata
    kept["gain"] = 7.0
    assert kept == {"a": [1]}
    assert kept["a"] is not both["a"]


# Stopping early


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("query", ["a?", "b?", "c?"])
def test_stopping_returns_the_prefix_of_the_rule(store, embeddings, query, m):
    queries = unit(embeddings.vectors([query, *QUERIES][:m]))
    retriever = make(store, k=20, noise_variance=0.5)
    whole = texts_of(retriever.retrieve_by_vectors(queries.tolist()))
    chosen = unit(embeddings.vectors(whole))
    sigmas = [math.sqrt(posterior_variance(queries, chosen[:n], 0.5) / m) for n in range(1, 21)]
    lengths = set()
    for alpha in np.geomspace(0.05, 50, 25).tolist():
        enough = [n for n, sigma in enumerate(sigmas, start=1) if sigma > 1 / (alpha * n)]
        expected = enough[0] if enough else 20
        found = retriever.retrieve_by_vectors(queries.tolist(), stopping_alpha=alpha)
        assert texts_of(found) == whole[:expected]
        lengths.add(expected)
    assert {1, 20} < lengths


def test_a_repeated_query_vector_changes_nothing(store, embeddings):
    retriever = make(store, k=20, noise_variance=0.5)
    for query in QUERIES:
        vector = embeddings.vector(query).tolist()
        for alpha in (None, 0.2, 0.4, 1.0, 30.0):
            once = retriever.retrieve_by_vector(vector, stopping_alpha=alpha)
            for times in (2, 5):
                again = retriever.retrieve_by_vectors([vector] * times, stopping_alpha=alpha)
                assert texts_of(again) == texts_of(once)
                assert again.posterior_std == pytest.approx(once.posterior_std, rel=1e-9)
                assert again.prior_variance == pytest.approx(times, rel=1e-9)
                assert [c.similarity for c in again.choices] == pytest.approx(
                    [c.similarity for c in once.choices]
                )


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_stopping_is_the_same_in_every_candidate_search(store, search):
    retriever = make(store, k=20, noise_variance=0.5, candidate_search=search, step_fetch_k=40)
    whole = texts_of(retriever.invoke(QUERY))
    for alpha in (0.1, 0.3, 0.5, 2.0):
        expected = make(store, k=20, noise_variance=0.5).invoke(QUERY, stopping_alpha=alpha)
        found = texts_of(retriever.invoke(QUERY, stopping_alpha=alpha))
        assert found == texts_of(expected)
        assert len(found) >= 1
        assert found == whole[: len(found)]
