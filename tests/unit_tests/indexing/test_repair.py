"""Name the embeddings of a collection again, unless its vectors are those of others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError, DimensionMismatch, EmbeddingError, NotFittedError
from langchain_sift.indexing.chroma_collections import embeddings_for, open_collection
from langchain_sift.indexing.index import index_into
from langchain_sift.indexing.repair import Repaired, common_point, repair
from langchain_sift.ttft import LanguageModel

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from chromadb import Collection
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

OVERWRITTEN = {"owner": "somebody", "hnsw:search_ef": 200}


@pytest.fixture
def model(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel("tiny", tiny_model, tiny_tokenizer)


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(id=f"d{n}", page_content=text) for n, text in enumerate(texts)]


class Offset(Embeddings):
    """Other embeddings of the same size, whose vectors resemble those of `DeterministicFake...`."""

    def __init__(self, share: float) -> None:
        self._inner, self._share = DeterministicFakeEmbedding(size=16), share

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors = np.array(self._inner.embed_documents(texts))
        other = np.random.default_rng(0).standard_normal(vectors.shape)
        mixed: list[list[float]] = ((1 - self._share) * vectors + self._share * other).tolist()
        return mixed

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def fill(where: Path, documents: list[Document], embeddings: Any, name: str) -> Collection:
    index_into(str(where), "facts", documents, name, lambda _: embeddings)
    return chromadb.PersistentClient(str(where)).get_collection("facts", embedding_function=None)


def fix(where: Path, name: str, loaded: Any, **settings: Any) -> Repaired:
    return repair(str(where), None, name, lambda _: loaded, **settings)


def test_overwritten_metadata_name_the_embeddings_again(
    documents: list[Document], tmp_path: Path
) -> None:
    embeddings = DeterministicFakeEmbedding(size=16)
    collection = fill(tmp_path, documents, embeddings, "own:E")
    before = collection.get(include=["embeddings"])
    collection.modify(metadata=OVERWRITTEN)
    with pytest.raises(ArgumentError, match=r"names no embeddings.*`langchain-sift repair`"):
        embeddings_for(str(tmp_path), "facts", None)

    repaired = fix(tmp_path, "own:E", embeddings)
    assert (repaired.collection, repaired.embeddings, repaired.rows) == ("facts", "own:E", 32)
    assert repaired.lowest_cosine == pytest.approx(1.0)
    assert not repaired.computed_mean
    assert embeddings_for(str(tmp_path), "facts", "own:E") == "own:E"
    with pytest.raises(ArgumentError, match="holds embeddings of 'own:E'"):
        embeddings_for(str(tmp_path), "facts", "own:F")
    again = chromadb.PersistentClient(str(tmp_path)).get_collection("facts")
    assert OVERWRITTEN.items() <= dict(again.metadata).items()
    after = again.get(include=["embeddings"])
    np.testing.assert_array_equal(after["embeddings"], before["embeddings"])
    assert fix(tmp_path, "own:E", embeddings) == repaired


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_other_embeddings_are_refused_with_the_measured_difference(
    documents: list[Document], tmp_path: Path, share: float
) -> None:
    embeddings = DeterministicFakeEmbedding(size=16)
    collection = fill(tmp_path, documents, embeddings, "own:E")
    collection.modify(metadata=OVERWRITTEN)
    with pytest.raises(EmbeddingError, match="'own:F' did not fill the collection") as raised:
        fix(tmp_path, "own:F", Offset(share), rows=60)
    texts = [document.page_content for document in documents]
    cosines = [
        np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
        for one, other in zip(
            embeddings.embed_documents(texts), Offset(share).embed_documents(texts), strict=True
        )
    ]
    measured = re.search(
        r"is (-?[\d.]+) on average and (-?[\d.]+) at the lowest", str(raised.value)
    )
    assert measured is not None
    assert float(measured[1]) == pytest.approx(np.mean(cosines), abs=1e-3)
    assert float(measured[2]) == pytest.approx(np.min(cosines), abs=1e-3)
    with pytest.raises(DimensionMismatch, match="8 dimensions, and the stored vectors have 16"):
        fix(tmp_path, "own:F", DeterministicFakeEmbedding(size=8))
    unchanged = chromadb.PersistentClient(str(tmp_path)).get_collection("facts")
    assert dict(unchanged.metadata) == OVERWRITTEN


class Faulty(Embeddings):
    """Returns one number for all, or fails without one."""

    def __init__(self, value: float | None) -> None:
        self._value = value

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self._value is None:
            raise ConnectionError("no server")
        return [[self._value] * 16 for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, r"'own:F' did not fill .* is 0\.000 on average and 0\.000 at the lowest"),
        (float("nan"), "returned NaN or infinity for 32 of 32 texts"),
        (float("inf"), "returned NaN or infinity for 32 of 32 texts"),
        (None, "the embeddings failed: ConnectionError: no server"),
    ],
)
def test_faulty_embeddings_are_refused(
    documents: list[Document], tmp_path: Path, value: float | None, message: str
) -> None:
    collection = fill(tmp_path, documents, DeterministicFakeEmbedding(size=16), "own:E")
    collection.modify(metadata=OVERWRITTEN)
    with pytest.raises(EmbeddingError, match=message):
        fix(tmp_path, "own:F", Faulty(value))
    unchanged = chromadb.PersistentClient(str(tmp_path)).get_collection("facts")
    assert dict(unchanged.metadata) == OVERWRITTEN


@pytest.mark.parametrize("lost", [True, False])
def test_a_mean_is_read_or_computed_from_the_rows(
    documents: list[Document], model: LanguageModel, tmp_path: Path, *, lost: bool
) -> None:
    collection = fill(tmp_path, documents, model, "tiny")
    client = chromadb.PersistentClient(str(tmp_path))
    expected = open_collection(str(tmp_path), "facts", lambda _: model).embeddings
    assert isinstance(expected, HiddenStateEmbeddings)
    collection.modify(metadata={"owner": "somebody"})
    if lost:
        client.delete_collection(f"langchain-sift-mean-{collection.id}")
        with pytest.raises(NotFittedError, match=r"no mean.*`langchain-sift repair`"):
            open_collection(str(tmp_path), "facts", lambda _: model)
    repaired = fix(tmp_path, "tiny", model)
    assert repaired.computed_mean == lost
    assert repaired.rows == (16 if lost else 32)
    assert repaired.lowest_cosine > 0.9999
    opened = open_collection(str(tmp_path), None, lambda name: model if name == "tiny" else None)  # type: ignore[return-value,arg-type]
    assert isinstance(opened.embeddings, HiddenStateEmbeddings)
    np.testing.assert_allclose(opened.embeddings.mean, expected.fitted_mean(), atol=1e-4)
    (nearest,) = opened.similarity_search(documents[7].page_content, k=1)
    assert nearest.id == "d7"


def test_the_mean_of_an_earlier_version_is_moved_out_of_the_metadata(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    embeddings = HiddenStateEmbeddings(model).fit([one.page_content for one in documents])
    client = chromadb.PersistentClient(str(tmp_path))
    old = client.create_collection("facts", metadata=embeddings.collection_metadata())
    texts = [document.page_content for document in documents]
    old.add(
        ids=[str(document.id) for document in documents],
        documents=texts,
        embeddings=embeddings.embed_documents(texts),  # type: ignore[arg-type]
    )
    opened = open_collection(str(tmp_path), None, lambda _: model)
    (nearest,) = opened.similarity_search(texts[3], k=1)
    assert nearest.id == "d3"
    assert not fix(tmp_path, "tiny", model).computed_mean
    assert dict(client.get_collection("facts").metadata) == {"langchain_sift_model": "tiny"}
    again = open_collection(str(tmp_path), None, lambda _: model).embeddings
    assert isinstance(again, HiddenStateEmbeddings)
    np.testing.assert_array_equal(again.mean, embeddings.mean)


def test_another_model_is_refused_also_without_a_mean(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    size = model.model.config.hidden_size
    fill(tmp_path, documents, DeterministicFakeEmbedding(size=size), "own:E")
    with pytest.raises(EmbeddingError, match="'tiny' did not fill"):
        fix(tmp_path, "tiny", model)
    fill(tmp_path / "small", documents, DeterministicFakeEmbedding(size=size // 2), "own:E")
    with pytest.raises(DimensionMismatch):
        fix(tmp_path / "small", "tiny", model)


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_the_metric_of_a_collection_stays(tmp_path: Path, space: str) -> None:
    embeddings = DeterministicFakeEmbedding(size=4)
    texts = [f"fact {n}" for n in range(8)]
    client = chromadb.PersistentClient(str(tmp_path))
    made = client.create_collection("facts", metadata={"hnsw:space": space})
    made.add(ids=texts, documents=texts, embeddings=embeddings.embed_documents(texts))  # type: ignore[arg-type]
    query = [embeddings.embed_query("x")]
    before = made.query(query_embeddings=query, n_results=8)  # type: ignore[arg-type]
    assert fix(tmp_path, "own:E", embeddings).rows == 8
    after = client.get_collection("facts").query(query_embeddings=query, n_results=8)  # type: ignore[arg-type]
    assert after["ids"] == before["ids"]
    np.testing.assert_allclose(after["distances"], before["distances"], rtol=1e-6)  # type: ignore[arg-type]


def test_too_few_rows_are_an_error(documents: list[Document], tmp_path: Path) -> None:
    embeddings = DeterministicFakeEmbedding(size=4)
    fill(tmp_path, documents[:3], embeddings, "own:E")
    with pytest.raises(ArgumentError, match="has 3 different texts"):
        fix(tmp_path, "own:E", embeddings)
    with pytest.raises(ArgumentError, match="rows must be an integer of at least 4"):
        fix(tmp_path, "own:E", embeddings, rows=3)


def test_lines_meet_where_a_dense_solver_says() -> None:
    rng = np.random.default_rng(0)
    for n, d in ((2, 5), (7, 3), (16, 40)):
        points, directions = rng.standard_normal((2, n, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        projections = np.eye(d) - directions[:, :, None] * directions[:, None, :]
        expected = np.linalg.solve(
            projections.sum(axis=0), np.einsum("nij,nj->i", projections, points)
        )
        np.testing.assert_allclose(common_point(points, directions), expected, atol=1e-9)
        meeting = rng.standard_normal(d)
        points = meeting + rng.standard_normal((n, 1)) * directions
        np.testing.assert_allclose(common_point(points, directions), meeting, atol=1e-9)
