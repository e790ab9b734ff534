"""Search a store by words, and compare with BM25 written out."""

from __future__ import annotations

import math
import threading
from collections import Counter
from importlib import util

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError
from rank_bm25 import BM25Okapi
from unit_tests.stores.real_stores import (
    KINDS,
    CountingEmbeddings,
    condition,
    fill,
    id_of,
    make_chroma,
    make_store,
    texts_of,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import MissingExtraError, StoreTimeout
from langchain_sift.report.words import words_of
from langchain_sift.stores import StoreBM25Retriever
from langchain_sift.stores.bm25 import postings_of

pytestmark = pytest.mark.slow

TEXTS = [
    "The clock of the border town is broken.",
    "A clock, a clock, and one more clock!",
    "Nobody repairs it.",
    "The town has a border and a river.",
    "Rivers are long.",
    "Émile repairs clocks in the town.",
    "...",
    *(f"filler number {number}" for number in range(20)),
]


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, embeddings, tmp_path):
    return fill(make_store(kind, embeddings, tmp_path), TEXTS)


def okapi(query, texts):
    """Return the texts that share a word with the query, by BM25 with k₁ = 1.5 and b = 0.75."""
    tokens = [words_of(text) for text in texts]
    kept = [row for row, each in enumerate(tokens) if each]
    length = sum(len(tokens[row]) for row in kept) / len(kept)
    frequency = Counter(word for row in kept for word in set(tokens[row]))

    def score(row):
        counts, total = Counter(tokens[row]), 0.0
        for word in words_of(query):
            idf = math.log((len(kept) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            norm = 1.5 * (0.25 + 0.75 * len(tokens[row]) / length)
            total += idf * counts[word] * 2.5 / (counts[word] + norm)
        return total

    sharing = [row for row in kept if set(tokens[row]) & set(words_of(query))]
    return [texts[row] for row in sorted(sharing, key=lambda row: (-score(row), row))]


QUERIES = ["Who repairs the broken clock?", "BORDER town", "émile", "clock clock river"]


@pytest.mark.parametrize("query", QUERIES)
async def test_the_order_is_that_of_the_formula(store, query):
    retriever = StoreBM25Retriever(vectorstore=store)
    expected = okapi(query, TEXTS)
    assert texts_of(retriever.invoke(query)) == expected
    assert texts_of(await retriever.ainvoke(query)) == expected
    assert texts_of(retriever.invoke(query)) == expected
    few = StoreBM25Retriever(vectorstore=store, k=2)
    assert texts_of(await few.ainvoke(query)) == expected[:2]


def test_the_scores_are_those_of_the_library():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{number}" for number in range(30)]
    for _ in range(100):
        corpus = [rng.choice(vocabulary, rng.integers(1, 20)).tolist() for _ in range(12)]
        query = rng.choice([*vocabulary, "absent"], 6).tolist()
        postings, scores = postings_of(corpus), np.zeros(len(corpus))
        for word in query:
            rows, weights = postings.get(word, ([], []))
            scores[rows] += weights
        np.testing.assert_allclose(scores, BM25Okapi(corpus).get_scores(query), atol=1e-12)


def test_documents_keep_their_ids_and_metadata(store):
    document = StoreBM25Retriever(vectorstore=store).invoke("rivers long")[0]
    assert (document.id, document.metadata["number"]) == (id_of(4), 4)
    document.metadata["number"] = "changed"
    again = StoreBM25Retriever(vectorstore=store)
    for _ in range(2):
        found = again.invoke("rivers long")[0]
        assert found.metadata["number"] == 4
        found.metadata["number"] = "changed"


def test_a_text_without_a_word_of_the_query_is_not_returned(store):
    retriever = StoreBM25Retriever(vectorstore=store)
    assert retriever.invoke("zebra") == []
    assert retriever.invoke("...") == []


def test_the_index_has_what_the_filter_passes(store, kind):
    filter = condition(kind, "even", value=True)
    found = StoreBM25Retriever(vectorstore=store, filter=filter).invoke("clock town")
    assert {d.metadata["number"] for d in found} == {0}


async def test_refresh_reads_the_store_again(store):
    retriever = StoreBM25Retriever(vectorstore=store)
    assert retriever.invoke("zebra") == []
    store.add_texts(["A zebra."], ids=[id_of(100)], metadatas=[{"number": 100}])
    assert retriever.invoke("zebra") == []
    retriever.refresh()
    assert texts_of(retriever.invoke("zebra")) == ["A zebra."]
    store.delete([id_of(100)])
    await retriever.arefresh()
    assert await retriever.ainvoke("zebra") == []


@pytest.mark.parametrize("texts", [[], ["..."], ["one word"]])
def test_stores_of_few_words_are_searched_too(embeddings, texts):
    store = fill(InMemoryVectorStore(embeddings), texts)
    found = StoreBM25Retriever(vectorstore=store).invoke("word")
    assert texts_of(found) == [text for text in texts if "word" in text]


def test_all_copies_of_a_text_are_returned_together(embeddings):
    store = fill(make_chroma(embeddings), [*TEXTS, *[TEXTS[0]] * 4])
    found = StoreBM25Retriever(vectorstore=store, k=1).invoke("broken clock")
    assert sorted(d.id for d in found) == [id_of(n) for n in (0, *range(27, 31))]


def test_threads_build_one_index(embeddings):
    store = fill(InMemoryVectorStore(embeddings), TEXTS)
    read = []

    def tokenizer(text):
        read.append(text)
        return words_of(text)

    retriever = StoreBM25Retriever(vectorstore=store, tokenizer=tokenizer)
    threads = [threading.Thread(target=retriever.invoke, args=("clock",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(read) == {**dict.fromkeys(TEXTS, 1), "clock": 8}


def test_reading_ends_at_the_timeout(embeddings):
    store = fill(make_chroma(embeddings), TEXTS)
    retriever = StoreBM25Retriever(vectorstore=store, timeout=1e-9)
    with pytest.raises(StoreTimeout):
        retriever.invoke("clock")


@pytest.mark.parametrize("settings", [{"k": 0}, {"timeout": -1.0}, {"unknown": 1}])
def test_bad_settings_are_refused(embeddings, settings):
    with pytest.raises(ValidationError):
        StoreBM25Retriever(vectorstore=InMemoryVectorStore(embeddings), **settings)


def test_without_the_package_the_error_names_the_extra(embeddings, monkeypatch):
    find_spec = util.find_spec
    monkeypatch.setattr(
        util,
        "find_spec",
        lambda name, *rest: None if name == "rank_bm25" else find_spec(name, *rest),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'langchain-sift\[hybrid\]'"):
        StoreBM25Retriever(vectorstore=InMemoryVectorStore(embeddings))


async def test_words_decide_where_vectors_are_alike(kind, tmp_path):
    rng = np.random.default_rng(0)
    query = "émile repairs clocks"
    alike = {text: 1 + 0.01 * rng.standard_normal(8) for text in [*TEXTS, query, "river"]}
    store = fill(make_store(kind, CountingEmbeddings(given=alike), tmp_path), TEXTS)
    retriever = SIFTRetriever(
        vectorstore=store, k=2, second_retriever=StoreBM25Retriever(vectorstore=store)
    )
    found = retriever.invoke(query)
    assert {*texts_of(found)} == {TEXTS[5], TEXTS[2]}  # those with words of the query
    assert await retriever.ainvoke(query) == found
    both = await retriever.abatch([query, "river"])
    assert both[0] == found
    assert both[1][0].page_content == TEXTS[3]
    assert retriever.batch([query, "river"]) == both
