"""Write documents into a Chroma collection, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chromadb import Collection
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings, model_metadata
from langchain_sift.errors import ArgumentError, CorpusError, EmbeddingError, SIFTError
from langchain_sift.indexing.chroma_clients import connect, typed_errors
from langchain_sift.indexing.chroma_collections import (
    embeddings_for,
    embeddings_metadata,
    find_collection,
    open_collection,
)
from langchain_sift.indexing.fitted_means import read_mean, restored_embeddings, write_mean
from langchain_sift.indexing.sentence_embeddings import SentenceTransformerEmbeddings
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft.texts import digest_of

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

_BATCH = 128
# Chroma Cloud returns at most 300 rows for a request.
_IDS_PER_CALL = 256
_TEXTS_FOR_THE_MEAN = 256


@dataclass(frozen=True, slots=True)
class Indexed:
    """The numbers of documents written, and present before."""

    added: int
    """Number of documents that were embedded and written."""

    present: int
    """Number of documents that the collection had before."""


def index_documents(
    documents: Sequence[Document],
    embeddings: Embeddings | LanguageModel,
    directory: Path | str,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Chroma:
    """Return a collection of the documents, and fill it if it is not full yet.

    The name of the collection is a hash of ids, texts and embeddings. So a corpus is embedded
    once, another corpus gets another collection, and an interrupted run can be continued.

    Args:
        documents: Documents with ids.
        embeddings: Embeddings, or a model whose hidden states are the embeddings.
        directory: Chroma's folder.
        on_progress: Called with the number of documents in the collection.

    Raises:
        CorpusError: If there are fewer than two documents.
        EmbeddingError: If the embeddings fail.
        StoreError: If the store fails.
    """
    if len(documents) < 2:
        raise CorpusError(
            f"the corpus has {len(documents)} documents: at least 2 are needed to choose from"
        )
    where, name = str(directory), f"sift-{_fingerprint(documents, embeddings)}"
    metadata = None
    if isinstance(embeddings, SentenceTransformerEmbeddings):
        metadata = embeddings_metadata(embeddings.model_name)
    _write(
        where, name, documents, load=lambda: embeddings, metadata=metadata, on_progress=on_progress
    )
    return open_collection(where, name, lambda _: embeddings)


def index_into(
    where: str | ChromaLocation,
    name: str,
    chunks: Sequence[Document],
    embeddings: str | None,
    load: Callable[[str], Embeddings | LanguageModel],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Indexed:
    """Write chunks into a collection unless it holds them, and make it if it does not exist.

    Rows in the collection stay as they are, so an interrupted run can be continued. Nothing is
    loaded or embedded if the collection holds all chunks.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection.
        chunks: Documents with ids; of several with the same id the first is written.
        embeddings: A name for `load`, which is stored with the collection. None means the model
            whose name is stored.
        load: Returns the embeddings of a name, or a model, whose hidden states then are the
            embeddings, centred on a mean that is stored with the collection.
        on_progress: Called with the number of different chunks in the collection.

    Raises:
        ArgumentError: As `embeddings_for`, or if there are too few chunks to fit a mean to.
        NotFittedError: If a model embeds and the collection does not hold its mean.
        EmbeddingError: If the embeddings fail.
        DimensionMismatch: If the collection holds vectors of another size.
        StoreError: If the store fails.
    """
    named = embeddings_for(where, name, embeddings)

    def load_checked() -> Embeddings | LanguageModel:
        """Load what the name stands for, and reject what cannot embed."""
        loaded = load(named)
        if isinstance(loaded, Embeddings):
            return loaded
        from langchain_sift.ttft import LanguageModel  # noqa: PLC0415 - needs PyTorch

        if not isinstance(loaded, LanguageModel):
            raise ArgumentError(
                f"{named!r} is of the type {type(loaded).__name__}, which is no LangChain "
                "embeddings"
            )
        return loaded

    metadata = embeddings_metadata(named)
    return _write(
        where, name, chunks, load=load_checked, metadata=metadata, on_progress=on_progress
    )


def _write(
    where: str | ChromaLocation,
    name: str,
    documents: Sequence[Document],
    *,
    load: Callable[[], Embeddings | LanguageModel],
    metadata: Mapping[str, str] | None,
    on_progress: Callable[[int], None],
) -> Indexed:
    """Embed and write the documents that a collection does not hold.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection; it is made if it does not exist.
        documents: Documents with ids.
        load: Called only if a document is missing.
        metadata: Metadata of a new collection that a model does not embed.
        on_progress: Called with the number of documents in the collection.
    """
    distinct = _first_of_each_id(documents)
    collection = find_collection(where, name)
    with typed_errors(where, name):
        present = _present_ids(collection, [str(document.id) for document in distinct])
    missing = [document for document in distinct if document.id not in present]
    on_progress(len(present))
    if not missing:
        return Indexed(0, len(present))
    embeddings = load()
    if not isinstance(embeddings, Embeddings):
        metadata = model_metadata(embeddings.name)
        with typed_errors(where, name):
            embeddings = _hidden_states(where, collection, embeddings, distinct)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = _embed(embeddings, batch)
        with typed_errors(where, name):
            # Not earlier: embeddings that fail must not leave a collection that names them.
            if collection is None:
                collection = _create(where, name, metadata)
            if start == 0 and isinstance(embeddings, HiddenStateEmbeddings):
                _store_mean(where, collection, embeddings)
            _upsert(collection, batch, vectors)
        on_progress(len(present) + start + len(batch))
    return Indexed(len(missing), len(present))


def _first_of_each_id(documents: Sequence[Document]) -> list[Document]:
    first: dict[str | None, Document] = {}
    for document in documents:
        first.setdefault(document.id, document)
    return list(first.values())


def _present_ids(collection: Collection | None, ids: Sequence[str]) -> set[str]:
    present: set[str] = set()
    if collection is not None:
        for start in range(0, len(ids), _IDS_PER_CALL):
            part = list(ids[start : start + _IDS_PER_CALL])
            present.update(collection.get(ids=part, include=[])["ids"])
    return present


def _hidden_states(
    where: str | ChromaLocation,
    collection: Collection | None,
    model: LanguageModel,
    documents: Sequence[Document],
) -> HiddenStateEmbeddings:
    """Return embeddings centred on the mean of the collection, or of the first documents."""
    if collection is not None:
        client = connect(where)
        if collection.count() or read_mean(client, collection) is not None:
            return restored_embeddings(client, collection, model)
    step = max(1, len(documents) // _TEXTS_FOR_THE_MEAN)
    texts = [document.page_content for document in documents[::step]]
    return HiddenStateEmbeddings(model).fit(texts)


def _store_mean(
    where: str | ChromaLocation, collection: Collection, embeddings: HiddenStateEmbeddings
) -> None:
    """Store the mean before the first row, so that an interrupted run can be continued."""
    client = connect(where)
    if read_mean(client, collection) is None:
        write_mean(client, collection, embeddings)


def _embed(embeddings: Embeddings, documents: Sequence[Document]) -> list[list[float]]:
    try:
        return embeddings.embed_documents([document.page_content for document in documents])
    except SIFTError:
        raise
    except Exception as error:
        # Most often a server that is down.
        reason = str(error).strip().partition("\n")[0]
        raise EmbeddingError(f"the embeddings failed: {type(error).__name__}: {reason}") from error


def _create(
    where: str | ChromaLocation, name: str, metadata: Mapping[str, str] | None
) -> Collection:
    client = connect(where, create=True)
    return client.create_collection(
        name, metadata=None if metadata is None else dict(metadata), embedding_function=None
    )


def _upsert(
    collection: Collection, documents: Sequence[Document], vectors: list[list[float]]
) -> None:
    collection.upsert(
        ids=[str(document.id) for document in documents],
        embeddings=vectors,  # type: ignore[arg-type]
        documents=[document.page_content for document in documents],
        metadatas=[document.metadata or None for document in documents],  # type: ignore[misc]
    )


def _fingerprint(documents: Sequence[Document], embeddings: Embeddings | LanguageModel) -> str:
    if not isinstance(embeddings, Embeddings):
        config = embeddings.model.config.to_json_string(use_diff=True)
        weights = next(embeddings.model.parameters()).detach().float().cpu().numpy()
        identity = f"{config}\0{hashlib.sha256(weights.tobytes()).hexdigest()}"
    else:
        # Not the repr, which may hold an address in memory.
        kind = type(embeddings)
        model = getattr(embeddings, "model_name", None) or getattr(embeddings, "model", "")
        identity = f"{kind.__module__}.{kind.__qualname__}\0{model}"
    parts = (part for document in documents for part in (str(document.id), document.page_content))
    return digest_of(parts, prefix=identity)[:24]
