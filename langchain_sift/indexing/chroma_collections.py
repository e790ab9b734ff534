"""Chroma's collections: found, opened, and with which embeddings they were filled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
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
from langchain_sift.stores.adapters.chroma import typed
from langchain_sift.stores.locking import DATABASE
from langchain_sift.ttft.model.loading import LanguageModel

EMBEDDINGS_KEY = "langchain_sift_embeddings"
"""Of a collection's metadata: embeddings that are no model's hidden states, as module:NAME."""

_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


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
    name = existing(where, name)
    with typed_errors(where, name):
        client = client_of(where)
        metadata = client.get_collection(name, embedding_function=None).metadata
    found = embeddings(model_of(metadata))
    if isinstance(found, LanguageModel):
        found = HiddenStateEmbeddings.from_collection_metadata(metadata, model=found)
    return Chroma(name, found, client=client, create_collection_if_not_exists=False)


def existing(where: str, name: str | None) -> str:
    """Return the name of a collection that exists: this one, or where it is None the only one.

    Raises:
        ArgumentError: If there is no such folder or collection, or several and no name.
        StoreError: If the folder holds no store that can be read.
        StoreUnavailable: If the server cannot be reached.
    """
    with typed_errors(where, name):
        names = [collection.name for collection in client_of(where).list_collections()]
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        msg = f"{where} has no collection {name!r}: choose one of {names}"
        if name is None:
            msg = f"{where} has {len(names)} collections: choose one of {names}"
        raise ArgumentError(msg)
    return name


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
    collection = collection_of(where, name)
    if collection is None:
        if embeddings is None:
            raise ArgumentError(
                f"{where} has no collection {name!r} yet: name the embeddings to make it with "
                "(--embeddings)"
            )
        return embeddings
    metadata = collection.metadata or {}
    held = model_of(metadata) or str(metadata.get(EMBEDDINGS_KEY, ""))
    if embeddings is None:
        return _named_by_the_store(held, name)
    if held and not _same(held, embeddings):
        raise ArgumentError(
            f"the collection {name!r} holds embeddings of {held!r}, not of {embeddings!r}: name "
            "those, or choose another collection; a model that was moved is known by its folder's "
            "name"
        )
    return embeddings


def _named_by_the_store(held: str, name: str) -> str:
    """Return what to load, unless loading it would run what a store says."""
    if not held:
        raise ArgumentError(
            f"the collection {name!r} names no embeddings: say which it was filled with"
        )
    if ":" in held and not Path(held).exists():
        raise ArgumentError(
            f"the collection {name!r} holds embeddings of {held!r}: name them yourself, for no "
            "code is run because a store names it"
        )
    return held


def _same(held: str, embeddings: str) -> bool:
    there, here = Path(held), Path(embeddings)
    if there.is_dir() and here.is_dir():
        return there.resolve() == here.resolve()
    # A model that was moved, or is a folder on one machine and a name of the hub on another.
    is_object = ":" in held or ":" in embeddings
    return held == embeddings or (there.name == here.name and not is_object)


def collection_of(where: str, name: str) -> Collection | None:
    """Return the collection of this name, if there is one; nothing is made."""
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"a collection cannot be called {name!r}: 3 to 512 letters, digits, '.', '_' and '-', "
            "the first and the last a letter or digit"
        )
    if not is_url(where) and not _holds_chroma(Path(where)):
        return None
    with typed_errors(where, name):
        try:
            return client_of(where).get_collection(name, embedding_function=None)
        except NotFoundError:
            return None


def _holds_chroma(folder: Path) -> bool:
    if (folder / DATABASE).is_file():
        return True
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ArgumentError(
            f"{folder} holds something else than Chroma's data: name a new or an empty folder"
        )
    return False


def client_of(where: str, *, make: bool = False) -> ClientAPI:
    """Return Chroma's client of a folder or a server.

    Args:
        where: The folder, or the URL.
        make: Whether a folder may be made.

    Raises:
        ArgumentError: If there is no such folder, and none may be made.
        StoreUnavailable: If the server cannot be reached.
    """
    if not is_url(where):
        # Chroma would make a folder for a name that was misspelt.
        if not make and not (Path(where) / DATABASE).is_file():
            raise ArgumentError(f"{where} is no folder of Chroma's: there is no {DATABASE} in it")
        return chromadb.PersistentClient(where)
    try:
        return chromadb.HttpClient(**address_of(where))
    except ValueError as error:
        raise StoreUnavailable(f"there is no Chroma server at {where}: {error}") from error


def is_url(where: str) -> bool:
    """Return whether a store is named by its server's URL, and not by its folder."""
    return urlsplit(where).scheme in {"http", "https"}


def address_of(url: str) -> dict[str, Any]:
    """Return where a server is, as Chroma's clients take it.

    Raises:
        ValueError: If the port is no number.
    """
    address = urlsplit(url)
    secure = address.scheme == "https"
    port = address.port or (443 if secure else 8000)
    return {"host": str(address.hostname), "port": port, "ssl": secure}


@contextmanager
def typed_errors(where: str, name: str | None) -> Iterator[None]:
    """Let the errors of Chroma, and of the way to it, be ours."""
    label = f"Chroma store {where}" if name is None else f"Chroma collection {name!r} of {where}"
    try:
        yield
    except SIFTError:
        raise
    except httpx.TransportError as error:
        raise StoreUnavailable(
            f"{label}: {type(error).__name__}: what is in stays in, and the rest can follow"
        ) from error
    except (ChromaError, ValueError, TypeError) as error:
        raise typed(error, label) from error
