"""Find and open collections of Chroma with the embeddings that filled them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chromadb import Collection
from chromadb.api import ClientAPI
from chromadb.errors import InvalidArgumentError, NotFoundError
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError
from langchain_sift.indexing.chroma_clients import connect, typed_errors
from langchain_sift.indexing.companions import is_companion
from langchain_sift.indexing.fitted_means import (
    restored_embeddings,
    stored_model,
    write_mean,
)
from langchain_sift.indexing.named_objects import load_embeddings, load_embeddings_of
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.stores.locking import holds_database, is_free

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

# Key of a collection's metadata: its embeddings as module:NAME, if they are not a model's.
_EMBEDDINGS_KEY = "langchain_sift_embeddings"

_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def open_collection(
    where: str | ChromaLocation,
    name: str | None = None,
    embeddings: Embeddings | str | Callable[[str], Embeddings | LanguageModel] | None = None,
) -> Chroma:
    """Open a collection that exists, with the embeddings that filled it.

    Args:
        where: Chroma's folder, or the URL of its server; see `ChromaLocation.of`.
        name: Name of the collection. None means the only one.
        embeddings: The embeddings that filled the collection, or their name, as for the commands:
            a model, a sentence-transformer or module:NAME. Or a function that returns them, or a
            model whose hidden states they are; it is called with the name of the model that filled
            the collection, or "" if none is stored. None loads the model, or the
            sentence-transformer, that the collection names; code that it names is never run.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or `name` is None and there
            are several, or `embeddings` is None and the collection names none, or code, or other
            embeddings than those named filled the collection, or `embeddings` is a class.
        MissingExtraError: If the named model needs a package that is not installed.
        ModelLoadError: If the named model cannot be loaded.
        StoreUnavailable: If the server cannot be reached.
        NotFittedError: If a model embeds and the collection does not hold its mean.
    """
    if isinstance(embeddings, type):
        raise ArgumentError(
            f"embeddings must be an object, not the class {embeddings.__name__}: write "
            f"embeddings={embeddings.__name__}(...)"
        )
    name = resolve_name(where, name)
    with typed_errors(where, name):
        client = connect(where)
        collection = client.get_collection(name, embedding_function=None)
        model = stored_model(client, collection)
    if embeddings is None:
        loaded = load_embeddings_of(name, embeddings_for(where, name, None))
    elif isinstance(embeddings, str):
        loaded = load_embeddings(embeddings_for(where, name, embeddings))
    else:
        loaded = embeddings if isinstance(embeddings, Embeddings) else embeddings(model)
    if not isinstance(loaded, Embeddings):
        with typed_errors(where, name):
            loaded = restored_embeddings(client, collection, loaded)
    return Chroma(name, loaded, client=client, create_collection_if_not_exists=False)


def save_embeddings(store: Chroma) -> None:
    """Store the mean of a collection's `HiddenStateEmbeddings` beside it, in the same database.

    `open_collection` and the commands find it there.

    Args:
        store: A store whose embeddings are fitted `HiddenStateEmbeddings`.

    Raises:
        ArgumentError: If it has other embeddings.
        NotFittedError: If the embeddings are not fitted.
        StoreError: If the store fails.
    """
    if not isinstance(store.embeddings, HiddenStateEmbeddings):
        raise ArgumentError(
            f"only HiddenStateEmbeddings have a mean, not {type(store.embeddings).__name__}"
        )
    with typed_errors(None, store._collection_name):
        write_mean(store._client, store._collection, store.embeddings)


def resolve_name(where: str | ChromaLocation, name: str | None) -> str:
    """Return the name of a collection that exists; None means the only one.

    Raises:
        ArgumentError: If the folder or the collection does not exist, or `name` is None and there
            are several.
        StoreError: If the folder does not hold a store that can be read.
        StoreUnavailable: If the server cannot be reached.
    """
    location = ChromaLocation.of(where)
    with typed_errors(location, name):
        client = connect(location)
        if name is not None and _exists(client, name):
            return name
        names = [one.name for one in client.list_collections() if not is_companion(one.name)]
    if name is None and len(names) == 1:
        return names[0]
    if not names:
        raise ArgumentError(
            f"{location} has no collection yet: fill one, langchain-sift index FOLDER --store "
            f"{location}"
        )
    if name is None:
        raise ArgumentError(f"{location} has {len(names)} collections: choose one of {names}")
    raise ArgumentError(f"{location} has no collection {name!r}: choose one of {names}")


def _exists(client: ClientAPI, name: str) -> bool:
    # Not by the list of all collections, which a server may cut off.
    try:
        client.get_collection(name, embedding_function=None)
    except (NotFoundError, ValueError, InvalidArgumentError):
        return False
    return True


def embeddings_for(where: str | ChromaLocation, name: str, embeddings: str | None) -> str:
    """Return the name of the embeddings for a collection, which may not exist yet.

    Args:
        where: Chroma's folder, or the URL of its server; see `ChromaLocation.of`.
        name: Name of the collection.
        embeddings: The embeddings that the caller names. None means those that filled it.

    Raises:
        ArgumentError: If other embeddings filled the collection, none are named, or `where` or
            `name` cannot hold a collection.
        StoreUnavailable: If the server cannot be reached.
    """
    location = ChromaLocation.of(where)
    _check_location(location, name)
    collection = find_collection(location, name)
    if collection is None:
        if embeddings is None:
            raise ArgumentError(
                f"{location} has no collection {name!r} yet: name the embeddings to make it with "
                "(--embeddings)"
            )
        return embeddings
    with typed_errors(location, name):
        stored = stored_name(connect(location), collection)
    if embeddings is None:
        return _without_code(stored, name)
    if stored and not _are_same(stored, embeddings):
        raise ArgumentError(
            f"the collection {name!r} holds embeddings of {stored!r}, not of {embeddings!r}: name "
            "those, or choose another collection; a model that was moved is recognized by the "
            "name of its folder"
        )
    return embeddings


def stored_name(client: ClientAPI, collection: Collection) -> str:
    """Return the name of the embeddings that filled a collection; "" if none is stored."""
    named = str((collection.metadata or {}).get(_EMBEDDINGS_KEY, ""))
    return named or stored_model(client, collection)


def embeddings_metadata(named: str) -> dict[str, str]:
    """Return the name of embeddings, module:NAME, as metadata of a collection."""
    return {_EMBEDDINGS_KEY: named}


def _without_code(stored: str, collection: str) -> str:
    """Return the stored name, unless loading it would run code that a store names."""
    if not stored:
        raise ArgumentError(
            f"the collection {collection!r} names no embeddings: name those that filled it "
            "(--embeddings, in Python embeddings=...), and store the name with "
            "`langchain-sift repair`"
        )
    if ":" in stored and not Path(stored).exists():
        raise ArgumentError(
            f"the collection {collection!r} holds embeddings of {stored!r}: name them yourself "
            "(--embeddings, in Python embeddings=...), for no code is run because a store names it"
        )
    return stored


def _are_same(stored: str, embeddings: str) -> bool:
    there, here = Path(stored), Path(embeddings)
    if there.is_dir() and here.is_dir():
        return there.resolve() == here.resolve()
    # A model that was moved, or is a folder on one machine and a name of the hub on another.
    is_object = ":" in stored or ":" in embeddings
    return stored == embeddings or (there.name == here.name and not is_object)


def find_collection(where: str | ChromaLocation, name: str) -> Collection | None:
    """Return the collection, or None if it does not exist; nothing is created."""
    location = ChromaLocation.of(where)
    if location.url is None and not holds_database(Path(location.text)):
        return None
    with typed_errors(location, name):
        try:
            return connect(location).get_collection(name, embedding_function=None)
        except NotFoundError:
            return None


def _check_location(location: ChromaLocation, name: str) -> None:
    """Reject a name that Chroma does not take, and a folder that holds other files."""
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"a collection cannot be called {name!r}: use 3 to 512 letters, digits, '.', '_' and "
            "'-', the first and the last a letter or digit"
        )
    folder = Path(location.text)
    if location.url is not None or holds_database(folder):
        return
    if not is_free(folder):
        raise ArgumentError(
            f"{folder} holds something else than Chroma's data: name a new or an empty folder"
        )
