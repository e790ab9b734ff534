"""Retrieve in every way from a store with texts that point away from the query."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryStore
from unit_tests.stores.real_stores import CountingEmbeddings, make_chroma, texts_of

from langchain_sift import SIFTReranker, SIFTRetriever, compare
from langchain_sift.comparison import Prompt
from langchain_sift.retrieval.explanation import explain

QUERY = "which?"
COSINES = (-0.3, 0.5, -0.9, 0.02, 0.3, -0.57, 0.1, -0.05)
TEXTS = [f"cosine {cosine}" for cosine in COSINES]
NEAREST_FIRST = [TEXTS[row] for row in np.argsort(COSINES)[::-1]]
POSITIVE = NEAREST_FIRST[:4]
NOISES = (1e-4, 0.01, 6.5, 1e3)


def vectors():
    """Return rows of these cosines with the query, and otherwise orthogonal to one another."""
    rows = np.zeros((len(COSINES), 9))
    rows[:, 0] = COSINES
    rows[range(8), range(1, 9)] = np.sqrt(1.0 - np.square(COSINES))
    return rows


@pytest.fixture
def embeddings():
    given = {**dict(zip(TEXTS, vectors(), strict=True)), QUERY: np.eye(9)[0]}
    return CountingEmbeddings(dimensions=9, given=given)


@pytest.fixture
def store(embeddings):
    chroma = make_chroma(embeddings)
    chroma.add_texts(TEXTS, ids=TEXTS, metadatas=[{"score": 1.0, "parent": t} for t in TEXTS])
    yield chroma
    chroma.delete_collection()


def check(texts, *, k):
    """Check that the positive texts come first, and then the nearest of the others."""
    assert len(set(texts)) == len(texts) == k
    assert set(texts[:4]) <= set(POSITIVE)
    assert texts[4:] == NEAREST_FIRST[4:k]


@pytest.mark.parametrize("noise_variance", NOISES)
@pytest.mark.parametrize("search", ["nearest", "exhaustive", "residual"])
async def test_a_retriever_returns_opposite_texts_last(store, search, noise_variance):
    settings = {"candidate_search": search, "noise_variance": noise_variance}
    for k in (1, 4, 6, 8):
        retriever = SIFTRetriever(vectorstore=store, k=k, **settings)
        found = retriever.invoke(QUERY)
        check(texts_of(found), k=k)
        assert await retriever.ainvoke(QUERY) == found
        assert retriever.batch([QUERY]) == [found]
    scored = retriever.retrieve_with_scores(QUERY).choices
    assert all(choice.gain < 1e-9 for choice in scored[4:])
    assert scored[7].posterior_variance == pytest.approx(scored[3].posterior_variance)
    assert all(choice.gain > 1e-9 for choice in scored[:4])


def test_scores_and_a_second_retriever_leave_opposite_texts_last(store):
    second = RunnableLambda(lambda _: [Document(t, id=t) for t in reversed(NEAREST_FIRST)])
    hybrid = SIFTRetriever(vectorstore=store, k=8, second_retriever=second)
    check(texts_of(hybrid.invoke(QUERY)), k=8)
    scored = SIFTRetriever(vectorstore=store, k=8, score_key="score")
    store.update_document(TEXTS[2], Document(TEXTS[2], metadata={"score": 9.0}))
    store.update_document(TEXTS[1], Document(TEXTS[1], metadata={"score": 0.0}))
    check(texts_of(scored.invoke(QUERY)), k=8)


def test_the_budget_is_filled_with_the_nearest(store):
    lengths = {text: 1 + row for row, text in enumerate(TEXTS)}
    retriever = SIFTRetriever(
        vectorstore=store, max_tokens=sum(lengths.values()) - 1, token_counter=lengths.get
    )
    found = texts_of(retriever.invoke(QUERY))
    assert set(found[:4]) == set(POSITIVE)
    assert found[4:] == NEAREST_FIRST[4:7]  # the farthest does not fit


def test_a_parent_is_found_by_the_chunk_that_is_near(embeddings):
    chroma = make_chroma(embeddings)
    pairs = {"near": [TEXTS[1], TEXTS[2]], "middle": [TEXTS[4], TEXTS[5]], "away": [TEXTS[0]]}
    for name, chunks in pairs.items():
        chroma.add_texts(chunks, metadatas=[{"doc_id": name}] * len(chunks))
    docstore = InMemoryStore()
    docstore.mset([(name, Document(name)) for name in pairs])
    retriever = SIFTRetriever(vectorstore=chroma, k=3, docstore=docstore)
    retrieval = retriever.retrieve_with_scores(QUERY)
    assert texts_of(retrieval) == ["near", "middle", "away"]
    assert [choice.chunk.page_content for choice in retrieval.choices] == [
        TEXTS[row] for row in (1, 4, 0)
    ]


@pytest.mark.parametrize("noise_variance", NOISES)
def test_the_reranker_and_the_explanation_agree_with_the_retriever(
    store, embeddings, noise_variance
):
    retriever = SIFTRetriever(vectorstore=store, k=6, noise_variance=noise_variance)
    expected = texts_of(retriever.invoke(QUERY))
    reranker = SIFTReranker(embeddings=embeddings, top_n=6, noise_variance=noise_variance)
    documents = [Document(text) for text in TEXTS]
    assert texts_of(reranker.compress_documents(documents, QUERY)) == expected
    explanation = explain(store, QUERY, k=6, noise_variance=noise_variance)
    assert [choice.text for choice in explanation.sift] == expected
    assert [choice.text for choice in explanation.nearest] == NEAREST_FIRST[:6]
    assert [choice.known for choice in explanation.sift[4:]] == [0.0, 0.0]
    gains = [choice.gain for choice in retriever.retrieve_with_scores(QUERY).choices]
    assert [choice.gain for choice in explanation.sift] == pytest.approx(gains, abs=1e-12)


def test_a_comparison_chooses_as_the_retriever_does(store):
    methods = ("sift", "sift:exhaustive", "sift:residual", "nearest", "uncertainty")
    report = compare(
        [Prompt("a", QUERY, relevant=[TEXTS[1]])],
        methods,
        vectorstore=store,
        protocols=("retrieval",),
        k=6,
    )
    chosen = {row.method: [document.id for document in row.chosen] for row in report.rows}
    retriever = SIFTRetriever(vectorstore=store, k=6)
    for name in methods[:3]:
        assert chosen[name] == texts_of(retriever.invoke(QUERY)), name
    assert chosen["nearest"] == NEAREST_FIRST[:6]
    by_uncertainty = SIFTRetriever(vectorstore=store, k=6, search_type="uncertainty_sampling")
    assert chosen["uncertainty"] == texts_of(by_uncertainty.invoke(QUERY))


def test_fine_tuning_keeps_the_formula_of_the_paper(store):
    found = SIFTRetriever(vectorstore=store, k=1).invoke(QUERY, replace=True)
    assert texts_of(found) == ["cosine -0.9"]


def test_a_store_of_opposite_texts_returns_the_nearest(embeddings):
    chroma = make_chroma(embeddings, space="cosine")
    chroma.add_texts([text for text in TEXTS if text not in POSITIVE])
    for search in ("nearest", "exhaustive", "residual"):
        retriever = SIFTRetriever(vectorstore=chroma, k=3, candidate_search=search)
        assert texts_of(retriever.invoke(QUERY)) == NEAREST_FIRST[4:7]
        retrieval = retriever.retrieve_with_scores(QUERY)
        assert retrieval.posterior_std == pytest.approx(1.0)
