"""Write documents into a Chroma collection, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from chromadb import Collection
from chromadb.api.collection_configuration import CreateCollectionConfiguration
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings, model_metadata
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.chroma_clients import connect, typed_errors
from langchain_sift.indexing.chroma_collections import (
    embeddings_for,
    embeddings_metadata,
    find_collection,
    open_collection,
)
from langchain_sift.indexing.embedded_texts import embed_texts, warn_of_zeros
from langchain_sift.indexing.fitted_means import read_mean, restored_embeddings, write_mean
from langchain_sift.indexing.row_ids import are_equal, content_id
from langchain_sift.indexing.row_requests import copied_vectors, present_ids, write_rows
from langchain_sift.indexing.sentence_embeddings import SentenceTransformerEmbeddings
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft.texts import digest_of

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

_BATCH = 128
_TEXTS_FOR_THE_MEAN = 256
# Chroma's defaults (100, 100, 16) more often miss the very vector that is looked for. Chroma Cloud
# has another index.
_GRAPH: CreateCollectionConfiguration = {
    "hnsw": {"ef_construction": 200, "ef_search": 200, "max_neighbors": 32}
}


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
        documents: The documents. One without an id gets a hash of its text and metadata as its id,
            so of documents that are equal in both one is written.
        embeddings: Embeddings, or a model whose hidden states are the embeddings.
        directory: Chroma's folder.
        on_progress: Called with the number of documents in the collection.

    Raises:
        ArgumentError: If two documents with the same id have different texts or metadata.
        CorpusError: If there are fewer than two different documents.
        EmbeddingError: If the embeddings fail.
        StoreError: If the store fails.
    """
    distinct = _distinct(documents)
    if len(distinct) < 2:
        raise CorpusError(
            f"the corpus has {len(distinct)} different documents: at least 2 are needed to choose "
            "from"
        )
    where, name = str(directory), f"sift-{_fingerprint(distinct, embeddings)}"
    metadata = None
    if isinstance(embeddings, SentenceTransformerEmbeddings):
        metadata = embeddings_metadata(embeddings.model_name)
    _write(
        where, name, distinct, load=lambda: embeddings, metadata=metadata, on_progress=on_progress
    )
    return open_collection(where, name, lambda _: embeddings)


def index_into(
    where: str | ChromaLocation,
    name: str,
    chunks: Sequence[Document],
    embeddings: str | None,
    load: Callable[[str], Embeddings | LanguageModel],
    *,
    vectors_of: Mapping[str, str] = MappingProxyType({}),
    before_rows: Callable[[Collection], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Indexed:
    """Write chunks into a collection unless it holds them, and make it if it does not exist.

    Rows in the collection stay as they are, so an interrupted run can be continued. Nothing is
    loaded or embedded if the collection holds all chunks, and equal texts are embedded once.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection.
        chunks: Documents with ids; of several that are equal the first is written.
        embeddings: A name for `load`, which is stored with the collection. None means the model
            whose name is stored.
        load: Returns the embeddings of a name, or a model, whose hidden states then are the
            embeddings, centred on a mean that is stored with the collection.
        vectors_of: For texts that the collection has in another row, the id of that row, whose
            vector is copied.
        before_rows: Called with the collection before the first row is written.
        on_progress: Called with the number of different chunks in the collection.

    Raises:
        ArgumentError: As `embeddings_for`, if there are too few chunks to fit a mean to, or if
            different chunks have the same id.
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

    return _write(
        where,
        name,
        _distinct(chunks),
        load=load_checked,
        metadata=embeddings_metadata(named),
        vectors_of=vectors_of,
        before_rows=before_rows,
        on_progress=on_progress,
    )


def _write(
    where: str | ChromaLocation,
    name: str,
    documents: Sequence[Document],
    *,
    load: Callable[[], Embeddings | LanguageModel],
    metadata: Mapping[str, str] | None,
    vectors_of: Mapping[str, str] = MappingProxyType({}),
    before_rows: Callable[[Collection], None] = lambda _: None,
    on_progress: Callable[[int], None],
) -> Indexed:
    """Embed and write the documents that a collection does not hold.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection; it is made if it does not exist.
        documents: Documents with different ids.
        load: Called only if a text without a vector is missing.
        metadata: Metadata of a new collection that a model does not embed.
        vectors_of: As in `index_into`.
        before_rows: As in `index_into`.
        on_progress: Called with the number of documents in the collection.
    """
    collection = find_collection(where, name)
    with typed_errors(where, name):
        present = present_ids(collection, [str(document.id) for document in documents])
    missing = _equal_texts_together([one for one in documents if one.id not in present])
    on_progress(len(present))
    embeddings: Embeddings | None = None
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        texts = list(dict.fromkeys(document.page_content for document in batch))
        new = [text for text in texts if text not in vectors_of]
        if new and embeddings is None:
            loaded = load()
            if not isinstance(loaded, Embeddings):
                metadata = model_metadata(loaded.name)
                with typed_errors(where, name):
                    loaded = _hidden_states(where, collection, loaded, documents)
            embeddings = loaded
        vectors = {} if embeddings is None else embed_texts(embeddings, new)
        warn_of_zeros(vectors)
        with typed_errors(where, name):
            # Not earlier: embeddings that fail must not leave a collection that names them.
            if collection is None:
                collection = _create(where, name, metadata)
            if start == 0:
                before_rows(collection)
            if start == 0 and isinstance(embeddings, HiddenStateEmbeddings):
                _store_mean(where, collection, embeddings)
            copied = {text: vectors_of[text] for text in texts if text in vectors_of}
            write_rows(collection, batch, {**vectors, **copied_vectors(collection, copied)})
        on_progress(len(present) + start + len(batch))
    return Indexed(len(missing), len(present))


def _distinct(documents: Sequence[Document]) -> list[Document]:
    """Return each document once, with an id.

    Raises:
        ArgumentError: If different documents have the same id.
    """
    first: dict[str, Document] = {}
    for document in documents:
        id_ = document.id or content_id(document.page_content, document.metadata)
        known = first.setdefault(id_, document.model_copy(update={"id": id_}))
        if not are_equal(known, document):
            raise ArgumentError(
                f"different documents have the id {id_!r}, and one of them would be lost: give "
                "each its own id, or none"
            )
    return list(first.values())


def _equal_texts_together(documents: Sequence[Document]) -> list[Document]:
    """Return the documents in the order in which their texts first occur."""
    by_text: dict[str, list[Document]] = {}
    for document in documents:
        by_text.setdefault(document.page_content, []).append(document)
    return [document for group in by_text.values() for document in group]


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
    texts = list(dict.fromkeys(document.page_content for document in documents))
    step = max(1, len(texts) // _TEXTS_FOR_THE_MEAN)
    return HiddenStateEmbeddings(model).fit(texts[::step])


def _store_mean(
    where: str | ChromaLocation, collection: Collection, embeddings: HiddenStateEmbeddings
) -> None:
    """Store the mean before the first row, so that an interrupted run can be continued."""
    client = connect(where)
    if read_mean(client, collection) is None:
        write_mean(client, collection, embeddings)


def _create(
    where: str | ChromaLocation, name: str, metadata: Mapping[str, str] | None
) -> Collection:
    client = connect(where, create=True)
    return client.create_collection(
        name,
        metadata=None if metadata is None else dict(metadata),
        embedding_function=None,
        configuration=None if ChromaLocation.of(where).is_cloud else _GRAPH,
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
