"""Read from Qdrant in its local mode: named vectors, points without them, and errors."""

from __future__ import annotations

from unittest import mock

import httpx
import numpy as np
import pytest
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings, SparseVector
from pydantic import ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from unit_tests.stores.real_stores import (
    DIMENSIONS,
    LINEAR,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    id_of,
    make_qdrant,
    texts_of,
)

from langchain_sift import SIFTReranker, SIFTRetriever
from langchain_sift.errors import (
    ArgumentError,
    CollectionNotFound,
    DimensionMismatch,
    InvalidFilter,
    StoreError,
    StoreUnavailable,
)

SEARCHES = ["nearest", "residual", "exhaustive"]


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


def open_store(client, embeddings, **arguments):
    return QdrantVectorStore(
        client, "facts", embeddings, validate_collection_config=False, **arguments
    )


@pytest.fixture
def two_vectors(embeddings):
    """Return a client whose points have one vector or both, "text" and "picture"."""
    client = QdrantClient(":memory:")
    both = {
        "text": models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT),
        "picture": models.VectorParams(size=2, distance=models.Distance.COSINE),
    }
    client.create_collection("facts", vectors_config=both)
    points = []
    for number, text in enumerate(TEXTS):
        vectors = {"text": embeddings.vector(text).tolist(), "picture": [1.0, number]}
        if number % 4 == 0:
            del vectors["text"]
        payload = {"page_content": text, "metadata": {"number": number}}
        points.append(models.PointStruct(id=id_of(number), vector=vectors, payload=payload))
    client.upsert("facts", points)
    return client


@pytest.mark.parametrize("search", SEARCHES)
def test_named_vectors_are_searched_and_points_without_one_are_no_candidates(
    two_vectors, embeddings, search
):
    store = open_store(two_vectors, embeddings, vector_name="text")
    retriever = SIFTRetriever(
        vectorstore=store, k=6, candidate_search=search, step_fetch_k=len(TEXTS), **LINEAR
    )
    having = [text for number, text in enumerate(TEXTS) if number % 4]
    expected = ByHand(embeddings, having).linear_choice(embeddings.vector(QUERY), k=6, fetch_k=40)
    assert texts_of(retriever.invoke(QUERY)) == expected


def test_another_store_reads_the_other_named_vectors(two_vectors):
    store = open_store(two_vectors, CountingEmbeddings(dimensions=2), vector_name="picture")
    retriever = SIFTRetriever(vectorstore=store, k=1, fetch_k=1)
    for number, text in enumerate(TEXTS):
        assert texts_of(retriever.retrieve_by_vector([1.0, number])) == [text]


def test_a_collection_filled_by_langchain_under_a_name_is_read_under_it(embeddings):
    store = fill(make_qdrant(embeddings, name="text"))
    found = SIFTRetriever(vectorstore=store, k=6, fetch_k=12).invoke(QUERY)
    expected = ByHand(embeddings).choice(embeddings.vector(QUERY), k=6, fetch_k=12)
    assert texts_of(found) == expected


def test_missing_vectors_are_named_with_the_existing_ones(two_vectors, embeddings):
    store = open_store(two_vectors, embeddings, vector_name="sound")
    problem = r"no dense vectors named 'sound', only \['picture', 'text'\]"
    with pytest.raises(StoreError, match=problem) as caught:
        SIFTRetriever(vectorstore=store).invoke(QUERY)
    assert not isinstance(caught.value, CollectionNotFound)


def test_a_dimension_mismatch_names_both_dimensions_and_the_cure(two_vectors, embeddings):
    store = open_store(two_vectors, embeddings, vector_name="picture")
    with pytest.raises(DimensionMismatch, match=r"has 2 dim.* has 8: open the store with the emb"):
        SIFTRetriever(vectorstore=store).invoke(QUERY)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_missing_collection_is_named(embeddings, search):
    store = fill(make_qdrant(embeddings))
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search)
    store.client.delete_collection("facts")
    with pytest.raises(CollectionNotFound, match="Qdrant collection 'facts' does not exist"):
        retriever.invoke(QUERY)


@pytest.mark.parametrize("search", SEARCHES)
def test_points_without_a_text_are_skipped_and_replaced(embeddings, search):
    store = fill(make_qdrant(embeddings))
    vector = embeddings.vector(QUERY).tolist()
    bare = [models.PointStruct(id=id_of(100 + n), vector=vector, payload=None) for n in range(9)]
    store.client.upsert("facts", bare)
    retriever = SIFTRetriever(
        vectorstore=store,
        k=5,
        fetch_k=5,
        candidate_search=search,
        step_fetch_k=len(TEXTS),
        **LINEAR,
    )
    fetch_k = 5 if search == "nearest" else len(TEXTS)
    expected = ByHand(embeddings).linear_choice(np.array(vector), k=5, fetch_k=fetch_k)
    assert texts_of(retriever.invoke(QUERY)) == expected


def test_texts_and_metadata_under_other_keys_are_read_under_them(embeddings):
    client = make_qdrant(embeddings).client
    keys = {"content_payload_key": "words", "metadata_payload_key": "about"}
    store = fill(open_store(client, embeddings, **keys))
    for found in SIFTRetriever(vectorstore=store, k=5).invoke(QUERY):
        assert found.metadata["number"] == TEXTS.index(found.page_content)


def test_ids_that_are_numbers_become_strings(embeddings):
    store = make_qdrant(embeddings)
    store.add_texts(["the only one"], ids=[7])
    (found,) = SIFTRetriever(vectorstore=store).invoke(QUERY)
    assert (found.id, found.metadata["_id"]) == ("7", 7)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_filter_must_be_qdrant_s(embeddings, search):
    retriever = SIFTRetriever(vectorstore=make_qdrant(embeddings), candidate_search=search)
    with pytest.raises(InvalidFilter, match=r"a qdrant_client\.models\.Filter, got dict"):
        retriever.invoke(QUERY, filter={"number": 3})


def refusal(status, reason):
    return UnexpectedResponse(status, reason, b"the text of a document", httpx.Headers())


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (refusal(404, "Not Found"), CollectionNotFound, "answered 404 Not Found"),
        (refusal(503, "Service Unavailable"), StoreUnavailable, "answered 503"),
        (refusal(429, "Too Many Requests"), StoreUnavailable, "answered 429"),
        (refusal(500, "Internal Server Error"), StoreError, "answered 500"),
        (ResponseHandlingException(OSError()), StoreUnavailable, "ResponseHandlingException"),
    ],
)
def test_the_error_of_a_refusal_does_not_contain_the_response(embeddings, failure, error, message):
    store = fill(make_qdrant(embeddings))
    with (
        mock.patch.object(store.client, "query_batch_points", side_effect=failure),
        pytest.raises(error, match=f"Qdrant collection 'facts': .*{message}") as caught,
    ):
        SIFTRetriever(vectorstore=store, timeout=30).invoke(QUERY)
    assert type(caught.value) is error
    assert "document" not in str(caught.value)


def test_a_wrong_dimension_on_a_server_is_a_dimension_mismatch():
    store = fill(make_qdrant(CountingEmbeddings()))
    failure = refusal(400, "Bad Request")
    with (
        mock.patch.object(store.client, "query_batch_points", side_effect=failure),
        pytest.raises(DimensionMismatch, match="has 8 dimensions, the query has 2"),
    ):
        SIFTRetriever(vectorstore=store).retrieve_by_vector([1.0, 2.0])


class Words(SparseEmbeddings):
    """A sparse vector with a dimension for each text; some texts stand for others."""

    def __init__(self, stands_for=()):
        self.stands_for = dict(stands_for)

    def embed_query(self, text):
        index = TEXTS.index(self.stands_for.get(text, text))
        return SparseVector(indices=[index], values=[1.0])

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def hybrid_store(embeddings, mode=RetrievalMode.HYBRID):
    """Return a store of dense and sparse vectors."""
    store = QdrantVectorStore.from_texts(
        TEXTS,
        embeddings,
        metadatas=[{"number": number} for number in range(len(TEXTS))],
        ids=[id_of(number) for number in range(len(TEXTS))],
        location=":memory:",
        collection_name="facts",
        sparse_embedding=Words(),
        retrieval_mode=RetrievalMode.HYBRID,
    )
    store.retrieval_mode = mode
    return store


def test_a_hybrid_store_warns_that_its_sparse_vectors_are_not_searched(embeddings):
    store = hybrid_store(embeddings)
    with pytest.warns(UserWarning, match=r"HYBRID, .*dense vectors alone.*second_retriever="):
        retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=12)
    expected = ByHand(embeddings).choice(embeddings.vector(TEXTS[3]), k=6, fetch_k=12)
    assert texts_of(retriever.invoke(TEXTS[3])) == expected


def test_the_cure_of_the_warning_finds_what_the_sparse_vectors_find(embeddings):
    # The query has the sparse vector of the text that is farthest by its dense vector.
    number = int(np.argmin(embeddings.vectors(TEXTS) @ embeddings.vector(QUERY)))
    store = hybrid_store(embeddings)
    words = mock.patch.object(store, "_sparse_embeddings", Words({QUERY: TEXTS[number]}))
    found = [
        models.Filter(**{clause: [models.HasIdCondition(has_id=[id_of(number)])]})
        for clause in ("must", "must_not")
    ]
    retriever = SIFTRetriever(
        vectorstore=store,
        k=6,
        fetch_k=6,
        second_retriever=store.as_retriever(search_kwargs={"k": 5}),
    )
    with words:
        assert TEXTS[number] in texts_of(retriever.invoke(QUERY))
        assert texts_of(retriever.invoke(QUERY, filter=found[0])) == [TEXTS[number]]
        assert TEXTS[number] not in texts_of(retriever.invoke(QUERY, filter=found[1]))


def test_a_sparse_store_is_refused_with_a_cure_that_works(embeddings):
    store = hybrid_store(embeddings, RetrievalMode.SPARSE)
    with pytest.raises(StoreError, match=r"SPARSE, .*SIFTReranker over its as_retriever\(\)"):
        SIFTRetriever(vectorstore=store)
    reranker = SIFTReranker(embeddings=embeddings, top_n=1)
    found = reranker.compress_documents(store.as_retriever().invoke(TEXTS[3]), TEXTS[3])
    assert texts_of(found) == [TEXTS[3]]


def test_the_score_of_a_fused_ranking_is_no_cosine(embeddings):
    plain = hybrid_store(embeddings).as_retriever(search_kwargs={"score_threshold": 0.3})
    with pytest.raises(ArgumentError, match=r"not known: pass min_similarity, .* its place$"):
        SIFTRetriever.from_retriever(plain)


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_the_parameters_of_the_index_are_passed_on(embeddings):
    store = fill(make_qdrant(embeddings))
    exact = models.SearchParams(exact=True)
    retriever = SIFTRetriever(vectorstore=store, search_kwargs={"search_params": exact})
    with mock.patch.object(
        store.client, "query_batch_points", wraps=store.client.query_batch_points
    ) as search:
        assert len(retriever.invoke(QUERY)) == 4
    assert [request.params for request in search.call_args.kwargs["requests"]] == [exact]
    assert len(retriever.invoke(QUERY, candidate_search="exhaustive")) == 4


def test_a_fusion_is_sent_to_the_second_retriever(embeddings):
    fusion = models.FusionQuery(fusion=models.Fusion.DBSF)
    with pytest.raises(ValidationError, match="write it into the search_kwargs of a second_retr"):
        SIFTRetriever(vectorstore=make_qdrant(embeddings), search_kwargs={"hybrid_fusion": fusion})


def test_hybrid_collections_are_read_with_their_dense_vectors(embeddings):
    client = QdrantClient(":memory:")
    dense = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    client.create_collection(
        "facts",
        vectors_config={"": dense},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    words = models.SparseVector(indices=[3], values=[1.0])
    points = [
        models.PointStruct(
            id=number,
            vector={"": embeddings.vector(text).tolist(), "words": words},
            payload={"page_content": text},
        )
        for number, text in enumerate(TEXTS)
    ]
    client.upsert("facts", points)
    retriever = SIFTRetriever(vectorstore=open_store(client, embeddings), k=6, fetch_k=12)
    expected = ByHand(embeddings).choice(embeddings.vector(QUERY), k=6, fetch_k=12)
    assert texts_of(retriever.invoke(QUERY)) == expected
