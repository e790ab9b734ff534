"""Keep data of a collection in collections beside it.

Chroma Cloud takes at most 256 bytes for a value of a collection's metadata, and anybody who writes
other metadata deletes the value. Records among the documents would be counted and read by other
programs. So the data are in another collection, whose name holds the id of the first: it stays
with a collection that gets another name, and does not belong to a later collection of the same
name. No command lists these collections.
"""

from __future__ import annotations

from chromadb import Collection
from chromadb.api import ClientAPI
from chromadb.errors import NotFoundError

MEAN = "mean"
FILES = "files"
_PREFIXES = tuple(f"langchain-sift-{kind}-" for kind in (MEAN, FILES))


def is_companion(name: str) -> bool:
    """Return True for the name of a collection that holds data of another one, and no documents."""
    return name.startswith(_PREFIXES)


def companion_name(collection: Collection, kind: str) -> str:
    """Return the name of the collection that holds data of this kind."""
    return f"langchain-sift-{kind}-{collection.id}"


def find_companion(client: ClientAPI, collection: Collection, kind: str) -> Collection | None:
    """Return the collection that holds data of this kind; None if there is none."""
    try:
        return client.get_collection(companion_name(collection, kind), embedding_function=None)
    except NotFoundError:
        return None
