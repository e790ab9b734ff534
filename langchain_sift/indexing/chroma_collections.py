"""Find and open collections of Chroma with the embeddings that filled them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb import Collection
from chromadb.api import ClientAPI
from chromadb.errors import ChromaError, NotFoundError
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings, model_of
from langchain_sift.errors import ArgumentError, SIFTError, StoreUnavailable
from langchain_sift.stores.adapters.chroma_errors import typed
from langchain_sift.stores.locking import DATABASE
from langchain_sift.ttft.model.language_model import LanguageModel

EMBEDDINGS_KEY = "langchain_sift_embeddings"
"""Key of a collection's metadata: its embeddings as module:NAME, if they are not a model's."""

_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


class ServerAddress(TypedDict):
    """The address of a server, as keywords of Chroma's clients."""

    host: str
    port: int
    ssl: bool


def open_collection(
    where: str, name: str | None, embeddings: Callable[[str], Embeddings | LanguageModel]
) -> Chroma:
    """Open a collection that exists.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection. None means the only one.
        embeddings: Returns embeddings, or a model whose hidden states are the embeddings. Called
            with the name of the model that filled the collection, or "" if none is stored.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or `name` is None and there
            are several.
        StoreUnavailable: If the server cannot be reached.
        NotFittedError: If a model embeds and the collection does not hold its mean.
    """
    name = resolve_name(where, name)
    with typed_errors(where, name):
        client = connect(where)
        metadata = client.get_collection(name, embedding_function=None).metadata
    loaded = embeddings(model_of(metadata))
    if isinstance(loaded, LanguageModel):
        loaded = HiddenStateEmbeddings.from_collection_metadata(metadata, model=loaded)
    return Chroma(name, loaded, client=client, create_collection_if_not_exists=False)


def resolve_name(where: str, name: str | None) -> str:
    """Return the name of a collection that exists; None means the only one.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or `name` is None and there
            are several.
        StoreError: If the folder does not hold a store that can be read.
        StoreUnavailable: If the server cannot be reached.
    """
    with typed_errors(where, name):
        names = [collection.name for collection in connect(where).list_collections()]
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise ArgumentError(f"{where} has {len(names)} collections: choose one of {names}")
    if name not in names:
        raise ArgumentError(f"{where} has no collection {name!r}: choose one of {names}")
    return name


def embeddings_for(where: str, name: str, embeddings: str | None) -> str:
    """Return the name of the embeddings for a collection, which may not exist yet.

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection.
        embeddings: The embeddings that the caller names. None means those that filled it.

    Raises:
        ArgumentError: If other embeddings filled the collection, none are named, or `where` or
            `name` cannot hold a collection.
        StoreUnavailable: If the server cannot be reached.
    """
    _check_location(where, name)
    collection = find_collection(where, name)
    if collection is None:
        if embeddings is None:
            raise ArgumentError(
                f"{where} has no collection {name!r} yet: name the embeddings to make it with "
                "(--embeddings)"
            )
        return embeddings
    metadata = collection.metadata or {}
    stored = model_of(metadata) or str(metadata.get(EMBEDDINGS_KEY, ""))
    if embeddings is None:
        return _stored_model(stored, name)
    if stored and not _are_same(stored, embeddings):
        raise ArgumentError(
            f"the collection {name!r} holds embeddings of {stored!r}, not of {embeddings!r}: name "
            "those, or choose another collection; a model that was moved is recognized by the "
            "name of its folder"
        )
    return embeddings


def _stored_model(stored: str, collection: str) -> str:
    """Return the stored name, unless loading it would run code that a store names."""
    if not stored:
        raise ArgumentError(
            f"the collection {collection!r} names no embeddings: name those that filled it "
            "(--embeddings)"
        )
    if ":" in stored and not Path(stored).exists():
        raise ArgumentError(
            f"the collection {collection!r} holds embeddings of {stored!r}: name them yourself "
            "(--embeddings), for no code is run because a store names it"
        )
    return stored


def _are_same(stored: str, embeddings: str) -> bool:
    there, here = Path(stored), Path(embeddings)
    if there.is_dir() and here.is_dir():
        return there.resolve() == here.resolve()
    # A model that was moved, or is a folder on one machine and a name of the hub on another.
    is_object = ":" in stored or ":" in embeddings
    return stored == embeddings or (there.name == here.name and not is_object)


def find_collection(where: str, name: str) -> Collection | None:
    """Return the collection, or None if it does not exist; nothing is created."""
    if not is_url(where) and not (Path(where) / DATABASE).is_file():
        return None
    with typed_errors(where, name):
        try:
            return connect(where).get_collection(name, embedding_function=None)
        except NotFoundError:
            return None


def _check_location(where: str, name: str) -> None:
    """Reject a name that Chroma does not take, and a folder that holds other files."""
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"a collection cannot be called {name!r}: use 3 to 512 letters, digits, '.', '_' and "
            "'-', the first and the last a letter or digit"
        )
    folder = Path(where)
    if is_url(where) or (folder / DATABASE).is_file():
        return
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ArgumentError(
            f"{folder} holds something else than Chroma's data: name a new or an empty folder"
        )


def connect(where: str, *, create: bool = False) -> ClientAPI:
    """Return a client of Chroma for a folder or a server.

    Args:
        where: The folder, or the URL.
        create: If True, make the folder if it does not exist.

    Raises:
        ArgumentError: If the folder holds no store and `create` is False.
        StoreUnavailable: If the server cannot be reached.
    """
    if not is_url(where):
        # Chroma would make a folder for a misspelt name.
        if not create and not (Path(where) / DATABASE).is_file():
            raise ArgumentError(f"{where} is no folder of Chroma's: there is no {DATABASE} in it")
        return chromadb.PersistentClient(where)
    try:
        return chromadb.HttpClient(**server_address(where))
    except ValueError as error:
        raise StoreUnavailable(f"there is no Chroma server at {where}: {error}") from error


def is_url(where: str) -> bool:
    """Return True if a store is named by the URL of its server, not by its folder."""
    return urlsplit(where).scheme in {"http", "https"}


def server_address(url: str) -> ServerAddress:
    """Return the address of a server as keywords of Chroma's clients.

    Raises:
        ValueError: If the port is not a number.
    """
    address = urlsplit(url)
    secure = address.scheme == "https"
    port = address.port or (443 if secure else 8000)
    return {"host": str(address.hostname), "port": port, "ssl": secure}


@contextmanager
def typed_errors(where: str, name: str | None) -> Iterator[None]:
    """Raise the errors of Chroma and of its connection as this package's errors."""
    label = f"Chroma store {where}" if name is None else f"Chroma collection {name!r} of {where}"
    try:
        yield
    except SIFTError:
        raise
    except httpx.TransportError as error:
        raise StoreUnavailable(
            f"{label}: {type(error).__name__}: documents already written are kept: run it again "
            "to add the rest"
        ) from error
    except (ChromaError, ValueError, TypeError) as error:
        raise typed(error, label) from error
