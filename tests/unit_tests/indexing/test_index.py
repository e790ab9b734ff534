"""A corpus is embedded once, and its mean never changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import pytest
from chromadb.api.models.Collection import Collection
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_sift import HiddenStateEmbeddings
from langchain_sift.errors import (
    ArgumentError,
    CorpusError,
    DimensionMismatch,
    EmbeddingError,
    InvalidFilter,
    ModelLoadError,
    NotFittedError,
    SIFTError,
    StoreError,
    StoreUnavailable,
)
from langchain_sift.indexing import index_documents, save_embeddings
from langchain_sift.indexing.chroma_clients import connect
from langchain_sift.indexing.chroma_collections import (
    embeddings_for,
    open_collection,
    resolve_name,
)
from langchain_sift.indexing.index import Indexed, index_into
from langchain_sift.indexing.named_objects import load_embeddings_of
from langchain_sift.ttft import LanguageModel, load_language_model

if TYPE_CHECKING:
    from integration_tests.servers import Server
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture
def model(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel("tiny", tiny_model, tiny_tokenizer)


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(id=f"d{n}", page_content=text) for n, text in enumerate(texts)]


def test_an_interrupted_index_is_continued_and_a_full_one_is_reused(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    progress: list[int] = []
    store = index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress[0] == 0
    assert progress[-1] == len(documents)
    before = store.get(include=["embeddings"])
    store.delete(["d7"])

    progress.clear()
    again = index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress == [len(documents) - 1, len(documents)]
    after = again.get(include=["embeddings"])
    order = [after["ids"].index(name) for name in before["ids"]]
    np.testing.assert_allclose(after["embeddings"][order], before["embeddings"], atol=1e-6)

    progress.clear()
    index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress == [len(documents)]


def test_another_corpus_gets_another_collection(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    one = index_documents(documents, model, tmp_path)
    other = index_documents(documents[:10], model, tmp_path)
    assert one._collection.name != other._collection.name
    assert (one._collection.count(), other._collection.count()) == (len(documents), 10)


@pytest.mark.parametrize("count", [0, 1])
def test_a_corpus_of_fewer_than_two_documents_is_rejected(
    count: int, documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    for few in (documents[:count], [Document("equal")] * (2 * count)):
        with pytest.raises(CorpusError, match=f"has {count} different documents"):
            index_documents(few, model, tmp_path)


def test_documents_without_ids_are_rows_by_text_and_metadata(tmp_path: Path) -> None:
    texts = [f"fact {n}" for n in range(20)]
    documents = [
        *map(Document, texts),
        *(Document(text, metadata={"source": "a", "page": 1}) for text in texts),
        *(Document(text, metadata={"page": 1, "source": "a"}) for text in texts),  # the same
        Document(texts[0], id="own", metadata={"source": "a"}),
        Document(texts[0], id=""),
    ]
    embeddings = Counting()
    store = index_documents(documents, embeddings, tmp_path)
    stored = store.get()
    expected = {(one.page_content, *sorted(one.metadata.items())) for one in documents}
    found = zip(stored["documents"], stored["metadatas"], strict=True)
    assert {(text, *sorted((fields or {}).items())) for text, fields in found} == expected
    assert len(stored["ids"]) == len(expected) == 41
    assert "own" in stored["ids"]
    assert [one.id for one in documents] == [None] * 60 + ["own", ""]

    count = len(embeddings.texts)
    again = index_documents(documents, embeddings, tmp_path)
    assert again.get() == stored
    assert len(embeddings.texts) == count


@pytest.mark.parametrize("other", [Document("secret", id="a"), Document("x", id="a", metadata={})])
def test_different_documents_with_one_id_are_an_error(other: Document, tmp_path: Path) -> None:
    documents = [Document("x", id="a", metadata={"page": 1}), Document("y", id="b"), other]
    with pytest.raises(ArgumentError, match="different documents have the id 'a'") as caught:
        index_documents(documents, Counting(), tmp_path)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_equal_documents_with_a_missing_number_are_one_row(tmp_path: Path) -> None:
    documents = [Document("x", metadata={"score": float("nan")}) for _ in range(2)]
    documents += [Document("z", id="z", metadata={"page": page}) for page in (1, 1.0)]
    store = index_documents([*documents, Document("y")], Counting(), tmp_path)
    assert sorted(store.get()["documents"]) == ["x", "y", "z"]


def test_names_of_metadata_of_several_types_are_a_typed_error(tmp_path: Path) -> None:
    documents: list[Document] = [Document("x"), Document("y")]
    documents[0].metadata = {"a": 1, 2: 3}
    with pytest.raises(SIFTError, match="2"):
        index_documents(documents, Counting(), tmp_path)


class Counting(Embeddings):
    """Embeddings that record their texts, and fail after a number of them."""

    def __init__(self, size: int = 16, fails_after: float = np.inf) -> None:
        self.texts: list[str] = []
        self._inner, self._fails_after = DeterministicFakeEmbedding(size=size), fails_after

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.texts) + len(texts) > self._fails_after:
            raise KeyboardInterrupt
        self.texts += texts
        return self._inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._inner.embed_query(text)


@pytest.fixture
def chunks() -> list[Document]:
    """Return more documents than a batch has, and more ids than a request has."""
    return [
        Document(f"fact {n}", id=f"c{n}", metadata={"source": f"{n}.txt"} if n % 2 else {})
        for n in range(300)
    ]


def index(
    where: Path, chunks: list[Document], embeddings: Embeddings | LanguageModel, name: str = "own:E"
) -> Indexed:
    return index_into(str(where), "documents", chunks, name, lambda _: embeddings)


def rows(where: Path) -> Collection:
    return chromadb.PersistentClient(str(where)).get_collection("documents")


def test_chunks_are_written_unchanged(chunks: list[Document], tmp_path: Path) -> None:
    embeddings = Counting()
    progress: list[int] = []
    indexed = index_into(
        str(tmp_path / "new" / "store"),
        "documents",
        chunks,
        "own:E",
        lambda _: embeddings,
        on_progress=progress.append,
    )
    assert indexed == Indexed(added=300, present=0)
    assert progress == [0, 128, 256, 300]
    stored = rows(tmp_path / "new" / "store").get(include=["embeddings", "documents", "metadatas"])
    assert stored["ids"] == [chunk.id for chunk in chunks]
    assert stored["documents"] == [chunk.page_content for chunk in chunks]
    assert [metadata or {} for metadata in stored["metadatas"]] == [one.metadata for one in chunks]
    expected = embeddings.embed_documents([chunk.page_content for chunk in chunks])
    np.testing.assert_allclose(stored["embeddings"], expected, atol=1e-6)


def test_the_same_id_is_one_row_and_a_row_stays_as_it_is(tmp_path: Path) -> None:
    def chunk(id_: str, source: str) -> Document:
        return Document(f"text {id_}", id=id_, metadata={"source": source})

    embeddings = Counting()
    first = [chunk("a", "first"), chunk("b", "first"), chunk("a", "first")]
    assert index(tmp_path, first, embeddings) == Indexed(added=2, present=0)
    again = [chunk("b", "third"), chunk("c", "third")]
    assert index(tmp_path, again, embeddings) == Indexed(added=1, present=1)
    stored = rows(tmp_path).get()
    sources = [metadata["source"] for metadata in stored["metadatas"]]
    assert list(zip(stored["ids"], sources, strict=True)) == [
        ("a", "first"),
        ("b", "first"),
        ("c", "third"),
    ]
    assert sorted(embeddings.texts) == ["text a", "text b", "text c"]


def test_an_interrupted_run_is_continued_and_a_finished_run_loads_nothing(
    chunks: list[Document], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path, chunks, Counting(fails_after=200))
    assert rows(tmp_path).count() == 128
    rest = Counting()
    assert index(tmp_path, chunks, rest) == Indexed(added=172, present=128)
    assert rest.texts == [chunk.page_content for chunk in chunks[128:]]

    def load(name: str) -> Embeddings:
        pytest.fail(f"{name} was loaded")

    indexed = index_into(str(tmp_path), "documents", chunks, "own:E", load)
    assert indexed == Indexed(added=0, present=300)


class Down(Counting):
    """Embeddings whose server is down."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise ConnectionError(f"no server for {len(texts)} texts\nand more")


def test_embeddings_that_fail_are_reported(chunks: list[Document], tmp_path: Path) -> None:
    message = "^the embeddings failed: ConnectionError: no server for 128 texts$"
    with pytest.raises(EmbeddingError, match=message):
        index(tmp_path / "store", chunks, Down())
    assert not (tmp_path / "store").exists()
    with pytest.raises(EmbeddingError, match=message):
        index_documents(chunks, Down(), tmp_path / "other")


class SomeZero(Embeddings):
    """Embeddings that know some texts only: every third vector is zero."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(n % 3), 0.0] for n in range(len(texts))]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]


def test_zero_vectors_are_written_with_one_warning(chunks: list[Document], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="zero vectors for some texts") as caught:
        index(tmp_path, chunks, SomeZero())
    assert len({str(each.message) for each in caught}) == 1
    assert open_collection(str(tmp_path), None, SomeZero())._collection.count() == len(chunks)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, float("nan")]] * 128, "NaN or infinity for 128 of 128 texts: check the embeddings"),
        ([[1.0]], r"shape \(1, 1\) for 128 texts"),
        ([[]] * 128, r"shape \(128, 0\)"),
        ([[1.0], *[[1.0, 2.0]] * 127], "vectors of numbers, all of one dimension"),
        (["x"] * 128, "vectors of numbers"),
        (None, r"shape \(\)"),
    ],
)
def test_vectors_that_are_none_are_reported(
    vectors: object, message: str, chunks: list[Document], tmp_path: Path
) -> None:
    class Wrong(Counting):
        """Embeddings that return something else than vectors."""

        def embed_documents(self, texts: list[str]) -> Any:
            assert len(texts) == 128
            return vectors

    with pytest.raises(EmbeddingError, match=message):
        index(tmp_path / "store", chunks, Wrong())
    assert not (tmp_path / "store").exists()


def test_metadata_that_chroma_rejects_are_reported(tmp_path: Path) -> None:
    documents = [Document("a", id="a"), Document("b", id="b", metadata={"chroma:document": "z"})]
    with pytest.raises(InvalidFilter, match="chroma:document"):
        index_documents(documents, Counting(), tmp_path)


def test_embeddings_that_fail_leave_no_collection(chunks: list[Document], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "store", chunks, Counting(fails_after=0))
    assert not (tmp_path / "store").exists()


def test_hidden_states_are_centred_on_the_stored_mean(
    model: LanguageModel, documents: list[Document], tmp_path: Path
) -> None:
    assert index(tmp_path, documents[:40], model, "tiny").added == 40
    assert index(tmp_path, documents, model, "tiny") == Indexed(added=20, present=40)
    fitted = HiddenStateEmbeddings(model).fit([one.page_content for one in documents[:40]])
    collection = rows(tmp_path)
    assert collection.metadata == {"langchain_sift_model": "tiny"}
    assert collection.count() == 60
    stored = collection.get(include=["embeddings"])
    expected = fitted.embed_documents([one.page_content for one in documents])
    np.testing.assert_allclose(stored["embeddings"], expected, atol=1e-5)
    opened = open_collection(str(tmp_path), None, lambda _: model)
    assert isinstance(opened.embeddings, HiddenStateEmbeddings)
    np.testing.assert_array_equal(opened.embeddings.mean, fitted.mean)
    (nearest,) = opened.similarity_search(documents[50].page_content, k=1)
    assert nearest.id == documents[50].id


def test_a_run_that_ended_before_the_first_row_is_continued(
    model: LanguageModel, documents: list[Document], tmp_path: Path
) -> None:
    client = chromadb.PersistentClient(str(tmp_path))
    client.create_collection("documents", metadata={"langchain_sift_model": "tiny"})
    assert index(tmp_path, documents, model, "tiny").added == 60
    assert index(tmp_path, documents[:50], model, "tiny") == Indexed(added=0, present=50)


def test_the_mean_of_a_store_of_ones_own_is_saved(
    model: LanguageModel, documents: list[Document], tmp_path: Path
) -> None:
    client = chromadb.PersistentClient(str(tmp_path))
    embeddings = HiddenStateEmbeddings(model).fit([one.page_content for one in documents])
    store = Chroma.from_documents(documents, embeddings, client=client, collection_name="own")
    save_embeddings(store)
    opened = open_collection(str(tmp_path), None, lambda name: {"tiny": model}[name])
    assert isinstance(opened.embeddings, HiddenStateEmbeddings)
    np.testing.assert_array_equal(opened.embeddings.mean, embeddings.mean)
    with pytest.raises(NotFittedError):
        save_embeddings(Chroma("own", HiddenStateEmbeddings(model), client=client))
    with pytest.raises(ArgumentError, match="not DeterministicFakeEmbedding"):
        save_embeddings(Chroma("own", DeterministicFakeEmbedding(size=4), client=client))


def test_a_very_long_path_of_a_model_is_stored_by_its_last_part(
    model: LanguageModel, documents: list[Document], tmp_path: Path
) -> None:
    path = "/".join(["", *["folder" * 10] * 5, "tiny"])
    named = LanguageModel(path, model.model, model.tokenizer)
    index(tmp_path, documents, named, path)
    assert rows(tmp_path).metadata == {"langchain_sift_model": "tiny"}
    assert embeddings_for(str(tmp_path), "documents", path) == path


def test_a_collection_keeps_its_embeddings(
    model: LanguageModel, documents: list[Document], tmp_path: Path
) -> None:
    index(tmp_path / "hidden", documents, model, "tiny")
    index(tmp_path / "code", documents, Counting())
    assert embeddings_for(str(tmp_path / "hidden"), "documents", None) == "tiny"
    assert embeddings_for(str(tmp_path / "code"), "documents", "own:E") == "own:E"
    for name, other in (("hidden", "own:E"), ("hidden", "huge"), ("code", "tiny")):
        with pytest.raises(ArgumentError, match=f"holds embeddings of .*, not of '{other}'"):
            index(tmp_path / name, documents, Counting(), other)
    with pytest.raises(ArgumentError, match=r"not the class Counting: write embeddings=Counting\("):
        open_collection(str(tmp_path / "code"), None, Counting)
    with pytest.raises(ArgumentError, match="'own:E': name them yourself"):
        embeddings_for(str(tmp_path / "code"), "documents", None)


def test_a_models_folder_has_several_names(
    tiny_model_path: Path, documents: list[Document], tmp_path: Path, model: LanguageModel
) -> None:
    named = LanguageModel(str(tiny_model_path), model.model, model.tokenizer)
    index(tmp_path, documents, named, str(tiny_model_path))
    other = str(tiny_model_path / ".." / tiny_model_path.name)
    assert embeddings_for(str(tmp_path), "documents", other) == other
    with pytest.raises(ArgumentError, match="not of"):
        embeddings_for(str(tmp_path), "documents", str(tiny_model_path.parent))


def test_a_collection_opens_with_the_embeddings_that_it_names_or_that_are_given(
    tiny_model_path: Path, documents: list[Document], tmp_path: Path
) -> None:
    named = load_language_model(str(tiny_model_path))
    index(tmp_path / "hidden", documents, named, str(tiny_model_path))
    texts = [one.page_content for one in documents]
    fitted = HiddenStateEmbeddings(named).fit(texts)
    opened = open_collection(str(tmp_path / "hidden")).embeddings
    expected = fitted.embed_documents(texts[:5])  # bfloat16, in other batches
    np.testing.assert_allclose(opened.embed_documents(texts[:5]), expected, atol=5e-3)
    given = Counting()
    index(tmp_path / "code", documents, given)
    assert open_collection(str(tmp_path / "code"), embeddings=given).embeddings is given
    with pytest.raises(ArgumentError, match=r"name them yourself \(--embeddings, in Python"):
        open_collection(str(tmp_path / "code"))
    opened = open_collection(str(tmp_path / "hidden"), embeddings=str(tiny_model_path)).embeddings
    np.testing.assert_allclose(opened.embed_documents(texts[:5]), expected, atol=5e-3)
    with pytest.raises(ArgumentError, match="not of 'another'"):
        open_collection(str(tmp_path / "hidden"), embeddings="another")


def test_a_collection_without_stored_embeddings_takes_those_that_are_named(
    chunks: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    client = chromadb.PersistentClient(str(tmp_path))
    with pytest.raises(ArgumentError, match="has no collection yet: fill one"):
        resolve_name(str(tmp_path), None)
    made = client.create_collection("documents")
    with pytest.raises(NotFittedError, match="'documents' is empty: fill it"):
        open_collection(str(tmp_path), "documents", lambda _: model)
    made.add(ids=["theirs"], embeddings=[[1.0] * 16], documents=["theirs"])
    with pytest.raises(ArgumentError, match="names no embeddings"):
        embeddings_for(str(tmp_path), "documents", None)
    with pytest.raises(NotFittedError, match="has no mean"):
        index(tmp_path, chunks, model, "tiny")
    with pytest.raises(DimensionMismatch, match="dimension of 16, got 8"):
        index(tmp_path, chunks, Counting(size=8))
    assert index(tmp_path, chunks, Counting()) == Indexed(added=300, present=0)
    assert made.count() == 301


def test_a_model_that_was_moved_is_told_with_its_collection() -> None:
    with pytest.raises(ModelLoadError, match=r"the collection 'facts': .* \(--embeddings, in"):
        load_embeddings_of("facts", "models/that/moved")


@pytest.mark.parametrize(
    ("where", "name", "embeddings", "kind", "message"),
    [
        ("new", "documents", None, ArgumentError, "no collection 'documents' yet"),
        ("new", "a", "own:E", ArgumentError, "cannot be called 'a'"),
        ("new", "two words", "own:E", ArgumentError, "cannot be called 'two words'"),
        ("notes", "documents", "own:E", ArgumentError, "notes holds something else"),
        ("notes/a.txt", "documents", "own:E", ArgumentError, "a.txt holds something else"),
        ("broken", "documents", "own:E", StoreError, "broken: its files are damaged"),
        ("http://127.0.0.1:9", "documents", "own:E", StoreUnavailable, "no Chroma server"),
    ],
)
def test_a_location_that_cannot_hold_a_store_is_rejected_and_unchanged(  # noqa: PLR0917 - parameters
    where: str,
    name: str,
    embeddings: str | None,
    kind: type[SIFTError],
    message: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a note")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "chroma.sqlite3").write_bytes(b"no database")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match=message):
        embeddings_for(where if "://" in where else str(tmp_path / where), name, embeddings)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", ["a.txt/store", "a.txt/store/deeper", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named_with_a_cure(
    chunks: list[Document], tmp_path: Path, where: str
) -> None:
    (tmp_path / "a.txt").write_text("a note")
    with pytest.raises(StoreError, match="name another"):
        index(tmp_path / where, chunks, Counting())


@pytest.mark.parametrize("kind", ["folder", pytest.param("server", marks=pytest.mark.slow)])
# chromadb leaves its connections to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_collection_that_another_run_makes_meanwhile_is_named_with_a_cure(
    chunks: list[Document], tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    is_folder = kind == "folder"
    where = str(tmp_path)
    if not is_folder:
        where = f"http://127.0.0.1:{request.getfixturevalue('server').port}"

    def load(_: str) -> Embeddings:
        """Make the collection as another run does, which has loaded its embeddings earlier."""
        connect(where, create=True).create_collection("documents")
        return Counting()

    message = "'documents' of .*: another run made it meanwhile: run the same command again"
    with pytest.raises(StoreError, match=message):
        index_into(where, "documents", chunks, "own:E", load)
    assert index_into(where, "documents", chunks, "own:E", lambda _: Counting()).added == 300
    gc.collect()


def test_an_object_that_is_no_embeddings_is_rejected_by_name(
    chunks: list[Document], tmp_path: Path
) -> None:
    nothing: Any = object()
    with pytest.raises(ArgumentError, match="'own:E' is of the type object"):
        index(tmp_path / "store", chunks, nothing)
    assert not (tmp_path / "store").exists()


def test_a_mean_needs_two_chunks(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least two"):
        index(tmp_path / "store", [Document("one", id="a")], model, "tiny")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Start a Chroma server."""
    servers = pytest.importorskip("integration_tests.servers")
    with servers.Server(tmp_path) as running:
        yield running


# chromadb leaves its connections to the garbage collector.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_run_against_a_server_is_continued_and_a_lost_server_is_reported(
    chunks: list[Document], server: Server
) -> None:
    where = f"http://127.0.0.1:{server.port}"

    def put(embeddings: Embeddings, chunks: list[Document] = chunks) -> Indexed:
        return index_into(where, "documents", chunks, "own:E", lambda _: embeddings)

    with pytest.raises(KeyboardInterrupt):
        put(Counting(fails_after=200))
    assert put(Counting()) == Indexed(added=172, present=128)
    collection = chromadb.HttpClient(host="127.0.0.1", port=server.port).get_collection("documents")
    assert collection.count() == 300

    class Killing(Counting):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            server.kill()
            return super().embed_documents(texts)

    with pytest.raises(StoreUnavailable, match="documents already written are kept"):
        put(Killing(), [Document("another fact", id="another")])
    del collection
    gc.collect()  # so that the warning is raised in this test and in no other
