"""Documents into a Chroma collection, once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb import Collection
from chromadb.api import ClientAPI
from chromadb.errors import ChromaError, NotFoundError
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings, model_of
from langchain_sift.errors import ArgumentError, CorpusError, SIFTError, StoreUnavailable
from langchain_sift.stores.chroma import typed
from langchain_sift.ttft.loading import LanguageModel

_BATCH = 128
# Chroma Cloud gives 300 rows at once.
_IDS_PER_CALL = 256
_TEXTS_FOR_THE_MEAN = 256
_EMBEDDINGS_KEY = "langchain_sift_embeddings"
_DATABASE = "chroma.sqlite3"
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")

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
        DimensionMismatch: If the collection holds vectors of another size.
        StoreError: If the store does not do what it is asked.
    """
    named = embeddings_for(where, name, embeddings)
    different = _different(chunks)
    collection = _collection(where, name)
    with _typed(where, name):
        present = _held(collection, [str(chunk.id) for chunk in different])
    missing = [chunk for chunk in different if chunk.id not in present]
    on_progress(len(present))
    if not missing:
        return Indexed(0, len(present))
    used, metadata = _used(load(named), named, collection, different)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = used.embed_documents([chunk.page_content for chunk in batch])
        with _typed(where, name):
            # Not before: embeddings that fail must not leave a collection that names them.
            if collection is None:
                collection = _made(where, name, metadata)
            _put(collection, batch, vectors)
        on_progress(len(present) + start + len(batch))
    return Indexed(len(missing), len(present))


def embeddings_for(where: str, name: str, embeddings: str | None) -> str:
    """Return the name of the embeddings that a collection holds, or may be made with.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Of the collection.
        embeddings: What the caller names.

    Raises:
        ArgumentError: If the collection holds other embeddings, or nothing says which, or this
            can be no store.
        StoreUnavailable: If the server cannot be reached.
    """
    collection = _collection(where, name)
    if collection is None:
        if embeddings is None:
            msg = (
                f"{where} has no collection {name!r} yet: name the embeddings to make it with "
                "(--embeddings)"
            )
            raise ArgumentError(msg)
        return embeddings
    metadata = collection.metadata or {}
    held = model_of(metadata) or str(metadata.get(_EMBEDDINGS_KEY, ""))
    if embeddings is None:
        return _named_by_the_store(held, name)
    if held and not _same(held, embeddings):
        msg = (
            f"the collection {name!r} holds embeddings of {held!r}, not of {embeddings!r}: name "
            "those, or choose another collection"
        )
        raise ArgumentError(msg)
    return embeddings


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


def _named_by_the_store(held: str, name: str) -> str:
    """Return what to load, unless loading it would run what a store says."""
    if not held:
        msg = f"the collection {name!r} names no embeddings: say which it was filled with"
        raise ArgumentError(msg)
    if ":" in held and not Path(held).exists():
        msg = (
            f"the collection {name!r} holds embeddings of {held!r}: name them yourself, for no "
            "code is run because a store names it"
        )
        raise ArgumentError(msg)
    return held


def _same(held: str, embeddings: str) -> bool:
    if held == embeddings:
        return True
    folders = Path(held), Path(embeddings)
    return all(map(Path.is_dir, folders)) and folders[0].resolve() == folders[1].resolve()


def _collection(where: str, name: str) -> Collection | None:
    """Return the collection of this name, if there is one; nothing is made."""
    if not _NAME.fullmatch(name):
        msg = (
            f"a collection cannot be called {name!r}: 3 to 512 letters, digits, '.', '_' and '-', "
            "the first and the last a letter or digit"
        )
        raise ArgumentError(msg)
    if not _is_url(where) and not _holds_chroma(Path(where)):
        return None
    with _typed(where, name):
        try:
            return _client(where).get_collection(name, embedding_function=None)
        except NotFoundError:
            return None


def _holds_chroma(folder: Path) -> bool:
    if (folder / _DATABASE).is_file():
        return True
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        msg = f"{folder} holds something else than Chroma's data: name a new or an empty folder"
        raise ArgumentError(msg)
    return False


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
        msg = f"{named!r} is of the type {type(found).__name__}, which is no LangChain embeddings"
        raise ArgumentError(msg)
    return found, {_EMBEDDINGS_KEY: named}


def _made(where: str, name: str, metadata: Mapping[str, Any]) -> Collection:
    client = _client(where, make=True)
    return client.create_collection(name, metadata=dict(metadata), embedding_function=None)


def _put(collection: Collection, chunks: Sequence[Document], vectors: Any) -> None:
    collection.upsert(
        ids=[str(chunk.id) for chunk in chunks],
        embeddings=vectors,
        documents=[chunk.page_content for chunk in chunks],
        metadatas=[chunk.metadata or None for chunk in chunks],  # type: ignore[misc]
    )


@contextmanager
def _typed(where: str, name: str) -> Iterator[None]:
    """Let the errors of Chroma, and of the way to it, be ours."""
    label = f"Chroma collection {name!r} of {where}"
    try:
        yield
    except SIFTError:
        raise
    except httpx.TransportError as error:
        msg = f"{label}: {type(error).__name__}: what is in stays in, and the rest can follow"
        raise StoreUnavailable(msg) from error
    except (ChromaError, ValueError, TypeError) as error:
        raise typed(error, label) from error


def _is_url(where: str) -> bool:
    return urlsplit(where).scheme in {"http", "https"}


def _client(where: str, *, make: bool = False) -> ClientAPI:
    if not _is_url(where):
        # Chroma would make a folder for a name that was misspelt.
        if not make and not (Path(where) / _DATABASE).is_file():
            msg = f"{where} is no folder of Chroma's: there is no {_DATABASE} in it"
            raise ArgumentError(msg)
        return chromadb.PersistentClient(where)
    address = urlsplit(where)
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
