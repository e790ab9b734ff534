"""Retrieve under budgets, caps, floors and scores, and compare with brute force."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM
from pydantic import ValidationError
from reference import points_away, retrieval
from unit_tests.stores.real_stores import (
    KINDS,
    QUERY,
    CountingEmbeddings,
    condition,
    id_of,
    make_chroma,
    make_store,
    texts_of,
)

from langchain_sift import SIFTReranker, SIFTRetriever
from langchain_sift.errors import ArgumentError
from langchain_sift.retrieval.constraints import group_numbers, weighted_noise, weights_of
from langchain_sift.selection import select
from langchain_sift.stores.interface import adapter_for

TEXTS = [f"fact {number} " + "word " * (number % 7) for number in range(40)]
ALIKE = ["near 0", "near 1", "near 2"]
"""Texts with vectors of cosines above 0.99."""


@pytest.fixture
def embeddings():
    base = CountingEmbeddings()
    rng = np.random.default_rng(0)
    centre = base.vector(TEXTS[3])
    given = {text: centre + 0.02 * rng.standard_normal(8) for text in ALIKE}
    return CountingEmbeddings(given={text: v / np.linalg.norm(v) for text, v in given.items()})


def metadata(number):
    values = {"number": number, "even": number % 2 == 0, "trust": (number % 5) / 4}
    return {**values, "source": f"file {number % 4}"} if number % 8 else values


def fill(store, texts=(*TEXTS, *ALIKE)):
    store.add_texts(
        list(texts),
        metadatas=[metadata(number) for number in range(len(texts))],
        ids=[id_of(number) for number in range(len(texts))],
    )
    return store


@pytest.fixture
def store(embeddings):
    return fill(make_chroma(embeddings))


@pytest.fixture(params=KINDS)
def every_store(request, embeddings, tmp_path):
    return fill(make_store(request.param, embeddings, tmp_path))


def words(text):
    return len(text.split())


def test_a_budget_of_tokens_is_kept_and_filled(every_store, embeddings):
    retriever = SIFTRetriever(
        vectorstore=every_store, max_tokens=20, token_counter=words, fetch_k=43
    )
    found = texts_of(retriever.invoke(QUERY))
    texts = [*TEXTS, *ALIKE]
    query = embeddings.vector(QUERY)
    is_away = points_away(query[None], embeddings.vectors(texts))
    toward = [text for text, away in zip(texts, is_away, strict=True) if not away]
    chosen = select(
        query,
        embeddings.vectors(toward),
        k=43,
        costs=[words(text) for text in toward],
        max_cost=20,
        **kernel_of(retriever),
    )
    assert found == [toward[row] for row in chosen.indices]
    left = 20 - sum(map(words, found))
    assert left >= 0
    assert all(words(text) > left for text in texts if text not in found)


def kernel_of(retriever):
    settings = retriever._settings({}, adapter_for(retriever.vectorstore)).selection
    names = ("kernel", "length_scale", "noise_variance")
    return {name: getattr(settings, name) for name in names}


def test_a_budget_and_k_both_hold(store):
    retriever = SIFTRetriever(vectorstore=store, k=3, max_tokens=1000, token_counter=words)
    assert len(retriever.invoke(QUERY)) == 3
    assert len(retriever.invoke(QUERY, k=5)) == 5
    assert len(retriever.invoke(QUERY, max_tokens=2)) == 1


def test_nothing_is_returned_if_no_document_fits(store):
    assert SIFTRetriever(vectorstore=store, max_tokens=1, token_counter=words).invoke(QUERY) == []


class Tokenizer:
    def encode(self, text):
        return text.split()


class Model(FakeListLLM):
    def get_num_tokens(self, text):
        return words(text)


@pytest.mark.parametrize("counter", [words, Tokenizer(), Model(responses=["a"])])
def test_tokens_are_counted_by_functions_tokenizers_and_models(store, counter):
    expected = SIFTRetriever(vectorstore=store, max_tokens=15, token_counter=words).invoke(QUERY)
    found = SIFTRetriever(vectorstore=store, max_tokens=15, token_counter=counter).invoke(QUERY)
    assert found == expected


def test_without_a_counter_the_embeddings_tokenizer_counts(store, embeddings):
    by_characters = SIFTRetriever(vectorstore=store, max_tokens=15).invoke(QUERY)
    assert sum(math.ceil(len(text) / 4) for text in texts_of(by_characters)) <= 15
    embeddings.tokenizer = Tokenizer()
    by_words = SIFTRetriever(vectorstore=store, max_tokens=15).invoke(QUERY)
    expected = SIFTRetriever(vectorstore=store, max_tokens=15, token_counter=words).invoke(QUERY)
    assert by_words == expected != by_characters


def test_a_counter_is_not_kept_after_its_retrieval(store):
    class Tokenizer:
        def encode(self, text):
            return text.split()

    tokenizer = Tokenizer()
    left = weakref.ref(tokenizer)
    assert SIFTRetriever(vectorstore=store, max_tokens=9, token_counter=tokenizer).invoke(QUERY)
    assert SIFTRetriever(vectorstore=store).invoke(QUERY, max_tokens=9, token_counter=tokenizer)
    del tokenizer
    gc.collect()
    assert left() is None


def test_at_most_so_many_documents_come_from_a_source(every_store):
    found = SIFTRetriever(vectorstore=every_store, k=43, max_per_source=2).invoke(QUERY)
    sources = [document.metadata.get("source") for document in found]
    assert all(sources.count(source) == 2 for source in set(sources) - {None})
    assert sources.count(None) == 6  # a document without the key is a source of its own


def test_documents_are_grouped_by_any_key(store):
    retriever = SIFTRetriever(vectorstore=store, k=43, max_per_source=1, group_by="even")
    assert sorted(document.metadata["even"] for document in retriever.invoke(QUERY)) == [
        False,
        True,
    ]


def test_values_of_different_types_are_different_groups():
    values = [1, 1.0, "1", True, None, None, [1], [1]]
    documents = [
        Document("text", metadata={} if value is None else {"key": value}) for value in values
    ]
    numbers = group_numbers(documents, "key")
    assert len(set(numbers[:6])) == 6
    assert numbers[6] == numbers[7]


@pytest.mark.parametrize("lowest", [-1.0, 0.0, 0.3, 0.99])
def test_no_document_is_less_similar_than_the_lowest(every_store, embeddings, lowest):
    found = SIFTRetriever(vectorstore=every_store, k=43, min_similarity=lowest).invoke(QUERY)
    texts = [*TEXTS, *ALIKE]
    cosines = embeddings.vectors(texts) @ embeddings.vector(QUERY)
    assert set(texts_of(found)) == {texts[row] for row in np.flatnonzero(cosines >= lowest)}


def test_for_a_split_query_the_most_similar_part_counts(store, embeddings):
    retriever = SIFTRetriever(
        vectorstore=store, k=43, min_similarity=0.5, query_splitter=lambda text: text.split("|")
    )
    parts = embeddings.vectors(["one", "two"])
    texts = [*TEXTS, *ALIKE]
    similar = (embeddings.vectors(texts) @ parts.T).max(axis=1) >= 0.5
    found = set(texts_of(retriever.invoke("one|two")))
    assert found == {text for text, is_similar in zip(texts, similar, strict=True) if is_similar}


def test_near_duplicates_count_as_one_and_their_number_is_reported(every_store, embeddings):
    retriever = SIFTRetriever(vectorstore=every_store, k=43, near_duplicate_similarity=0.97)
    retrieval = retriever.retrieve_with_scores(TEXTS[3])
    copies = {choice.document.page_content: choice.copies for choice in retrieval.choices}
    vectors = embeddings.vectors(list(copies))
    cosines = vectors @ vectors.T - 2.0 * np.eye(len(vectors))
    assert cosines.max() < 0.97
    assert copies[TEXTS[3]] == 4
    assert sum(copies.values()) == 43
    assert retrieval.candidates == len(copies)


def test_a_score_makes_a_document_count_for_less(store, embeddings):
    texts = [*TEXTS, *ALIKE]
    retriever = SIFTRetriever(vectorstore=store, k=10, score_key="trust")
    kernel = kernel_of(retriever)
    weights = np.array([metadata(number)["trust"] for number in range(len(texts))])
    noise = (1 + kernel.pop("noise_variance")) / np.maximum(weights, 1e-9) - 1
    assert kernel["kernel"] == "linear"
    queries = embeddings.vector(QUERY)[None]
    chosen, _ = retrieval(queries, embeddings.vectors(texts), k=10, noise_variance=noise)
    assert texts_of(retriever.invoke(QUERY)) == [texts[row] for row in chosen]
    unweighted = SIFTRetriever(vectorstore=store, k=10).invoke(QUERY)
    assert texts_of(unweighted) != texts_of(retriever.invoke(QUERY))


def weights(*scores):
    documents = [Document("t", metadata={} if score is None else {"s": score}) for score in scores]
    return weights_of([(document,) for document in documents], "s")


def test_the_first_gain_is_multiplied_by_the_score():
    noise = weighted_noise(0.1, weights(1.0, 0.5, 0.25))
    np.testing.assert_allclose(1 / (1 + noise), np.array([1.0, 0.5, 0.25]) / 1.1)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.95, 0.96, 1.0000001], [0.95, 0.96, 1.0]),
        ([97, 98, 99], [97 / 99, 98 / 99, 1.0]),
        ([-3.0, 12, 4.5], [0.0, 1.0, 0.5]),
        ([-1e308, 1e308, 0], [0.0, 1.0, 0.5]),
        ([-7, -7], [1.0, 1.0]),
        ([0, 0], [0.0, 0.0]),
        ([0.2, None, 0.6], [0.2, 0.4, 0.6]),
    ],
)
def test_scores_of_any_scale_become_weights_from_0_to_1(scores, expected):
    np.testing.assert_allclose(weights(*scores), expected, rtol=1e-6)


def test_the_highest_score_of_copies_counts(embeddings):
    store = make_chroma(embeddings)
    trust = {TEXTS[0]: 0.1, TEXTS[3]: 0.0, "near 0": 1.0, TEXTS[1]: 0.3}
    store.add_texts([*trust, TEXTS[0]], metadatas=[{"trust": t} for t in (*trust.values(), 1.0)])
    exact = SIFTRetriever(vectorstore=store, k=1, score_key="trust")
    assert texts_of(exact.invoke(TEXTS[0])) == [TEXTS[0]]
    near = SIFTRetriever(vectorstore=store, k=1, score_key="trust", near_duplicate_similarity=0.97)
    assert texts_of(near.invoke(TEXTS[3])) == [TEXTS[3]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, math.nan], "is nan: it must be a finite number"),
        ([0.1, math.inf], "is inf: it must be"),
        (["high", 1.0], "is a str: it must be"),
        ([True, 1.0], "is a bool: it must be"),
        ([10**400, 1.0], "is a int: it must be"),
        ([None, None], "none of 2 documents has a score under 's'"),
    ],
)
def test_an_invalid_score_is_an_error_that_names_it(scores, message):
    with pytest.raises(ArgumentError, match=message):
        weights(*scores)


@pytest.mark.parametrize("search_type", ["mmr", "similarity", "uncertainty_sampling"])
def test_scores_need_sift(store, search_type):
    with pytest.raises(ValidationError, match="score_key needs search_type 'sift'"):
        SIFTRetriever(vectorstore=store, score_key="trust", search_type=search_type)


@pytest.mark.parametrize("counter", [lambda _: None, lambda text: [text], lambda _: math.nan])
def test_a_counter_must_return_numbers_and_no_error_has_the_text(store, counter):
    retriever = SIFTRetriever(vectorstore=store, max_tokens=9, token_counter=counter)
    with pytest.raises(ArgumentError, match="must return a number of tokens") as caught:
        retriever.invoke(QUERY)
    assert "fact" not in str(caught.value)


def test_a_negative_number_of_tokens_is_named(store):
    retriever = SIFTRetriever(vectorstore=store, max_tokens=9, token_counter=lambda _: -1)
    with pytest.raises(ArgumentError, match=r"tokens, 0 or more, got -1$"):
        retriever.invoke(QUERY)


def test_a_name_is_no_counter(store):
    settings = {"max_tokens": 9, "token_counter": "cl100k_base"}
    with pytest.raises(ValidationError, match="token_counter must be a function"):
        SIFTRetriever(vectorstore=store, **settings)


def test_a_budget_that_does_not_bind_changes_nothing(store):
    free = SIFTRetriever(vectorstore=store, k=6)
    assert free.invoke(QUERY, max_tokens=10**6) == free.invoke(QUERY)


def test_an_exact_match_passes_the_highest_floor(every_store):
    for text in TEXTS:
        found = SIFTRetriever(vectorstore=every_store, min_similarity=1.0).invoke(text)
        assert texts_of(found) == [text]


def test_the_nearest_of_near_duplicates_stands_for_them_in_every_search(store):
    for search in ("nearest", "exhaustive"):
        retriever = SIFTRetriever(
            vectorstore=store, k=1, near_duplicate_similarity=0.97, candidate_search=search
        )
        assert texts_of(retriever.invoke("near 1")) == ["near 1"]


ALL = {
    "max_tokens": 30,
    "token_counter": words,
    "max_per_source": 2,
    "min_similarity": -0.5,
    "near_duplicate_similarity": 0.97,
    "score_key": "trust",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("search", ["nearest", "exhaustive"])
async def test_all_constraints_work_together_in_every_way_of_calling(
    kind, search, replace, embeddings, tmp_path
):
    store = fill(make_store(kind, embeddings, tmp_path))
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search, **ALL)
    call = {"replace": replace, "filter": condition(kind, "even", value=True)}
    found = retriever.invoke(QUERY, **call)
    assert found
    assert all(document.metadata["even"] for document in found)
    assert sum(map(words, texts_of(found))) <= 30
    sources = [document.metadata.get("source") for document in found]
    assert max(sources.count(source) for source in set(sources) - {None}) <= 2
    assert await retriever.ainvoke(QUERY, **call) == found
    assert retriever.batch([QUERY, QUERY], **call) == [found, found]
    assert await retriever.abatch([QUERY], **call) == [found]


@pytest.mark.parametrize("name", [name for name in ALL if name != "token_counter"])
def test_a_residual_search_refuses_a_constraint(store, name):
    with pytest.raises(ValidationError, match=f"'residual' takes no {name}: use 'nearest'"):
        SIFTRetriever(vectorstore=store, candidate_search="residual", **{name: ALL[name]})


def test_a_residual_search_keeps_to_the_linear_kernel(store):
    store.embeddings.kernel, store.embeddings.noise_variance = "rbf", 0.1
    assert kernel_of(SIFTRetriever(vectorstore=store))["kernel"] == "rbf"
    retriever = SIFTRetriever(vectorstore=store, candidate_search="residual")
    assert kernel_of(retriever)["kernel"] == "linear"
    with pytest.raises(ValidationError, match="'residual' needs the kernel 'linear', got 'rbf'"):
        SIFTRetriever(vectorstore=store, candidate_search="residual", kernel="rbf")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kernel", "rfb", "did you mean 'rbf'"),
        ("length_scale", 0.0, "length_scale must be positive and finite, got 0"),
        ("max_tokens", 0, "max_tokens must be an integer of at least 1, got 0"),
        ("max_per_source", 0, "max_per_source must be an integer of at least 1"),
        ("group_by", "", "group_by must be a key of the metadata, got ''"),
        ("score_key", "", "score_key must be a key of the metadata, got ''"),
        ("min_similarity", 1.5, "min_similarity must be from -1 to 1, got 1.5"),
        ("min_similarity", math.nan, "min_similarity must be from -1 to 1, got nan"),
        ("near_duplicate_similarity", 0, "near_duplicate_similarity must be above 0 and at most 1"),
        ("token_counter", 3, "token_counter must be a function of a text, a tokenizer or"),
    ],
)
def test_a_constraint_out_of_range_is_named(store, name, value, message):
    with pytest.raises(ValidationError, match=message):
        SIFTRetriever(vectorstore=store, **{name: value})
    with pytest.raises(ArgumentError, match=message):
        SIFTRetriever(vectorstore=store).invoke(QUERY, **{name: value})
    with pytest.raises(ValidationError, match=message):
        SIFTReranker(embeddings=store.embeddings, **{name: value})


@pytest.mark.parametrize("settings", [{}, {"kernel": "rbf", "length_scale": 0.5}, ALL])
def test_the_reranker_chooses_as_the_retriever_does(store, settings):
    retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=43, **settings)
    nearest = SIFTRetriever(vectorstore=store, k=43, search_type="similarity").invoke(QUERY)
    reranker = SIFTReranker(embeddings=store.embeddings, top_n=6, **settings)
    assert texts_of(reranker.compress_documents(nearest, QUERY)) == texts_of(
        retriever.invoke(QUERY)
    )
