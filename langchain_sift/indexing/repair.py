"""Name the embeddings of a collection again, after a check against its stored vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from chromadb import Collection
from chromadb.api import ClientAPI
from langchain_core.embeddings import Embeddings

from langchain_sift.checks import check_integer
from langchain_sift.embeddings import HiddenStateEmbeddings, model_metadata
from langchain_sift.errors import ArgumentError, DimensionMismatch, EmbeddingError
from langchain_sift.indexing.chroma_clients import connect, typed_errors
from langchain_sift.indexing.chroma_collections import embeddings_metadata, resolve_name
from langchain_sift.indexing.embedded_texts import embed_texts
from langchain_sift.indexing.fitted_means import read_mean, write_mean
from langchain_sift.stores.location import ChromaLocation

if TYPE_CHECKING:
    from langchain_sift.ttft import LanguageModel

Array = npt.NDArray[np.float64]

LEAST_COSINE = 0.99
"""Least cosine between a stored vector and that of the text embedded again. Other embeddings are
far below it; another precision or machine is above it."""

# Chroma refuses to write this key again, and keeps the metric elsewhere.
_METRIC = "hnsw:space"
_PAGES = 8


@dataclass(frozen=True, slots=True)
class Repaired:
    """The comparison after which the embeddings of a collection were named."""

    collection: str
    embeddings: str
    """Name of the embeddings."""

    rows: int
    """Number of rows whose text was embedded again and compared."""

    mean_cosine: float
    lowest_cosine: float
    """Cosines of the stored vectors with those computed again: the mean above, and the lowest."""

    computed_mean: bool
    """True if no mean was stored that fits, and it was computed from other rows."""


@dataclass(frozen=True, slots=True)
class _Rows:
    texts: list[str]
    vectors: Array
    """Unit vectors, shape (n, d)."""

    def half(self, first: int) -> _Rows:
        """Return every second row, from the row `first` on."""
        return _Rows(self.texts[first::2], self.vectors[first::2])


def repair(
    where: str | ChromaLocation,
    name: str | None,
    embeddings: str,
    load: Callable[[str], Embeddings | LanguageModel],
    *,
    rows: int = 32,
) -> Repaired:
    """Store the name of the embeddings that filled a collection, and their mean if they have one.

    A few texts are embedded again and compared with the stored vectors; nothing else is embedded.
    A mean that is lost is computed from half of these rows, and checked with the other half: with
    the hidden state s of a text and its unit vector v, the mean m lies on the line s - t v, and
    the lines of all texts meet in it (least squares).

    Args:
        where: Chroma's folder, or the URL of its server.
        name: Name of the collection. None means the only one.
        embeddings: A name for `load`.
        load: Returns the embeddings of a name, or a model whose hidden states are the embeddings.
        rows: Number of rows to compare, spread over the collection.

    Raises:
        ArgumentError: If `rows` is below 4, or the collection does not exist or has too few rows.
        EmbeddingError: If the vectors differ, or the embeddings fail: nothing is written.
        DimensionMismatch: If they differ in size.
        StoreError: If the store fails.
    """
    check_integer("rows", rows, 4)
    location = ChromaLocation.of(where)
    name = resolve_name(location, name)
    with typed_errors(location, name):
        client = connect(location)
        collection = client.get_collection(name, embedding_function=None)
        sample = _sample(collection, rows)
        stored = read_mean(client, collection)
    loaded = load(embeddings)
    computed = False
    if not isinstance(loaded, Embeddings):
        loaded, sample, computed = _centred(loaded, sample, stored)
    cosines = _cosines(loaded, sample)
    if not cosines.min() >= LEAST_COSINE:  # also if it is NaN
        raise EmbeddingError(
            f"{embeddings!r} did not fill the collection {name!r}, which stays as it is: for "
            f"{len(cosines)} rows embedded again, the cosine with the stored vector is "
            f"{cosines.mean():.3f} on average and {cosines.min():.3f} at the lowest, and must be "
            f"at least {LEAST_COSINE:g}"
        )
    with typed_errors(location, name):
        _write(client, collection, loaded, embeddings)
    return Repaired(
        name, embeddings, len(cosines), float(cosines.mean()), float(cosines.min()), computed
    )


def _sample(collection: Collection, count: int) -> _Rows:
    """Return rows with different texts, from all parts of the collection."""
    total = collection.count()
    size = -(-count // _PAGES)
    starts = range(0, total, max(size, -(-total // _PAGES)))
    found: dict[str, npt.ArrayLike] = {}
    for start in starts:
        page = collection.get(limit=size, offset=start, include=["documents", "embeddings"])
        embeddings = page["embeddings"] if page["embeddings"] is not None else []
        for text, vector in zip(page["documents"] or [], embeddings, strict=True):
            if text and np.any(vector) and np.all(np.isfinite(vector)):
                found.setdefault(text, vector)
    if len(found) < 4:
        raise ArgumentError(
            f"the collection {collection.name!r} has {len(found)} different texts with vectors: "
            "at least 4 are needed to compare embeddings"
        )
    vectors = np.asarray([*found.values()][:count], dtype=np.float64)
    return _Rows([*found][:count], _units(vectors))


def _centred(
    model: LanguageModel, sample: _Rows, stored: npt.ArrayLike | None
) -> tuple[HiddenStateEmbeddings, _Rows, bool]:
    """Return embeddings with the stored mean if it fits, and else with a computed one.

    And the rows to check them with, and True if the mean was computed.
    """
    states = HiddenStateEmbeddings(model).hidden_states(sample.texts).astype(np.float64)
    _check_dimensions(states, sample)
    if stored is not None and np.size(stored) == states.shape[1]:
        vectors = _units(states - np.asarray(stored))
        if np.vecdot(vectors, sample.vectors).min() >= LEAST_COSINE:
            return HiddenStateEmbeddings(model, mean=stored), sample, False
    mean = common_point(states[0::2], sample.half(0).vectors)
    return HiddenStateEmbeddings(model, mean=mean), sample.half(1), True


def common_point(points: Array, directions: Array) -> Array:
    """Return the point that is nearest to all lines, by least squares.

    Args:
        points: A point of each line, shape (n, d), n at least 2.
        directions: The direction of each line, of unit norm, shape (n, d), not all parallel.

    Returns:
        The point, shape (d,): the solution m of sum_i (I - v_i v_i') (m - s_i) = 0.
    """
    count = len(points)
    along = np.vecdot(points, directions)
    right = (points - along[:, None] * directions).sum(axis=0)
    # The inverse of n I - V'V by Woodbury's identity: n unknowns instead of d.
    inner = count * np.eye(count) - directions @ directions.T
    solution: Array = right + directions.T @ np.linalg.solve(inner, directions @ right)
    return solution / count


def _cosines(embeddings: Embeddings, rows: _Rows) -> Array:
    again = np.array([*embed_texts(embeddings, rows.texts).values()])
    _check_dimensions(again, rows)
    cosines: Array = np.vecdot(_units(again), rows.vectors)
    return cosines


def _check_dimensions(again: Array, rows: _Rows) -> None:
    if again.shape[1:] != rows.vectors.shape[1:]:
        raise DimensionMismatch(
            f"the embeddings have {again.shape[-1]} dimensions, and the stored vectors have "
            f"{rows.vectors.shape[1]}: other embeddings filled the collection"
        )


def _units(vectors: Array) -> Array:
    """Scale vectors to unit norm; a zero vector stays, and has the cosine 0 with each other."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Array = vectors / np.where(norms > 0.0, norms, 1.0)
    return units


def _write(client: ClientAPI, collection: Collection, embeddings: Embeddings, named: str) -> None:
    if isinstance(embeddings, HiddenStateEmbeddings):
        write_mean(client, collection, embeddings)
        metadata = model_metadata(embeddings.model_name)
    else:
        metadata = embeddings_metadata(named)
    kept = {key: value for key, value in _others(collection) if key != _METRIC}
    collection.modify(metadata={**kept, **metadata})


def _others(collection: Collection) -> Iterator[tuple[str, str | int | float | bool]]:
    """Yield the entries of the metadata that do not name embeddings."""
    for key, value in (collection.metadata or {}).items():
        if not key.startswith("langchain_sift_") and value is not None:
            yield key, value
