"""Keep the mean that centres the vectors of a collection, in a collection beside it.

A mean has up to 16 kB: too much for the metadata of a collection in Chroma Cloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from chromadb import Collection
from chromadb.api import ClientAPI

from langchain_sift.embeddings import HiddenStateEmbeddings, mean_in, model_metadata, model_of
from langchain_sift.errors import NotFittedError
from langchain_sift.indexing.companions import MEAN, companion_name, find_companion

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

_ID = "mean"


def write_mean(
    client: ClientAPI, collection: Collection, embeddings: HiddenStateEmbeddings
) -> None:
    """Store the mean of fitted embeddings for a collection; a mean stored before is replaced.

    Raises:
        NotFittedError: If the embeddings are not fitted.
    """
    beside = client.get_or_create_collection(
        companion_name(collection, MEAN),
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
    beside = find_companion(client, collection, MEAN)
    if beside is None:
        return None
    vectors = beside.get(ids=[_ID], include=["embeddings"])["embeddings"]
    if vectors is None or not len(vectors):
        return None
    return np.asarray(vectors[0], dtype=np.float32)


def stored_model(client: ClientAPI, collection: Collection) -> str:
    """Return the name of the model whose hidden states fill a collection; "" if none is stored.

    The name is kept with the mean, and stays if other metadata are written to the collection.
    """
    name = model_of(collection.metadata)
    beside = None if name else find_companion(client, collection, MEAN)
    return model_of(beside.metadata) if beside is not None else name


def restored_embeddings(
    client: ClientAPI, collection: Collection, model: LanguageModel
) -> HiddenStateEmbeddings:
    """Return the embeddings of a collection that hidden states of the model fill.

    Raises:
        NotFittedError: If the collection has no mean.
    """
    mean = read_mean(client, collection)
    if mean is None and not collection.count():
        raise NotFittedError(
            f"the collection {collection.name!r} is empty: fill it with `langchain-sift index`"
        )
    if mean is None:
        raise NotFittedError(
            f"the collection {collection.name!r} has no mean: other embeddings filled it, or it "
            "was copied without the mean, which `langchain-sift repair` then computes again"
        )
    return HiddenStateEmbeddings(model, mean=mean)
