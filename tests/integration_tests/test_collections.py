"""Collections that are deleted, made again, empty, or of another dimension."""

from __future__ import annotations

import pytest
from integration_tests.corpus import CANARY, QUERIES, TEXTS, RandomEmbeddings, ids
from langchain_core.embeddings import Embeddings

from langchain_sift import SIFTRetriever
from langchain_sift.errors import (
    CollectionNotFound,
    DimensionMismatch,
    EmbeddingError,
    InvalidFilter,
    SIFTError,
)
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import AsyncChroma

OTHER_TEXTS = [f"other {CANARY} {number}" for number in range(30)]


@pytest.fixture
async def retriever(server, name, fill, open_store):
    """Return a retriever that has searched before."""
    fill(server.port, name)
    retriever = SIFTRetriever(vectorstore=await open_store(server.port, name), k=5)
    assert len(await retriever.ainvoke(QUERIES[0])) == 5
    return retriever


@pytest.fixture
def other_client(server, connect):
    """Return a second client, in place of another process."""
    return connect(server.port)


@pytest.fixture
def make_again(server, name, fill, other_client):
    """Return a function that deletes the collection and makes another of the same name."""

    def made(*texts_and_dimensions):
        other_client.delete_collection(name)
        return fill(server.port, name, *texts_and_dimensions)

    return made


async def error_of(retriever, expected, **settings):
    with pytest.raises(expected) as raised:
        await retriever.ainvoke(QUERIES[0], **settings)
    assert isinstance(raised.value, SIFTError)
    assert CANARY not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_a_deleted_collection_is_named(retriever, other_client, name, candidate_search):
    other_client.delete_collection(name)
    message = await error_of(retriever, CollectionNotFound, candidate_search=candidate_search)
    assert f"Chroma collection '{name}' does not exist" in message
    with pytest.raises(CollectionNotFound):
        await retriever.abatch(QUERIES, candidate_search=candidate_search)
    assert name not in [collection.name for collection in other_client.list_collections()]


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_a_collection_that_another_client_made_again_is_searched(
    retriever, make_again, candidate_search
):
    fresh = SIFTRetriever(vectorstore=make_again(OTHER_TEXTS), k=5)
    expected = fresh.batch(QUERIES, candidate_search=candidate_search)
    assert {d.page_content for documents in expected for d in documents} <= {*OTHER_TEXTS}
    assert await retriever.abatch(QUERIES, candidate_search=candidate_search) == expected
    single = [await retriever.ainvoke(q, candidate_search=candidate_search) for q in QUERIES]
    assert single == expected


async def test_a_collection_that_comes_back_is_searched_again(
    retriever, other_client, server, name, fill
):
    expected = await retriever.abatch(QUERIES)
    other_client.delete_collection(name)
    await error_of(retriever, CollectionNotFound)
    fill(server.port, name)
    assert await retriever.abatch(QUERIES) == expected


async def test_the_searches_of_the_store_find_the_new_collection_too(retriever, make_again):
    make_again(OTHER_TEXTS)
    await retriever.ainvoke(QUERIES[0])  # finds the new collection, also for the store
    store = retriever.vectorstore
    (nearest,) = await store.asimilarity_search(OTHER_TEXTS[3], k=1)
    assert nearest.page_content == OTHER_TEXTS[3]
    assert [d.page_content for d in await store.aget_by_ids(["id-3"])] == [OTHER_TEXTS[3]]
    await store.adelete(["id-3"])
    assert await store.aget_by_ids(["id-3"]) == []


async def test_async_chroma_finds_the_new_collection(server, name, fill, aconnect, make_again):
    fill(server.port, name)
    store = AsyncChroma(await aconnect(server.port), name, RandomEmbeddings())
    assert len(await store.asimilarity_search(QUERIES[0])) == 4
    make_again(OTHER_TEXTS)
    (nearest,) = await store.asimilarity_search(OTHER_TEXTS[3], k=1)
    assert nearest.page_content == OTHER_TEXTS[3]
    make_again(OTHER_TEXTS)
    assert [d.page_content for d in await store.aget_by_ids(["id-3"])] == [OTHER_TEXTS[3]]
    make_again(OTHER_TEXTS)
    assert await store.adelete(["id-3"])
    assert await store.aget_by_ids(["id-3"]) == []
    make_again(OTHER_TEXTS)
    await store.aadd_texts(["new"], ids=["new"])
    assert {*ids(await store.aget_by_ids(["new", "id-3"]))} == {"new", "id-3"}
    await store.aclose()


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_another_dimension_is_an_error_that_names_both(
    retriever, make_again, candidate_search
):
    make_again(OTHER_TEXTS, 5)
    message = await error_of(retriever, DimensionMismatch, candidate_search=candidate_search)
    assert "5" in message
    assert "8" in message
    assert "open the store with the embeddings that filled it" in message
    outcomes = await retriever.abatch(
        QUERIES, candidate_search=candidate_search, return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {DimensionMismatch}


async def test_a_collection_that_is_emptied_is_empty(retriever, other_client, name):
    other_client.get_collection(name).delete(ids=[f"id-{number}" for number in range(len(TEXTS))])
    for candidate_search in CANDIDATE_SEARCHES:
        settings = {"candidate_search": candidate_search}
        assert await retriever.ainvoke(QUERIES[0], **settings) == []
        assert await retriever.abatch(QUERIES, **settings) == [[]] * len(QUERIES)
        retrieval = await retriever.aretrieve_with_scores(QUERIES[0], **settings)
        assert retrieval.choices == ()
        assert retrieval.posterior_std**2 == pytest.approx(retrieval.prior_variance)


async def test_rows_without_a_text_are_ignored(retriever, other_client, name):
    vectors = RandomEmbeddings().embed_documents(QUERIES)
    bare = [f"bare-{number}" for number in range(len(QUERIES))]
    other_client.get_collection(name).add(ids=bare, embeddings=vectors)
    for candidate_search in CANDIDATE_SEARCHES:
        settings = {"candidate_search": candidate_search, "fetch_k": 10}
        for documents in await retriever.abatch(QUERIES, **settings):
            assert len(documents) == 5
            assert not {*ids(documents)} & {*bare}
        assert ids(await retriever.ainvoke(QUERIES[0], **settings))


@pytest.mark.parametrize(
    "search",
    [
        {"filter": {"number": {"$near": 1}}},
        {"filter": {"number": 1, "dimension": {"$near": 2}}},
        {"filter": {"$or": [{"number": 1}]}},
        {"filter": [1]},
        {"where_document": {"$like": "x"}},
        {"where_document": {"$regex": "("}},
    ],
    ids=str,
)
async def test_an_invalid_filter_is_an_argument_error(retriever, search):
    message = await error_of(retriever, InvalidFilter, **search)
    assert "Chroma" in message


class Broken(Embeddings):
    def __init__(self, vector):
        self._vector = vector

    def embed_query(self, _):
        return self._vector

    embed_documents = None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
async def test_a_query_vector_without_a_direction_is_rejected(retriever, value):
    broken = SIFTRetriever(
        vectorstore=retriever.vectorstore, query_embedder=Broken([value] + [0.0] * 7)
    )
    await error_of(broken, EmbeddingError)
