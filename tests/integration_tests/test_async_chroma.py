"""Use `AsyncChroma` on a real server; LangChain's standard tests, and the retriever on it."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress
from types import SimpleNamespace
from unittest import mock

import chromadb
import httpx
import pytest
from blockbuster import blockbuster_ctx
from integration_tests.corpus import CANARY, QUERIES, TEXTS, RandomEmbeddings, ids
from integration_tests.servers import HOST
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, CollectionNotFound, StoreError
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import AsyncChroma, StoreBM25Retriever


class TestStandard(VectorStoreIntegrationTests):
    """LangChain's standard tests of vector stores."""

    @pytest.fixture
    async def vectorstore(self, server, name, aconnect):
        store = AsyncChroma(await aconnect(server.port), name, self.get_embeddings())
        yield store
        await store.aclose()

    @property
    def has_sync(self):
        return False


@pytest.fixture
async def both(server, name, fill, aconnect):
    """Return a collection as a store for threads and as a store for coroutines."""
    by_threads = fill(server.port, name)
    store = AsyncChroma(await aconnect(server.port), name, RandomEmbeddings())
    yield by_threads, store
    await store.aclose()


# Searches


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_coroutines_and_threads_return_the_same(both, candidate_search):
    by_threads, by_coroutines = (
        SIFTRetriever(vectorstore=store, k=5, fetch_k=20, candidate_search=candidate_search)
        for store in both
    )
    for settings in (
        {},
        {"filter": {"number": {"$gte": 30}}},
        {"where_document": {"$contains": "7"}},
    ):
        expected = by_threads.batch(QUERIES, **settings)
        assert len({tuple(ids(documents)) for documents in expected}) > 1
        assert [await by_coroutines.ainvoke(query, **settings) for query in QUERIES] == expected
        assert await by_coroutines.abatch(QUERIES, **settings) == expected
        for query in QUERIES:
            one = await by_coroutines.aretrieve_with_scores(query, **settings)
            other = by_threads.retrieve_with_scores(query, **settings)
            assert one.documents == other.documents
            assert [c.gain for c in one.choices] == pytest.approx([c.gain for c in other.choices])
            assert one.candidates == other.candidates


async def test_a_second_retriever_is_read_by_coroutines(both):
    by_threads, by_coroutines = both
    words = StoreBM25Retriever(vectorstore=by_coroutines)
    expected = StoreBM25Retriever(vectorstore=by_threads).invoke(QUERIES[0])
    assert await words.ainvoke(QUERIES[0]) == expected
    with pytest.raises(StoreError, match="arefresh"):
        words.refresh()
    retriever = SIFTRetriever(vectorstore=by_threads, k=5, second_retriever=words)
    other = retriever.model_copy(update={"vectorstore": by_coroutines})
    for settings in ({}, {"filter": {"number": {"$gte": 30}}}):
        found = await other.abatch(QUERIES, **settings)
        assert found == await retriever.abatch(QUERIES, **settings)
        assert found == [await other.ainvoke(query, **settings) for query in QUERIES]
        if settings:
            assert all(d.metadata["number"] >= 30 for documents in found for d in documents)


async def test_64_coroutines_at_once_get_their_own_answers(both):
    by_threads, by_coroutines = (SIFTRetriever(vectorstore=store, k=5) for store in both)
    queries = [f"query {number}" for number in range(64)]
    expected = by_threads.batch(queries)
    assert len({tuple(ids(documents)) for documents in expected}) > 32
    found = await asyncio.gather(*(by_coroutines.ainvoke(query) for query in queries))
    assert found == expected


@pytest.fixture
def traffic(monkeypatch):
    """Count the requests of coroutines: those for a collection, and the most at once."""
    seen = SimpleNamespace(lookups=0, at_once=0, most=0)
    send = httpx.AsyncClient.request

    async def request(client, method, url, **kwargs):
        seen.lookups += method.lower() == "get" and "/collections/" in str(url)
        seen.at_once += 1
        seen.most = max(seen.most, seen.at_once)
        try:
            return await send(client, method, url, **kwargs)
        finally:
            seen.at_once -= 1

    monkeypatch.setattr(httpx.AsyncClient, "request", request)
    return seen


async def test_200_coroutines_send_at_most_16_requests_at_once_and_look_up_once(
    both, server, name, fill, traffic
):
    by_threads, by_coroutines = (SIFTRetriever(vectorstore=store, k=5) for store in both)
    queries = [f"query {number}" for number in range(200)]
    expected = by_threads.batch(queries)
    assert await asyncio.gather(*map(by_coroutines.ainvoke, queries)) == expected
    assert (traffic.lookups, traffic.most) == (1, 16)
    both[0].delete_collection()
    fill(server.port, name)
    assert await asyncio.gather(*map(by_coroutines.ainvoke, queries[:50])) == expected[:50]
    assert (traffic.lookups, traffic.most) == (2, 16)


async def test_searches_of_langchain_look_up_once(both, traffic):
    by_threads, store = both
    found = await asyncio.gather(*map(store.asimilarity_search, QUERIES * 10))
    assert found == [by_threads.similarity_search(query) for query in QUERIES] * 10
    assert traffic.lookups == 1


async def test_similarity_searches_equal_those_of_chroma(both):
    by_threads, store = both
    for query in QUERIES:
        assert await store.asimilarity_search(query, k=7) == by_threads.similarity_search(query, 7)
    narrowed = {"filter": {"number": {"$lt": 9}}, "where_document": {"$contains": "number"}}
    found = await store.asimilarity_search(QUERIES[0], k=20, **narrowed)
    assert found == by_threads.similarity_search(QUERIES[0], 20, **narrowed)
    assert len(found) == 9
    retriever = store.as_retriever(search_kwargs={"k": 7})
    assert await retriever.ainvoke(QUERIES[0]) == by_threads.similarity_search(QUERIES[0], 7)


async def test_texts_above_the_batch_limit_are_all_stored(server, name, aconnect, connect):
    client = await aconnect(server.port)
    too_many = await client.get_max_batch_size() + 40
    store = await AsyncChroma.afrom_texts(
        [str(number) for number in range(too_many)],
        RandomEmbeddings(dimensions=2),
        [{"number": number} for number in range(too_many)],
        ids=[f"id-{number}" for number in range(too_many)],
        client=client,
        collection_name=name,
    )
    assert connect(server.port).get_collection(name).count() == too_many
    last = f"id-{too_many - 1}"
    (document,) = await store.aget_by_ids([last])
    assert (document.id, document.page_content) == (last, str(too_many - 1))
    assert document.metadata == {"number": too_many - 1}
    await store.aclose()


@pytest.mark.parametrize("batch_size", [2, 100])
async def test_langchain_s_indexing_follows_changed_documents(server, name, aconnect, batch_size):
    store = AsyncChroma(await aconnect(server.port), name, RandomEmbeddings())
    records = InMemoryRecordManager(name)
    await records.acreate_schema()
    for texts in (TEXTS[:7], TEXTS[3:9]):
        documents = [Document(page_content=text, metadata={"source": "file"}) for text in texts]
        await aindex(
            documents, records, store, batch_size=batch_size, cleanup="full",
            source_id_key="source", key_encoder="sha256",
        )  # fmt: skip
        found = await store.asimilarity_search(QUERIES[0], k=20)
        assert sorted(document.page_content for document in found) == sorted(texts)
    await store.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["1"] * 399}, "ids needs one for each text: 399 for 400 texts"),
        ({"ids": ["1"] * 401}, "ids .* 401 for 400"),
        ({"metadatas": [{}] * 310}, "metadatas .* 310 for 400"),
        ({"batch_size": 0}, "batch_size must be .* at least 1, got 0"),
    ],
)
async def test_nothing_is_stored_of_lists_of_different_lengths(
    server, name, aconnect, arguments, message
):
    embeddings = RandomEmbeddings()
    store = AsyncChroma(await aconnect(server.port), name, embeddings)
    with (
        mock.patch.object(embeddings, "embed_documents", side_effect=AssertionError),
        pytest.raises(ArgumentError, match=message),
    ):
        await store.aadd_texts([str(number) for number in range(400)], **arguments)
    assert await store.asimilarity_search(QUERIES[0]) == []
    assert len(await store.aadd_texts(["a", "b"], [], ids=[])) == 2
    await store.aclose()


# The event loops


@pytest.mark.parametrize("closed", [True, False])
# asyncio warns if a loop is closed before its connections.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_one_store_serves_event_loops_in_turn(server, name, fill, closed):
    expected = SIFTRetriever(vectorstore=fill(server.port, name)).batch(QUERIES)

    async def opened():
        client = await chromadb.AsyncHttpClient(host=HOST, port=server.port)
        await client._server._cleanup()
        return AsyncChroma(client, name, RandomEmbeddings())

    store = asyncio.run(opened())
    retriever = SIFTRetriever(vectorstore=store)

    async def ask():
        found = [await retriever.ainvoke(query) for query in QUERIES]
        if closed:
            await store.aclose()
        return found

    for _ in range(5):
        assert asyncio.run(ask()) == expected
        assert len(store._handle._connections) == (0 if closed else 1)
    store._handle._connections.clear()
    gc.collect()  # while that warning is ignored


def test_one_store_serves_event_loops_of_several_threads(server, name, fill):
    expected = SIFTRetriever(vectorstore=fill(server.port, name)).batch(QUERIES)

    async def opened():
        client = await chromadb.AsyncHttpClient(host=HOST, port=server.port)
        await client._server._cleanup()
        return AsyncChroma(client, name, RandomEmbeddings())

    store = asyncio.run(opened())
    retriever = SIFTRetriever(vectorstore=store)
    outcomes = []

    async def ask():
        calls = [asyncio.gather(*map(retriever.ainvoke, QUERIES)) for _ in range(5)]
        outcomes.extend(await asyncio.gather(*calls))
        await store.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [expected] * 20


async def test_each_client_sends_its_own_headers(proxy, name, fill):
    fill(proxy.port, name)
    stores = []
    for token in ("of-a", "of-b"):
        client = await chromadb.AsyncHttpClient(
            host=HOST, port=proxy.port, headers={"x-chroma-token": token}
        )
        stores.append(AsyncChroma(client, name, RandomEmbeddings()))
        # Chroma has one pool of connections for the process, with the first client's headers.
        await client._server._cleanup()
    for store, token in zip(stores, ("of-a", "of-b"), strict=True):
        proxy.requests.clear()
        await SIFTRetriever(vectorstore=store).ainvoke(QUERIES[0])
        assert {request.headers["x-chroma-token"] for request in proxy.requests} == {token}
        await store.aclose()


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_the_event_loop_is_never_blocked(both, candidate_search):
    for store in both:
        retriever = SIFTRetriever(vectorstore=store, candidate_search=candidate_search)
        with blockbuster_ctx():
            assert len(await retriever.ainvoke(QUERIES[0])) == 4
            assert len(await retriever.abatch(QUERIES)) == len(QUERIES)
            assert (await retriever.aretrieve_with_scores(QUERIES[0])).choices


async def test_a_cancelled_search_leaves_the_store_usable(both):
    expected, store = (SIFTRetriever(vectorstore=store) for store in both)
    for delay in (0.0, 0.001, 0.005, 0.01):
        task = asyncio.create_task(store.ainvoke(QUERIES[0]))
        await asyncio.sleep(delay)
        task.cancel()
        with suppress(asyncio.CancelledError):  # if it was not done before
            await task
    assert await store.abatch(QUERIES) == expected.batch(QUERIES)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Errors


async def test_a_blocking_call_is_an_error_with_the_cure(both):
    retriever = SIFTRetriever(vectorstore=both[1])
    for ask in (retriever.invoke, retriever.retrieve_with_scores, lambda q: retriever.batch([q])):
        with pytest.raises(StoreError, match=r"only coroutines can query .*: use `ainvoke`"):
            ask(QUERIES[0])


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("add_texts", ["a"]),
        ("delete", ["a"]),
        ("get_by_ids", ["a"]),
        ("similarity_search", "a"),
        ("similarity_search_by_vector", [1.0]),
        ("from_texts", ["a"]),
    ],
)
async def test_a_synchronous_method_names_its_asynchronous_twin(both, method, argument):
    with pytest.raises(NotImplementedError, match=rf"await a{method}\(\.\.\.\)"):
        getattr(both[1], method)(argument)


def test_the_client_must_be_asynchronous(server, name, connect):
    with pytest.raises(TypeError, match=r"await chromadb.AsyncHttpClient\(\.\.\.\)`, got Client"):
        AsyncChroma(connect(server.port), name)
    not_awaited = chromadb.AsyncHttpClient(host=HOST, port=server.port)
    with pytest.raises(TypeError, match="got coroutine"):
        AsyncChroma(not_awaited, name)
    not_awaited.close()


async def test_a_misspelt_collection_is_not_created(server, name, aconnect, connect):
    store = AsyncChroma(await aconnect(server.port), f"{name}-misspelt", RandomEmbeddings())
    retriever = SIFTRetriever(vectorstore=store)
    for ask in (
        retriever.ainvoke,
        retriever.aretrieve_with_scores,
        lambda q: retriever.abatch([q]),
    ):
        with pytest.raises(CollectionNotFound, match=f"'{name}-misspelt' does not exist"):
            await ask(QUERIES[0])
    assert await store.asimilarity_search(QUERIES[0]) == []
    assert await store.aget_by_ids(["id-1"]) == []
    assert await store.adelete(["id-1"]) is False
    names = [collection.name for collection in connect(server.port).list_collections()]
    assert f"{name}-misspelt" not in names
    await store.aclose()


async def test_an_unknown_argument_is_rejected(both):
    store = both[1]
    with pytest.raises(TypeError, match=r"takes no arguments \['fetch_kk'\]"):
        await store.asimilarity_search(QUERIES[0], fetch_kk=3)
    with pytest.raises(TypeError, match=r"takes no arguments \['metadata'\]"):
        await store.aadd_texts(["new"], metadata={})
    with pytest.raises(ValueError, match="ids must not be empty"):
        await store.adelete()


async def test_texts_of_any_kind_are_returned_unchanged(server, name, aconnect):
    store = AsyncChroma(await aconnect(server.port), name, RandomEmbeddings())
    texts = ["", " ", "nul \0 in it", "🦉 oʻzbek עברית", CANARY * 5000]
    made = await store.aadd_texts(texts, [{"n": 1}, {}, {"tags": ["x", "y"]}, {"x": 0.5}, {}])
    found = {document.id: document for document in await store.aget_by_ids(made)}
    assert [found[id_].page_content for id_ in made] == texts
    assert [found[id_].metadata for id_ in made] == [
        {"n": 1},
        {},
        {"tags": ["x", "y"]},
        {"x": 0.5},
        {},
    ]
    assert await store.aadd_texts([]) == []
    await store.aclose()


async def test_a_replaced_text_keeps_no_metadata_of_the_old_one(server, name, aconnect):
    store = AsyncChroma(await aconnect(server.port), name, RandomEmbeddings())
    ids = ["1", "2", "3"]
    await store.aadd_texts(["a", "b", "c"], [{"tenant": "a", "n": 1}, {"n": 2}, {}], ids=ids)
    await store.aadd_texts(["d", "e", "f", "g"], [{"n": 7}, {}, {"x": 1}, {}], ids=[*ids, "4"])
    found = {document.id: document for document in await store.aget_by_ids([*ids, "4", "1"])}
    assert {id_: (d.page_content, d.metadata) for id_, d in found.items()} == {
        "1": ("d", {"n": 7}),
        "2": ("e", {}),
        "3": ("f", {"x": 1}),
        "4": ("g", {}),
    }
    await store.aadd_texts(["h"], ids=["1"])
    assert [d.metadata for d in await store.aget_by_ids(["1"])] == [{}]
    assert await store.asimilarity_search("h", filter={"tenant": "a"}) == []
    assert await store.aget_by_ids([]) == []
    await store.aclose()


@pytest.mark.parametrize("search_type", ["mmr", "similarity_score_threshold"])
async def test_missing_features_are_errors_with_the_cure(both, search_type):
    retriever = both[1].as_retriever(
        search_type=search_type, search_kwargs={"score_threshold": 0.1, "k": 2}
    )
    with pytest.raises(NotImplementedError, match="use SIFTRetriever with"):
        await retriever.ainvoke(QUERIES[0])


async def test_a_store_without_embeddings_raises_an_error_with_the_cure(server, name, aconnect):
    store = AsyncChroma(await aconnect(server.port), name)
    for ask in (store.aadd_texts(TEXTS), store.asimilarity_search("which?")):
        with pytest.raises(ValueError, match="opened without embedding_function"):
            await ask
    with pytest.raises(StoreError, match="no embedding function"):
        await SIFTRetriever(vectorstore=store).ainvoke("which?")
