"""Documents into a persistent Chroma collection, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
from chromadb.api import ClientAPI
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings, model_of
from langchain_sift.errors import ArgumentError, CorpusError, StoreUnavailable
from langchain_sift.ttft.loading import LanguageModel

_BATCH = 128
_TEXTS_FOR_THE_MEAN = 256


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
    """
    if len(documents) < 2:  # noqa: PLR2004
        msg = f"the corpus has {len(documents)} documents: there is nothing to choose from"
        raise CorpusError(msg)
    name = f"sift-{_fingerprint(documents, embeddings)}"
    if isinstance(embeddings, LanguageModel):
        store = _hidden_state_collection(documents, embeddings, directory, name)
    else:
        store = Chroma(name, embeddings, persist_directory=str(directory))
    present = set(store.get(include=[])["ids"])
    missing = [document for document in documents if document.id not in present]
    on_progress(len(documents) - len(missing))
    for start in range(0, len(missing), _BATCH):
        store.add_documents(missing[start : start + _BATCH])
        on_progress(len(documents) - len(missing) + min(start + _BATCH, len(missing)))
    return store


def open_collection(
    where: str, name: str | None, embeddings: Callable[[str], Embeddings | LanguageModel]
) -> Chroma:
    """Open a collection that exists.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Of the collection; may be left out where there is only one.
        embeddings: Returns the embeddings of a name; asked with the model's that the collection
            names, or with "" where it names none.

    Raises:
        ArgumentError: If there is no such folder or collection, or several and no name.
        StoreUnavailable: If the server cannot be reached.
        NotFittedError: If a model embeds and the collection does not hold its mean.
    """
    client = _client(where)
    names = [collection.name for collection in client.list_collections()]
    if name is None and len(names) == 1:
        (name,) = names
    if name is None or name not in names:
        msg = f"{where} has no collection {name!r}: choose one of {names}"
        if name is None:
            msg = f"{where} has {len(names)} collections: choose one of {names}"
        raise ArgumentError(msg)
    metadata = client.get_collection(name, embedding_function=None).metadata
    found = embeddings(model_of(metadata))
    if isinstance(found, LanguageModel):
        found = HiddenStateEmbeddings.from_collection_metadata(metadata, model=found)
    return Chroma(name, found, client=client, create_collection_if_not_exists=False)


def _client(where: str) -> ClientAPI:
    address = urlsplit(where)
    if address.scheme not in {"http", "https"}:
        # Chroma would make a folder for a name that was misspelt.
        if not (Path(where) / "chroma.sqlite3").is_file():
            msg = f"{where} is no folder of Chroma's: there is no chroma.sqlite3 in it"
            raise ArgumentError(msg)
        return chromadb.PersistentClient(where)
    try:
        return chromadb.HttpClient(
            host=str(address.hostname),
            port=address.port or (443 if address.scheme == "https" else 8000),
            ssl=address.scheme == "https",
        )
    except ValueError as error:
        msg = f"there is no Chroma server at {where}: {error}"
        raise StoreUnavailable(msg) from error


def _hidden_state_collection(
    documents: Sequence[Document], model: LanguageModel, directory: Path, name: str
) -> Chroma:
    """Open the collection, centred on the mean that it holds, or fit and store one."""
    found = Chroma(name, persist_directory=str(directory))
    metadata = found._collection.metadata  # langchain_chroma shows it nowhere else
    if metadata:
        embeddings = HiddenStateEmbeddings.from_collection_metadata(metadata, model=model)
    else:
        step = max(1, len(documents) // _TEXTS_FOR_THE_MEAN)
        sample = [document.page_content for document in documents[::step]]
        embeddings = HiddenStateEmbeddings(model).fit(sample)
        found.delete_collection()
    return Chroma(
        name,
        embeddings,
        persist_directory=str(directory),
        collection_metadata=metadata or embeddings.collection_metadata(),
    )


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
