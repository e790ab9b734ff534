"""Documents into a Chroma collection, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chromadb import Collection
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError, CorpusError, EmbeddingError, SIFTError
from langchain_sift.indexing.chroma_collections import (
    EMBEDDINGS_KEY,
    client_of,
    collection_of,
    embeddings_for,
    typed_errors,
)
from langchain_sift.ttft.model.loading import LanguageModel

_BATCH = 128
# Chroma Cloud gives 300 rows at once.
_IDS_PER_CALL = 256
_TEXTS_FOR_THE_MEAN = 256

Load = Callable[[str], Embeddings | LanguageModel]


@dataclass(frozen=True, slots=True)
class Indexed:
    """What came of chunks."""

    added: int
    """How many were embedded and written."""

    present: int
    """How many were in the collection before."""


def index_documents(
    documents: Sequence[Document],
    embeddings: Embeddings | LanguageModel,
    directory: Path,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Chroma:
    """Return a collection of the documents, filling it where it is not filled yet.

    The collection's name is a hash of ids, texts and embeddings: the same corpus is embedded
    once, another one gets a collection of its own, and an interrupted run goes on.

    Args:
        documents: With ids.
        embeddings: Or a model, whose hidden states then are the embeddings.
        directory: Chroma's folder.
        on_progress: Called with the number of documents that are in.

    Raises:
        CorpusError: If there are fewer than two documents.
        EmbeddingError: If the embeddings fail.
        StoreError: If the store does not do what it is asked.
    """
    if len(documents) < 2:
        raise CorpusError(
            f"the corpus has {len(documents)} documents: there is nothing to choose from"
        )
    name = f"sift-{_fingerprint(documents, embeddings)}"
    if isinstance(embeddings, LanguageModel):
        store = _hidden_state_collection(documents, embeddings, directory, name)
    else:
        store = Chroma(name, embeddings, persist_directory=str(directory))
    with typed_errors(str(directory), name):
        present = set(store.get(include=[])["ids"])
    missing = [document for document in documents if document.id not in present]
    on_progress(len(documents) - len(missing))
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = _embedded(store.embeddings, batch)
        with typed_errors(str(directory), name):
            _put(store._collection, batch, vectors)
        on_progress(len(documents) - len(missing) + start + len(batch))
    return store


def index_into(
    where: str,
    name: str,
    chunks: Sequence[Document],
    embeddings: str | None,
    load: Load,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Indexed:
    """Write those chunks into a collection that it does not hold yet, making it if need be.

    What is in stays as it is, so an interrupted run goes on where it was, and nothing is loaded
    or embedded for chunks that are all in.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Of the collection.
        chunks: With ids; of several with the same id the first counts.
        embeddings: A name for `load`, which the collection keeps; may be left out where the
            collection names a model.
        load: Returns the embeddings of a name, or a model, whose hidden states then are the
            embeddings, centred on a mean that the collection keeps too.
        on_progress: Called with the number of different chunks that are in.

    Raises:
        ArgumentError: As `embeddings_for`, or if there are too few chunks to fit a mean to.
        NotFittedError: If a model embeds and the collection does not hold its mean.
        EmbeddingError: If the embeddings fail.
        DimensionMismatch: If the collection holds vectors of another size.
        StoreError: If the store does not do what it is asked.
    """
    named = embeddings_for(where, name, embeddings)
    different = _different(chunks)
    collection = collection_of(where, name)
    with typed_errors(where, name):
        present = _held(collection, [str(chunk.id) for chunk in different])
    missing = [chunk for chunk in different if chunk.id not in present]
    on_progress(len(present))
    if not missing:
        return Indexed(0, len(present))
    used, metadata = _used(load(named), named, collection, different)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = _embedded(used, batch)
        with typed_errors(where, name):
            # Not before: embeddings that fail must not leave a collection that names them.
            if collection is None:
                collection = _made(where, name, metadata)
            _put(collection, batch, vectors)
        on_progress(len(present) + start + len(batch))
    return Indexed(len(missing), len(present))


def _different(chunks: Sequence[Document]) -> list[Document]:
    """Return the first chunk of each id."""
    first: dict[str | None, Document] = {}
    for chunk in chunks:
        first.setdefault(chunk.id, chunk)
    return list(first.values())


def _held(collection: Collection | None, ids: Sequence[str]) -> set[str]:
    """Return which of the ids are in."""
    held: set[str] = set()
    if collection is not None:
        for start in range(0, len(ids), _IDS_PER_CALL):
            part = list(ids[start : start + _IDS_PER_CALL])
            held.update(collection.get(ids=part, include=[])["ids"])
    return held


def _used(
    found: Embeddings | LanguageModel,
    named: str,
    collection: Collection | None,
    chunks: Sequence[Document],
) -> tuple[Embeddings, dict[str, str]]:
    """Return the embeddings, and the metadata of a collection that is made with them."""
    if isinstance(found, LanguageModel):
        if collection is not None:
            metadata = collection.metadata
            return HiddenStateEmbeddings.from_collection_metadata(metadata, model=found), {}
        fitted = _fitted(found, chunks)
        return fitted, fitted.collection_metadata()
    if not isinstance(found, Embeddings):
        raise ArgumentError(
            f"{named!r} is of the type {type(found).__name__}, which is no LangChain embeddings"
        )
    return found, {EMBEDDINGS_KEY: named}


def _embedded(embeddings: Embeddings | None, chunks: Sequence[Document]) -> list[list[float]]:
    assert embeddings is not None  # noqa: S101 - no collection is made without
    try:
        return embeddings.embed_documents([chunk.page_content for chunk in chunks])
    except SIFTError:
        raise
    except Exception as error:
        # A server that is down, mostly.
        reason = str(error).strip().partition("\n")[0]
        raise EmbeddingError(f"the embeddings failed: {type(error).__name__}: {reason}") from error


def _made(where: str, name: str, metadata: Mapping[str, Any]) -> Collection:
    client = client_of(where, make=True)
    return client.create_collection(name, metadata=dict(metadata), embedding_function=None)


def _put(collection: Collection, chunks: Sequence[Document], vectors: Any) -> None:
    collection.upsert(
        ids=[str(chunk.id) for chunk in chunks],
        embeddings=vectors,
        documents=[chunk.page_content for chunk in chunks],
        metadatas=[chunk.metadata or None for chunk in chunks],  # type: ignore[misc]
    )


def _hidden_state_collection(
    documents: Sequence[Document], model: LanguageModel, directory: Path, name: str
) -> Chroma:
    """Open the collection, centred on the mean that it holds, or fit and store one."""
    found = Chroma(name, persist_directory=str(directory))
    metadata = found._collection.metadata  # langchain_chroma shows it nowhere else
    if metadata:
        embeddings = HiddenStateEmbeddings.from_collection_metadata(metadata, model=model)
    else:
        embeddings = _fitted(model, documents)
        found.delete_collection()
    return Chroma(
        name,
        embeddings,
        persist_directory=str(directory),
        collection_metadata=metadata or embeddings.collection_metadata(),
    )


def _fitted(model: LanguageModel, documents: Sequence[Document]) -> HiddenStateEmbeddings:
    step = max(1, len(documents) // _TEXTS_FOR_THE_MEAN)
    return HiddenStateEmbeddings(model).fit([one.page_content for one in documents[::step]])


def _fingerprint(documents: Sequence[Document], embeddings: Embeddings | LanguageModel) -> str:
    if isinstance(embeddings, LanguageModel):
        config = embeddings.model.config.to_json_string(use_diff=True)
        weights = next(embeddings.model.parameters()).detach().float().cpu().numpy()
        identity = f"{config}\0{hashlib.sha256(weights.tobytes()).hexdigest()}"
    else:
        # Not its repr, which may hold an address in memory.
        kind = type(embeddings)
        model = getattr(embeddings, "model_name", None) or getattr(embeddings, "model", "")
        identity = f"{kind.__module__}.{kind.__qualname__}\0{model}"
    digest = hashlib.sha256(identity.encode())
    for document in documents:
        for part in (str(document.id), document.page_content):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:24]
