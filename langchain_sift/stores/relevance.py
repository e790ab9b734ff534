"""Convert the `score_threshold` of another retriever to a cosine, for vectors of unit norm.

LangChain's stores scale their relevance scores from 0 to 1, each in its own way: see the methods
`_select_relevance_score_fn` and `_euclidean_relevance_score_fn` of `VectorStore`. Searches of other
types compare the threshold with the store's own score, such as a distance, or ignore it.
"""

from __future__ import annotations

import math
from typing import Any

from langchain_core.vectorstores import VectorStore

from langchain_sift.checks import is_finite_number
from langchain_sift.errors import ArgumentError

_BY_RELEVANCE = "similarity_score_threshold"


def threshold_cosine(
    vectorstore: VectorStore, threshold: float, *, search_type: str
) -> float | None:
    """Return the lowest cosine of unit vectors that pass a `score_threshold`.

    Args:
        vectorstore: The store of the other retriever.
        threshold: Its `score_threshold`.
        search_type: Its search type, which says what the threshold is compared with.

    Returns:
        The cosine. None if the search ignores the threshold.

    Raises:
        ArgumentError: If the store's scale is not known, or no cosine passes.
    """
    if not is_finite_number(threshold):
        raise ArgumentError(f"score_threshold must be a finite number, got {threshold!r}")
    names = {cls.__name__ for cls in type(vectorstore).__mro__}
    if search_type == _BY_RELEVANCE:
        cosine = _of_relevance(vectorstore, names, threshold)
    elif "InMemoryVectorStore" in names:
        return None
    else:
        cosine = _of_score(vectorstore, names, threshold, search_type)
    # LangChain's parent retrievers name their search type by an enumeration.
    name = getattr(search_type, "value", search_type)
    where = f"score_threshold {threshold!r}, for search_type {name!r}"
    if cosine is None:
        is_relevance = _of_relevance(vectorstore, names, threshold) is not None
        other = f", or set search_type={_BY_RELEVANCE!r}" if is_relevance else ""
        raise ArgumentError(
            f"{where}: the scale of the scores of this {type(vectorstore).__name__} is not known: "
            f"pass min_similarity, a cosine, in its place{other}"
        )
    if cosine > 1.0:
        raise ArgumentError(
            f"{where}, passes no document of this {type(vectorstore).__name__}: it is a cosine of "
            f"{cosine:g}: pass one that documents reach, or min_similarity, a cosine"
        )
    return max(-1.0, cosine)


def _of_relevance(vectorstore: VectorStore, names: set[str], score: float) -> float | None:
    """Return the cosine for which the store reports a relevance; None if its scale is unknown."""
    has_own_scale = getattr(vectorstore, "override_relevance_score_fn", None) is not None
    if "Chroma" in names and not has_own_scale:
        space = _space(vectorstore)
        if space in {"cosine", "ip"}:
            return score  # 1 − (1 − cos)
        if space == "l2":
            return _of_squared_distance(score)
    if "FAISS" in names and _is_euclidean(vectorstore) and not has_own_scale:
        return _of_squared_distance(score)
    if _is_dense_cosine(vectorstore, names):
        return 2.0 * score - 1.0  # (1 + cos) / 2
    return None


def _of_score(
    vectorstore: VectorStore, names: set[str], score: float, search_type: str
) -> float | None:
    """Return the cosine for which the store's own score is this; None if its scale is unknown."""
    if _is_dense_cosine(vectorstore, names):
        return score
    if "FAISS" in names and search_type == "similarity" and _is_euclidean(vectorstore):
        return 1.0 - score / 2.0  # ‖x − x'‖² = 2 − 2 cos
    return None


def _is_dense_cosine(vectorstore: VectorStore, names: set[str]) -> bool:
    """Return True for a Qdrant store that compares dense vectors by cosine, and fuses nothing."""
    return (
        "QdrantVectorStore" in names
        and "Cosine" in str(getattr(vectorstore, "distance", ""))
        and getattr(vectorstore, "retrieval_mode", "dense") == "dense"
    )


def _is_euclidean(vectorstore: VectorStore) -> bool:
    return "EUCLIDEAN" in str(getattr(vectorstore, "distance_strategy", ""))


def _of_squared_distance(score: float) -> float:
    """Solve score = 1 − d / √2 for the cosine, where the index reports d = ‖x − x'‖²."""
    return 1.0 - (1.0 - score) / math.sqrt(2.0)


def _space(vectorstore: Any) -> str:
    """Return the metric of a Chroma collection, without running the configuration it stores."""
    collection = vectorstore._chroma_collection
    model = getattr(collection, "_model", None)
    configuration = getattr(model, "configuration_json", None) or {}
    for index in ("hnsw", "spann"):
        settings = configuration.get(index)
        if isinstance(settings, dict) and settings.get("space"):
            return str(settings["space"])
    return str((getattr(model, "metadata", None) or {}).get("hnsw:space", "l2"))
