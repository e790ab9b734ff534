"""Retrieve from a real Chroma server that the tests start."""

from __future__ import annotations

import httpx
import pytest
from integration_tests.corpus import QUERIES, TEXTS, RandomEmbeddings, ids
from integration_tests.servers import HOST
from langchain_chroma import Chroma
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_sift import SIFTRetriever
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import AsyncChroma


class TestStandard(RetrieversIntegrationTests):
    """LangChain's standard tests of retrievers, over HTTP."""

    @pytest.fixture(autouse=True)
    def _use(self, server, name, fill):
        self.store = fill(server.port, name)

    @property
    def retriever_constructor(self):
        return SIFTRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self):
        return QUERIES[0]


WAYS = [
    *((search_type, "nearest") for search_type in SIFTRetriever.allowed_search_types),
    *((search_type, "exhaustive") for search_type in SIFTRetriever.allowed_search_types),
    ("sift", "residual"),
]


@pytest.fixture(scope="module")
def embedded():
    return Chroma.from_texts(
        TEXTS,
        RandomEmbeddings(),
        ids=[f"id-{number}" for number in range(len(TEXTS))],
        metadatas=[{"number": number} for number in range(len(TEXTS))],
        collection_name="embedded-twin",
    )


@pytest.fixture
def remote(server, name, fill):
    return fill(server.port, name)


@pytest.mark.parametrize(("search_type", "candidate_search"), WAYS)
def test_a_server_and_an_embedded_store_return_the_same(
    embedded, remote, search_type, candidate_search
):
    ways = {"search_type": search_type, "candidate_search": candidate_search}
    here = SIFTRetriever(vectorstore=embedded, k=6, fetch_k=20, **ways)
    there = SIFTRetriever(vectorstore=remote, k=6, fetch_k=20, **ways)
    expected = [here.invoke(query) for query in QUERIES]
    assert {len(documents) for documents in expected} == {6}
    assert [there.invoke(query) for query in QUERIES] == expected
    assert there.batch(QUERIES) == expected
    half = {"filter": {"number": {"$gte": 30}}}
    assert there.batch(QUERIES, **half) == here.batch(QUERIES, **half)
    for query in QUERIES:
        one, other = there.retrieve_with_scores(query), here.retrieve_with_scores(query)
        assert one.documents == other.documents
        # Over HTTP a vector comes in decimals.
        gains = pytest.approx([choice.gain for choice in other.choices], rel=1e-6, abs=1e-8)
        assert [choice.gain for choice in one.choices] == gains


SAID_BY_THE_SERVER = {
    "type": "known",
    "name": "sentence_transformer",
    "config": {
        "model_name": "somebody/something",
        "device": "cpu",
        "normalize_embeddings": False,
        "kwargs": {"trust_remote_code": True},
    },
}


@pytest.fixture
def poisoned(server, name):
    """Fill a collection that names an embedding function which would run foreign code."""
    root = f"http://{HOST}:{server.port}/api/v2/tenants/default_tenant/databases/default_database"
    configuration = {"embedding_function": SAID_BY_THE_SERVER}
    made = httpx.post(
        f"{root}/collections", json={"name": name, "configuration": configuration}
    ).json()
    assert made["configuration_json"]["embedding_function"] == SAID_BY_THE_SERVER
    httpx.post(
        f"{root}/collections/{made['id']}/upsert",
        json={
            "ids": [f"id-{number}" for number in range(len(TEXTS))],
            "embeddings": RandomEmbeddings().embed_documents(TEXTS),
            "documents": TEXTS,
        },
    ).raise_for_status()
    return name


@pytest.fixture
def nothing_is_built(monkeypatch):
    """Fail a test in which an embedding function of the server is built."""

    def never(*_, **__):
        pytest.fail("an embedding function was made of what the server says")

    functions = "chromadb.utils.embedding_functions"
    monkeypatch.setattr(
        f"{functions}.SentenceTransformerEmbeddingFunction.build_from_config", never
    )


@pytest.mark.usefixtures("nothing_is_built")
async def test_a_search_builds_no_embedding_function_of_the_server(server, poisoned, open_store):
    store = await open_store(server.port, poisoned)
    for candidate_search in CANDIDATE_SEARCHES:
        retriever = SIFTRetriever(vectorstore=store, k=3, candidate_search=candidate_search)
        assert len(await retriever.ainvoke(QUERIES[0])) == 3
        assert len(await retriever.abatch(QUERIES)) == len(QUERIES)


@pytest.mark.usefixtures("nothing_is_built")
async def test_async_chroma_builds_no_embedding_function_of_the_server(server, poisoned, aconnect):
    store = AsyncChroma(await aconnect(server.port), poisoned, RandomEmbeddings())
    await store.aadd_texts(["new"], ids=["new"])
    assert ids(await store.asimilarity_search("new", k=1)) == ["new"]
    assert ids(await store.aget_by_ids(["id-3"])) == ["id-3"]
    assert await store.adelete(["new"])
    await store.aclose()
