"""Candidates out of a real, embedded Chroma; only the vectors are made up."""

from __future__ import annotations

import uuid
from unittest import mock

import httpx
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings
from numpy.testing import assert_allclose

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, EmbeddingError, StoreError, StoreUnavailable
from langchain_sift.stores import embed_query, fetch_candidates

TEXTS = [f"fact {number}" for number in range(12)]
QUERY = np.array([1.0, 2.0, -1.0, 0.5])


class CountingEmbeddings(Embeddings):
    """Vectors drawn from the text itself, times a length; counts what it is asked."""

    def __init__(self, *, dimensions=4, lengths=(1.0,)):
        self.dimensions, self.lengths = dimensions, lengths
        self.queries = self.documents = 0

    def _embed(self, text):
        rng = np.random.default_rng(list(text.encode()))
        vector = rng.standard_normal(self.dimensions)
        length = self.lengths[len(text) % len(self.lengths)]
        return (length * vector / np.linalg.norm(vector)).tolist()

    def embed_documents(self, texts):
        self.documents += len(texts)
        return [self._embed(text) for text in texts]

    def embed_query(self, text):
        self.queries += 1
        return self._embed(text)


def make_store(embeddings=None, *, texts=TEXTS, space="l2", **arguments):
    store = Chroma(
        collection_name=f"facts-{uuid.uuid4()}",
        embedding_function=embeddings or CountingEmbeddings(),
        collection_configuration={"hnsw": {"space": space}},
    )
    if texts:
        store.add_texts(texts, **arguments)
    return store


def texts_of(candidates):
    return [document.page_content for document in candidates.documents]


def test_the_query_is_embedded_once_and_no_document_again():
    embeddings = CountingEmbeddings()
    store = make_store(embeddings)
    embeddings.queries = embeddings.documents = 0
    assert len(SIFTRetriever(vectorstore=store, k=5).invoke("which?")) == 5
    assert (embeddings.queries, embeddings.documents) == (1, 0)


def test_the_vectors_are_those_stored_beside_the_documents_nearest_first():
    store = make_store()
    candidates = fetch_candidates(store, QUERY, fetch_k=8)
    stored = CountingEmbeddings().embed_documents(TEXTS)
    distances = np.linalg.norm(np.array(stored) - QUERY, axis=1)
    nearest = np.argsort(distances)[:8]
    assert texts_of(candidates) == [TEXTS[row] for row in nearest]
    assert_allclose(candidates.embeddings, np.array(stored)[nearest], atol=1e-6)
    assert candidates.embeddings.dtype == np.float64
    assert candidates.copies == (1,) * 8


def test_ids_and_metadata_come_as_stored():
    ids = [f"id-{text}" for text in TEXTS]
    store = make_store(ids=ids, metadatas=[{"n": n, "x": n / 2} for n in range(len(TEXTS))])
    for document in fetch_candidates(store, QUERY, fetch_k=12).documents:
        number = TEXTS.index(document.page_content)
        assert document.id == ids[number]
        assert document.metadata == {"n": number, "x": number / 2}


def test_documents_of_identical_text_are_one_candidate_with_their_number():
    store = make_store(texts=["twice", "once", "twice", "thrice", "thrice", "thrice"])
    candidates = fetch_candidates(store, QUERY, fetch_k=6)
    found = dict(zip(texts_of(candidates), candidates.copies, strict=True))
    assert found == {"once": 1, "twice": 2, "thrice": 3}
    own_vectors = CountingEmbeddings().embed_documents(texts_of(candidates))
    assert_allclose(candidates.embeddings, own_vectors, atol=1e-6)


def test_a_row_without_a_document_is_no_candidate():
    store = make_store(texts=["with text"])
    store._collection.add(ids=["bare"], embeddings=[QUERY.tolist()])
    assert texts_of(fetch_candidates(store, QUERY, fetch_k=5)) == ["with text"]
    store._collection.delete(where_document={"$contains": "text"})
    assert fetch_candidates(store, QUERY, fetch_k=5).documents == ()


@pytest.mark.parametrize("lengths", [(1.0,), (0.2, 1.0, 30.0)])
def test_every_distance_and_every_length_of_the_stored_vectors_gives_the_same_choice(lengths):
    texts = [f"{text}{'!' * (number % 5)}" for number, text in enumerate(TEXTS)]
    choices = []
    for space in ("l2", "cosine", "ip"):
        store = make_store(CountingEmbeddings(lengths=lengths), texts=texts, space=space)
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
def test_a_filter_of_any_number_of_keys_leaves_what_satisfies_all(condition, expected):
    store = make_store(metadatas=[{"half": n // 2, "odd": n % 2 == 1} for n in range(12)])
    found = texts_of(fetch_candidates(store, QUERY, fetch_k=12, filter=condition))
    assert sorted(found) == sorted(TEXTS[number] for number in expected)


def test_a_condition_on_the_text_is_passed_on():
    candidates = fetch_candidates(
        make_store(), QUERY, fetch_k=12, where_document={"$contains": "fact 1"}
    )
    assert sorted(texts_of(candidates)) == ["fact 1", "fact 10", "fact 11"]


@pytest.mark.parametrize(
    "search", [{"filter": {"n": {"$near": 1}}}, {"where_document": {"$like": "fact"}}]
)
def test_a_filter_that_chroma_does_not_understand_is_an_argument_error(search):
    with pytest.raises(ArgumentError, match=r"\$near|\$like|where"):
        fetch_candidates(make_store(), QUERY, fetch_k=3, **search)


def test_an_empty_store_has_no_candidates():
    store = make_store(texts=[])
    candidates = fetch_candidates(store, QUERY, fetch_k=5)
    assert candidates.documents == candidates.copies == ()
    assert candidates.embeddings.shape == (0, 4)
    assert SIFTRetriever(vectorstore=store).invoke("anything?") == []


def test_a_query_of_another_dimension_names_both_and_the_cure():
    with pytest.raises(EmbeddingError, match=r"4.*3.*open the store with the embeddings"):
        fetch_candidates(make_store(), QUERY[:3], fetch_k=5)


@pytest.mark.parametrize("bad", [[0.0] * 4, [np.nan, 1.0, 0.0, 0.0], [np.inf, 0.0, 0.0, 0.0]])
def test_a_query_vector_without_a_direction_is_refused(bad):
    embeddings = CountingEmbeddings()
    store = make_store(embeddings)
    with (
        mock.patch.object(embeddings, "embed_query", return_value=bad),
        pytest.raises(EmbeddingError, match=r"the vector of the query is (zero|NaN or infinite)"),
    ):
        SIFTRetriever(vectorstore=store).invoke("which?")


def test_a_stored_zero_vector_is_named_by_its_id():
    store = make_store(texts=["good"])
    store._collection.add(ids=["empty-one"], embeddings=[[0.0] * 4], documents=["bad"])
    with pytest.raises(EmbeddingError, match="the vector of empty-one is zero"):
        fetch_candidates(store, QUERY, fetch_k=5)


def test_chroma_is_asked_once_and_never_to_embed_a_text():
    store = make_store()
    collection = store._collection
    with mock.patch.object(collection, "query", wraps=collection.query) as asked:
        SIFTRetriever(vectorstore=store).invoke("which?")
    asked.assert_called_once()
    assert asked.call_args.args == ()
    assert "query_texts" not in asked.call_args.kwargs
    assert "embeddings" in asked.call_args.kwargs["include"]


def test_a_store_without_embeddings_says_how_to_open_it():
    store = Chroma(collection_name=f"bare-{uuid.uuid4()}")
    with pytest.raises(StoreError, match=r"no embedding function.*embedding_function="):
        embed_query(store, "which?")


@pytest.mark.parametrize("by", ["the store", "its client"])
def test_a_collection_that_was_dropped_is_a_store_error(by):
    store = make_store()
    if by == "the store":
        store.delete_collection()
    else:
        store._client.delete_collection(store._collection.name)
    with pytest.raises(StoreError, match=r"[Cc]ollection"):
        fetch_candidates(store, QUERY, fetch_k=5)


def test_a_server_that_does_not_answer_is_a_store_error():
    store = make_store()
    gone = httpx.ConnectError("connection refused")
    with (
        mock.patch.object(store._collection, "query", side_effect=gone),
        pytest.raises(
            StoreUnavailable, match=r"Chroma collection 'facts-.*search failed: ConnectError$"
        ),
    ):
        fetch_candidates(store, QUERY, fetch_k=5)
