"""Keep the mean that centres the vectors of a collection, in a collection beside it.

A mean has up to 16 kB. Chroma Cloud takes at most 256 bytes for a value of a collection's
metadata, and anybody who writes other metadata deletes the mean. A record among the documents
would be counted and read by other programs. So the mean is the only vector of another collection,
whose name holds the id of the first: it stays with a collection that gets another name, and does
not belong to a later collection of the same name. No command lists these collections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from chromadb import Collection
from chromadb.api import ClientAPI
from chromadb.errors import NotFoundError

from langchain_sift.embeddings import HiddenStateEmbeddings, mean_in, model_metadata, model_of
from langchain_sift.errors import NotFittedError

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

_PREFIX = "langchain-sift-mean-"
_ID = "mean"


def holds_mean(name: str) -> bool:
    """Return True for the name of a collection that holds a mean, and no documents."""
    return name.startswith(_PREFIX)


def write_mean(
    client: ClientAPI, collection: Collection, embeddings: HiddenStateEmbeddings
) -> None:
    """Store the mean of fitted embeddings for a collection; a mean stored before is replaced.

    Raises:
        NotFittedError: If the embeddings are not fitted.
    """
    beside = client.get_or_create_collection(
        _name(collection),
        metadata=model_metadata(embeddings.model_name),
        embedding_function=None,
    )
    beside.upsert(ids=[_ID], embeddings=[embeddings.fitted_mean()])  # type: ignore[arg-type]


def read_mean(client: ClientAPI, collection: Collection) -> npt.NDArray[np.float32] | None:
    """Return the mean of a collection, shape (d,), or None if none is stored.

    Collections of earlier versions hold it in their metadata.
    """
    mean = mean_in(collection.metadata)
    if mean is not None:
        return mean
    beside = _find(client, collection)
    if beside is None:
        return None
    vectors = beside.get(ids=[_ID], include=["embeddings"])["embeddings"]
    if vectors is None or not len(vectors):
        return None
    return np.asarray(vectors[0], dtype=np.float32)


def stored_model(client: ClientAPI, collection: Collection) -> str:
    """Return the name of the model whose hidden states fill a collection; "" if none is stored.

    It stays with the mean if other metadata are written to the collection.
    """
    name = model_of(collection.metadata)
    beside = None if name else _find(client, collection)
    return model_of(beside.metadata) if beside is not None else name


def restored_embeddings(
    client: ClientAPI, collection: Collection, model: LanguageModel
) -> HiddenStateEmbeddings:
    """Return the embeddings of a collection that hidden states of the model fill.

    Raises:
        NotFittedError: If the collection has no mean.
    """
    mean = read_mean(client, collection)
    if mean is None:
        raise NotFittedError(
            f"the collection {collection.name!r} has no mean: other embeddings filled it, or it "
            "was copied without the mean, which `langchain-sift repair` then computes again"
        )
    return HiddenStateEmbeddings(model, mean=mean)


def _find(client: ClientAPI, collection: Collection) -> Collection | None:
    try:
        return client.get_collection(_name(collection), embedding_function=None)
    except NotFoundError:
        return None


def _name(collection: Collection) -> str:
    return f"{_PREFIX}{collection.id}"
