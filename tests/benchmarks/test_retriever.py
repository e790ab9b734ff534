"""Compare the time of a retrieval with Chroma's MMR, and of a batch with its queries one by one.

    make bench

An embedded Chroma holds 20,000 vectors of 384 dimensions. The embedding of the query is a lookup,
so that the rest of the retrieval is measured. The vectors resemble embeddings: a direction common
to all, one of 200 topics, and noise.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import chromadb
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings
from pytest_benchmark.fixture import BenchmarkFixture

from langchain_sift import SIFTRetriever
from langchain_sift.selection import select

ROWS, DIMENSIONS, FETCH_K = 20_000, 384, 200
QUERIES = 64


class LookUp(Embeddings):
    """Embeds the query "7" as the vector at index 7."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors.tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._vectors[int(text)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError(texts)


def draw(rng: np.random.Generator, topics: np.ndarray, shared: np.ndarray) -> np.ndarray:
    vectors = shared + topics + rng.normal(size=topics.shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def collection() -> tuple[chromadb.ClientAPI, str, np.ndarray, np.ndarray]:
    """Return a filled collection, queries about anything, and queries about five topics."""
    rng = np.random.default_rng(0)
    topics, shared = rng.normal(size=(200, DIMENSIONS)), 0.6 * rng.normal(size=DIMENSIONS)
    vectors = draw(rng, topics[rng.integers(0, 200, ROWS)], shared)
    anything = draw(rng, topics[rng.integers(0, 200, QUERIES)], shared)
    five_topics = draw(rng, topics[rng.integers(0, 5, QUERIES)], shared)
    client = chromadb.EphemeralClient()
    made = client.create_collection(
        str(uuid.uuid4()), embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    for start in range(0, ROWS, 5000):
        rows = range(start, start + 5000)
        made.add(
            ids=[str(row) for row in rows],
            embeddings=list(vectors[start : start + 5000].astype(np.float32)),
            documents=[f"text number {row} " * 20 for row in rows],
            metadatas=[{"number": row} for row in rows],
        )
    return client, made.name, anything, five_topics


@pytest.fixture
def open_store(
    collection: tuple[chromadb.ClientAPI, str, np.ndarray, np.ndarray],
) -> Callable[[str], Chroma]:
    client, name, anything, five_topics = collection
    queries = {"anything": anything, "five topics": five_topics}
    return lambda asked: Chroma(
        client=client, collection_name=name, embedding_function=LookUp(queries[asked])
    )


OpenStore = Callable[[str], Chroma]


@pytest.mark.parametrize("k", [10, 50])
def test_invoke(benchmark: BenchmarkFixture, open_store: OpenStore, k: int) -> None:
    benchmark.group = f"one query, fetch_k={FETCH_K}, k={k}"
    retriever = SIFTRetriever(vectorstore=open_store("anything"), k=k, fetch_k=FETCH_K)
    assert len(benchmark(retriever.invoke, "0")) == k


@pytest.mark.parametrize("k", [10, 50])
def test_mmr_of_chroma(benchmark: BenchmarkFixture, open_store: OpenStore, k: int) -> None:
    benchmark.group = f"one query, fetch_k={FETCH_K}, k={k}"
    store = open_store("anything")
    found = benchmark(store.max_marginal_relevance_search, "0", k=k, fetch_k=FETCH_K)
    assert len(found) == k


@pytest.mark.parametrize("k", [10, 50])
def test_fetching_alone(benchmark: BenchmarkFixture, open_store: OpenStore, k: int) -> None:
    benchmark.group = f"one query, fetch_k={FETCH_K}, k={k}"
    store = open_store("anything")
    found = benchmark(
        store._collection.query,
        query_embeddings=[store.embeddings.embed_query("0")],
        n_results=FETCH_K,
        include=["documents", "metadatas", "embeddings"],
    )
    assert len(found["ids"][0]) == FETCH_K


@pytest.mark.parametrize("k", [10, 50])
def test_choosing_alone(benchmark: BenchmarkFixture, open_store: OpenStore, k: int) -> None:
    benchmark.group = f"one query, fetch_k={FETCH_K}, k={k}"
    store = open_store("anything")
    query = np.array(store.embeddings.embed_query("0"))
    found = store._collection.query(
        query_embeddings=[query], n_results=FETCH_K, include=["embeddings"]
    )
    candidates = np.array(found["embeddings"][0])
    assert len(benchmark(select, query, candidates, k=k).indices) == k


@pytest.mark.parametrize("asked", ["anything", "five topics"])
def test_batch(benchmark: BenchmarkFixture, open_store: OpenStore, asked: str) -> None:
    benchmark.group = f"{QUERIES} queries about {asked}, k=10"
    retriever = SIFTRetriever(vectorstore=open_store(asked), k=10)
    queries = [str(number) for number in range(QUERIES)]
    found = benchmark.pedantic(retriever.batch, (queries,), rounds=5, warmup_rounds=1)
    assert found == [retriever.invoke(query) for query in queries]


@pytest.mark.parametrize("asked", ["anything", "five topics"])
def test_one_by_one(benchmark: BenchmarkFixture, open_store: OpenStore, asked: str) -> None:
    benchmark.group = f"{QUERIES} queries about {asked}, k=10"
    retriever = SIFTRetriever(vectorstore=open_store(asked), k=10)
    queries = [str(number) for number in range(QUERIES)]
    found = benchmark.pedantic(
        lambda: [retriever.invoke(query) for query in queries], rounds=5, warmup_rounds=1
    )
    assert len(found) == QUERIES


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_candidate_search(benchmark: BenchmarkFixture, open_store: OpenStore, search: str) -> None:
    benchmark.group = "one query, by candidate_search, k=20"
    retriever = SIFTRetriever(vectorstore=open_store("anything"), k=20, candidate_search=search)
    rounds = 3 if search == "exhaustive" else 20
    found = benchmark.pedantic(retriever.invoke, ("0",), rounds=rounds, warmup_rounds=1)
    assert len(found) == 20
