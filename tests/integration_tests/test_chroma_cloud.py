"""Index, search and repair behind the quotas of Chroma Cloud, with a path, a tenant and a token."""

from __future__ import annotations

import asyncio
import uuid

import chromadb
import numpy as np
import pytest
from integration_tests.corpus import RandomEmbeddings
from integration_tests.quotas import QUERY_VECTORS, ROWS, QuotaProxy
from integration_tests.servers import HOST
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_sift import SIFTRetriever
from langchain_sift.errors import QuotaExceeded, StoreError
from langchain_sift.indexing.chroma_clients import aconnect, connect
from langchain_sift.indexing.chroma_collections import open_collection
from langchain_sift.indexing.index import index_into
from langchain_sift.indexing.repair import repair
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.adapters import chroma
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft import LanguageModel

# chromadb leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOKEN = "hunter2"  # noqa: S105 - made up


class UnitEmbeddings(RandomEmbeddings):
    """Random directions."""

    def embed_query(self, text):
        vector = np.array(super().embed_query(text))
        return (vector / np.linalg.norm(vector)).tolist()


EMBEDDINGS = UnitEmbeddings(24)
QUERIES = [f"where is {number}?" for number in range(60)]


@pytest.fixture(scope="module")
def tenant(server):
    """Make a tenant and a database of its own."""
    name = f"tenant-{uuid.uuid4()}"
    settings = chromadb.Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=HOST,
        chroma_server_http_port=server.port,
    )
    admin = chromadb.AdminClient(settings)
    admin.create_tenant(name)
    admin.create_database("facts", name)
    return name


@pytest.fixture
def proxy(server):
    proxy = QuotaProxy(
        server.port, prefix="/chroma", credentials=("Authorization", f"Bearer {TOKEN}")
    )
    yield proxy
    proxy.close()


@pytest.fixture
def location(proxy, tenant):
    return ChromaLocation.of(f"{proxy.url}?tenant={tenant}&database=facts", token=TOKEN)


@pytest.fixture(params=["cloud", "gateway"])
def host(request, monkeypatch):
    """Name the server as Chroma Cloud, or as a server whose quotas are learned from refusals."""
    if request.param == "cloud":
        monkeypatch.setattr(chroma, "CLOUD_HOST", HOST)
    return request.param


def check_refusals(proxy, host):
    """Check that no request exceeds a documented quota of a server that is known to be the Cloud.

    The number of query vectors is not documented: it is learned from a refusal.
    """
    learned = ["Number of query embeddings"]
    if host == "gateway":
        learned.append("Number of results")
    assert [text for text in proxy.refusals if not any(name in text for name in learned)] == []


def filled(location, texts):
    """Store texts, which may repeat, in a new collection."""
    name = f"facts-{uuid.uuid4()}"
    # The index is to be exact, in spite of equal vectors.
    exact = {"hnsw:search_ef": 3000, "hnsw:construction_ef": 500, "hnsw:M": 64}
    collection = connect(location).create_collection(name, metadata=exact, embedding_function=None)
    for start in range(0, len(texts), ROWS):
        part = texts[start : start + ROWS]
        ids = [f"{start + number:05}" for number in range(len(part))]
        collection.add(ids=ids, documents=part, embeddings=EMBEDDINGS.embed_documents(part))
    return name


def repeated(texts, times):
    return [text for text in texts for _ in range(times)]


def nearest_texts(texts, query, count):
    """Return the texts nearest to a query, computed without a store."""
    different = [*dict.fromkeys(texts)]
    vectors = np.array(EMBEDDINGS.embed_documents(different))
    order = np.argsort(-vectors @ np.array(EMBEDDINGS.embed_query(query)))
    return [different[row] for row in order[:count]]


class Search:
    """A retriever through threads or through coroutines."""

    def __init__(self, location, name, *, asynchronous, **settings):
        self._location, self._name, self._settings = location, name, settings
        self._asynchronous = asynchronous

    def __call__(self, *queries):
        if self._asynchronous:
            return asyncio.run(self._by_coroutines(queries))
        store = Chroma(self._name, EMBEDDINGS, client=connect(self._location))
        retriever = SIFTRetriever(vectorstore=store, **self._settings)
        return retriever.batch(queries) if len(queries) > 1 else [retriever.invoke(queries[0])]

    async def _by_coroutines(self, queries):
        client = connect(self._location)
        by_coroutines = await aconnect(self._location, client.tenant, client.database)
        store = AsyncChroma(by_coroutines, self._name, EMBEDDINGS)
        retriever = SIFTRetriever(vectorstore=store, **self._settings)
        try:
            return await retriever.abatch(queries)
        finally:
            await store.aclose()


def texts_of(documents):
    return [document.page_content for document in documents]


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "coroutines"])


@both
@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
@pytest.mark.parametrize("length", [5, 40, 400])
def test_a_text_stored_a_thousand_times_hides_no_neighbour(  # noqa: PLR0917 - parameters
    location, proxy, host, asynchronous, candidate_search, length
):
    texts = [("a (b) [c+]?\n" * 40)[:length] + f"{number}" for number in range(250)]
    query = "which?"
    (first,) = nearest_texts(texts, query, 1)
    name = filled(location, [*texts, *[first] * 1000])
    proxy.calls.clear()
    search = Search(
        location,
        name,
        asynchronous=asynchronous,
        k=20,
        fetch_k=200,
        search_type="sift" if candidate_search == "residual" else "similarity",
        candidate_search=candidate_search,
    )
    (found,) = search(query)
    check_refusals(proxy, host)
    if candidate_search != "residual":
        assert texts_of(found) == nearest_texts(texts, query, 20)
    assert len(found) == 20


@both
def test_a_text_among_the_nearest_that_repeats_needs_no_larger_answer(
    location, proxy, asynchronous
):
    texts = [f"fact {number} of many" for number in range(400)]
    name = filled(location, texts + nearest_texts(texts, QUERIES[0], 1) * 80)
    proxy.calls.clear()
    search = Search(location, name, asynchronous=asynchronous, k=200, search_type="similarity")
    (found,) = search(QUERIES[0])
    assert texts_of(found) == nearest_texts(texts, QUERIES[0], 200)
    assert proxy.refusals == []


@both
def test_many_queries_in_stores_of_copies(location, proxy, host, asynchronous):
    texts = [f"fact {number} of many" for number in range(400)]
    name = filled(location, repeated(texts, 5))
    proxy.calls.clear()
    search = Search(location, name, asynchronous=asynchronous, k=60, search_type="similarity")
    answers = search(*QUERIES[:30])
    for query, found in zip(QUERIES, answers, strict=False):
        assert texts_of(found) == nearest_texts(texts, query, 60)
    check_refusals(proxy, host)
    answered = [call for call in proxy.calls if call.action == "Query" and call.refused is None]
    assert max(len(call.body["query_embeddings"]) for call in answered) == QUERY_VECTORS


@both
def test_more_candidates_than_an_answer_may_have(location, proxy, host, asynchronous):
    texts = [f"fact {number} of many" for number in range(700)]
    name = filled(location, texts)
    proxy.calls.clear()
    search = Search(
        location, name, asynchronous=asynchronous, k=320, fetch_k=500, search_type="similarity"
    )
    (found,) = search(QUERIES[0])
    assert len(found) == 320
    assert texts_of(found)[:ROWS] == nearest_texts(texts, QUERIES[0], ROWS)
    check_refusals(proxy, host)


@both
def test_filters_leave_room_or_end_the_search(location, proxy, host, asynchronous):
    texts = [f"fact {number} of many" for number in range(300)]
    (first,) = nearest_texts(texts, QUERIES[0], 1)
    name = filled(location, [*texts, *[first] * 500])
    conditions = [{"$contains": part} for part in ("f", "a", "c", "fact", "of", "many", "o")]
    for count, expected in ((6, 30), (7, 30)):
        where_document = {"$and": conditions[:count]}
        search = Search(
            location,
            name,
            asynchronous=asynchronous,
            k=30,
            search_type="similarity",
            search_kwargs={"where_document": where_document},
        )
        (found,) = search(QUERIES[0])
        assert texts_of(found) == nearest_texts(texts, QUERIES[0], expected)
    full = {"$and": [*conditions, {"$contains": "ct"}]}
    search = Search(
        location,
        name,
        asynchronous=asynchronous,
        k=30,
        search_type="similarity",
        search_kwargs={"where_document": full},
    )
    (found,) = search(QUERIES[0])
    assert texts_of(found) == [first]  # no condition is left to exclude it
    check_refusals(proxy, host)


@pytest.mark.parametrize("knows_expressions", [False, True])
def test_a_refusal_of_any_form_leaves_what_was_found(
    location, proxy, monkeypatch, knows_expressions
):
    texts = [f"fact {number} of many" for number in range(100)]
    nearest = nearest_texts(texts, QUERIES[0], 5)
    name = filled(location, [*texts, *nearest[:1] * 500])

    def refuse(_, action, body):
        regex = "regex" in str(body.get("where_document")) and not knows_expressions
        refused = action == "Query" and (regex or body.get("n_results", 0) > ROWS)
        return (400, "no such thing") if refused else (200, None)

    monkeypatch.setattr(proxy, "_refusal", refuse)
    for asynchronous in (False, True):
        search = Search(location, name, asynchronous=asynchronous, k=5, search_type="similarity")
        (found,) = search(QUERIES[0])
        assert texts_of(found) == (nearest if knows_expressions else nearest[:1])


# Indexing


@pytest.fixture(scope="module")
def chunks():
    return [
        Document(f"fact {number}", id=f"c{number}", metadata={"source": f"{number}.txt"})
        for number in range(700)
    ]


def test_an_index_is_written_read_and_repaired(location, proxy, chunks, tiny_model, tiny_tokenizer):
    name = f"facts-{uuid.uuid4()}"
    named = {"own:E": EMBEDDINGS, "tiny": LanguageModel("tiny", tiny_model, tiny_tokenizer)}
    load = named.__getitem__
    for embeddings in named:
        collection = f"{name}-{embeddings.partition(':')[0]}"
        assert index_into(location, collection, chunks, embeddings, load).added == 700
        assert index_into(location, collection, chunks, embeddings, load).present == 700
        store = open_collection(location, collection, lambda _, e=embeddings: load(e))
        assert len(SIFTRetriever(vectorstore=store, k=5).invoke("fact 7")) == 5
        assert store._collection.count() == 700
        store._collection.modify(metadata={"owner": "somebody"})
        repaired = repair(location, collection, embeddings, load)
        assert repaired.lowest_cosine > 0.9999
    assert proxy.refusals == []
    assert {call.headers.get("Authorization") for call in proxy.calls} == {f"Bearer {TOKEN}"}
    assert all(call.path.startswith("/chroma/api/v2/") for call in proxy.calls)


def test_async_chroma_writes_and_deletes_within_the_quotas(location, proxy):
    async def run():
        client = connect(location)
        by_coroutines = await aconnect(location, client.tenant, client.database)
        store = AsyncChroma(by_coroutines, f"facts-{uuid.uuid4()}", EMBEDDINGS)
        ids = await store.aadd_texts(QUERIES * 12, [{"n": n} for n in range(720)])
        found = await store.aget_by_ids(ids)
        assert [document.id for document in found] == ids
        assert await store.aadd_texts(QUERIES * 12, ids=ids) == ids
        assert await store.adelete(ids)
        assert await store.aget_by_ids(ids) == []
        await store.aclose()

    asyncio.run(run())
    assert proxy.refusals == []


def test_a_quota_that_no_smaller_request_meets_is_named(location):
    long = Document("x" * 20_000, id="a")
    with pytest.raises(
        QuotaExceeded, match=r"'Document size \(bytes\)' exceeded .* limit of 16384"
    ):
        index_into(location, f"facts-{uuid.uuid4()}", [long], "own:E", lambda _: EMBEDDINGS)


# Credentials


@pytest.mark.parametrize("token", [None, "wrong-hunter3"])
def test_missing_and_wrong_credentials_are_named_and_not_shown(proxy, token):
    with pytest.raises(StoreError, match=r"refused the request with status 401: give") as raised:
        connect(ChromaLocation.of(proxy.url, token=token))
    assert "LANGCHAIN_SIFT_STORE_TOKEN" in str(raised.value)
    assert "hunter" not in str(raised.value)


def test_a_tenant_that_does_not_exist_is_named(proxy):
    location = ChromaLocation.of(f"{proxy.url}?tenant=nobody", token=TOKEN)
    with pytest.raises(StoreError, match="nobody") as raised:
        connect(location)
    assert TOKEN not in str(raised.value)
