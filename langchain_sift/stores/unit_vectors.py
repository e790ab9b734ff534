"""Scale the vectors of rows and of queries to unit norm."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from langchain_sift.errors import DimensionMismatch, EmbeddingError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import Rows


def with_units(rows: Rows, dimensions: int) -> tuple[Rows, Array]:
    """Return the rows that have a direction, and their vectors scaled to unit norm.

    Rows whose vector is zero, NaN or infinite are left out with a warning: they are no nearer to
    one query than to another.

    Args:
        rows: Rows of a store.
        dimensions: The dimensions of the query, which the vectors must have.

    Raises:
        DimensionMismatch: If they have others.
    """
    if not rows.documents:
        return rows, np.empty((0, dimensions))
    if rows.are_units:
        return rows, rows.vectors
    _check_dimensions(rows.vectors, dimensions)
    norms, is_usable = _norms(rows.vectors)
    if not is_usable.all():
        _warn_of_left_out(rows, is_usable)
        rows, norms = rows.take(np.flatnonzero(is_usable).tolist()), norms[is_usable]
    return rows, rows.vectors / norms[:, None]


def texts_with_units(rows: Rows) -> set[str]:
    """Return the different texts of the rows that `with_units` keeps."""
    if rows.are_units or not rows.documents:
        return {document.page_content for document in rows.documents}
    _, is_usable = _norms(rows.vectors)
    return {rows.documents[row].page_content for row in np.flatnonzero(is_usable).tolist()}


def unit_vector(embedding: Array) -> Array:
    """Scale the vector of a query, shape (d,), to unit norm.

    Raises:
        EmbeddingError: If it is zero or not finite.
    """
    unit: Array = unit_queries(embedding[None, :])[0]
    return unit


def unit_queries(embeddings: Array) -> Array:
    """Scale the vectors of a query, shape (m, d), to unit norm.

    Raises:
        EmbeddingError: If a vector is zero or not finite.
    """
    norms, is_usable = _norms(embeddings)
    if not is_usable.all():
        if (norms[~is_usable] == 0.0)[0]:
            problem = (
                "zero, as of an empty text or of words that the embeddings do not know: ask in "
                "other words"
            )
        else:
            problem = "NaN or infinite: embed that text again"
        raise EmbeddingError(f"the vector of the query is {problem}")
    units: Array = embeddings / norms[:, None]
    return units


def _check_dimensions(embeddings: Array, dimensions: int) -> None:
    if embeddings.shape[1] != dimensions:
        raise DimensionMismatch(
            f"the query has {dimensions} dimensions and the stored vectors have "
            f"{embeddings.shape[1]}: open the store with the embeddings that filled it"
        )


def _norms(embeddings: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return the norms of vectors, and whether each is neither zero nor NaN nor infinite."""
    norms: Array = np.linalg.norm(embeddings, axis=1)
    return norms, (norms > 0.0) & np.isfinite(norms)


def _warn_of_left_out(rows: Rows, is_usable: npt.NDArray[np.bool_]) -> None:
    left_out = np.flatnonzero(~is_usable)
    name = rows.documents[left_out[0]].id or "one without an id"
    warnings.warn(
        f"{len(left_out)} documents are left out, such as {name}: their vectors are zero, NaN or "
        "infinite: embed their texts again, or remove them",
        UserWarning,
        stacklevel=3,
    )
