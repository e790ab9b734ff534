"""Read candidates from an embedded Chroma with made-up vectors."""

from __future__ import annotations

import uuid
from unittest import mock

import httpx
import numpy as np
import pytest
from langchain_chroma import Chroma
from numpy.testing import assert_allclose
from unit_tests.stores.real_stores import CountingEmbeddings, make_chroma, texts_of

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, EmbeddingError, StoreError, StoreUnavailable
from langchain_sift.stores import embed_query, fetch_candidates

TEXTS = [f"fact {number}" for number in range(12)]
QUERY = np.array([1.0, 2.0, -1.0, 0.5])


def make_store(embeddings=None, *, texts=TEXTS, space="l2", **arguments):
    store = make_chroma(embeddings or CountingEmbeddings(dimensions=4), space=space)
    if texts:
        store.add_texts(texts, **arguments)
    return store


def test_a_row_without_a_text_is_no_candidate():
    store = make_store(texts=["with text"])
    store._collection.add(ids=["bare"], embeddings=[QUERY.tolist()])
    assert texts_of(fetch_candidates(store, QUERY, fetch_k=5)) == ["with text"]
    store._collection.delete(where_document={"$contains": "text"})
    assert fetch_candidates(store, QUERY, fetch_k=5).documents == ()


@pytest.mark.parametrize("lengths", [(1.0,), (0.2, 1.0, 30.0)])
def test_the_metric_and_the_length_of_the_vectors_do_not_change_the_choice(lengths):
    texts = [f"{text}{'!' * (number % 5)}" for number, text in enumerate(TEXTS)]
    choices = []
    for space in ("l2", "cosine", "ip"):
        store = make_store(
            CountingEmbeddings(dimensions=4, lengths=lengths), texts=texts, space=space
        )
        candidates = fetch_candidates(store, QUERY, fetch_k=12)
        assert_allclose(np.linalg.norm(candidates.embeddings, axis=1), 1.0, rtol=1e-12)
        chosen = SIFTRetriever(vectorstore=store, k=6).invoke("which?")
        choices.append([document.page_content for document in chosen])
    plain = make_store(texts=texts)
    expected = SIFTRetriever(vectorstore=plain, k=6).invoke("which?")
    assert choices == [[document.page_content for document in expected]] * 3


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, range(12)),
        (None, range(12)),
        ({"half": 3}, [6, 7]),
        ({"half": 3, "odd": True}, [7]),
        ({"half": {"$gte": 4}, "odd": False}, [8, 10]),
        ({"odd": True, "$or": [{"half": 0}, {"half": 1}]}, [1, 3]),
        ({"half": 99, "odd": True}, []),
    ],
)
def test_all_keys_of_a_filter_must_match(condition, expected):
    store = make_store(metadatas=[{"half": n // 2, "odd": n % 2 == 1} for n in range(12)])
    found = texts_of(fetch_candidates(store, QUERY, fetch_k=12, filter=condition))
    assert sorted(found) == sorted(TEXTS[number] for number in expected)


def test_a_condition_on_the_text_is_applied():
    candidates = fetch_candidates(
        make_store(), QUERY, fetch_k=12, where_document={"$contains": "fact 1"}
    )
    assert sorted(texts_of(candidates)) == ["fact 1", "fact 10", "fact 11"]


@pytest.mark.parametrize(
    "search", [{"filter": {"n": {"$near": 1}}}, {"where_document": {"$like": "fact"}}]
)
def test_an_invalid_filter_is_an_argument_error(search):
    with pytest.raises(ArgumentError, match=r"\$near|\$like|where"):
        fetch_candidates(make_store(), QUERY, fetch_k=3, **search)


def test_a_dimension_mismatch_names_both_dimensions_and_the_cure():
    with pytest.raises(EmbeddingError, match=r"4.*3.*open the store with the embeddings"):
        fetch_candidates(make_store(), QUERY[:3], fetch_k=5)


@pytest.mark.parametrize("bad", [[0.0] * 4, [np.nan, 1.0, 0.0, 0.0], [np.inf, 0.0, 0.0, 0.0]])
def test_a_zero_or_infinite_query_vector_is_rejected(bad):
    embeddings = CountingEmbeddings(dimensions=4)
    store = make_store(embeddings)
    with (
        mock.patch.object(embeddings, "embed_query", return_value=bad),
        pytest.raises(EmbeddingError, match=r"the vector of the query is (zero|NaN or infinite)"),
    ):
        SIFTRetriever(vectorstore=store).invoke("which?")


def test_a_stored_zero_vector_is_left_out_and_named_by_its_id():
    store = make_store(texts=["good"])
    store._collection.add(ids=["empty-one"], embeddings=[[0.0] * 4], documents=["bad"])
    with pytest.warns(UserWarning, match="1 documents are left out, such as empty-one"):
        candidates = fetch_candidates(store, QUERY, fetch_k=5)
    assert [document.page_content for document in candidates.documents] == ["good"]
    with pytest.warns(UserWarning, match="1 documents are left out, such as empty-one"):
        found = SIFTRetriever(vectorstore=store).invoke("which?")
    assert [document.page_content for document in found] == ["good"]


def test_chroma_is_queried_once_and_embeds_no_text():
    store = make_store()
    collection = store._collection
    with mock.patch.object(collection, "query", wraps=collection.query) as query:
        SIFTRetriever(vectorstore=store).invoke("which?")
    query.assert_called_once()
    assert query.call_args.args == ()
    assert "query_texts" not in query.call_args.kwargs
    assert "embeddings" in query.call_args.kwargs["include"]


def test_a_store_without_embeddings_says_how_to_open_it():
    store = Chroma(collection_name=f"bare-{uuid.uuid4()}")
    with pytest.raises(StoreError, match=r"no embedding function.*embedding_function="):
        embed_query(store, "which?")


@pytest.mark.parametrize("by", ["the store", "its client"])
def test_a_deleted_collection_is_a_store_error(by):
    store = make_store()
    if by == "the store":
        store.delete_collection()
    else:
        store._client.delete_collection(store._collection.name)
    with pytest.raises(StoreError, match=r"[Cc]ollection"):
        fetch_candidates(store, QUERY, fetch_k=5)


def test_an_unreachable_server_is_a_store_error():
    store = make_store()
    gone = httpx.ConnectError("connection refused")
    with (
        mock.patch.object(store._collection, "query", side_effect=gone),
        pytest.raises(
            StoreUnavailable, match=r"Chroma collection 'facts-.*search failed: ConnectError$"
        ),
    ):
        fetch_candidates(store, QUERY, fetch_k=5)
