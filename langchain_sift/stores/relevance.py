"""Convert a store's relevance score to a cosine, for vectors of unit norm.

LangChain's stores scale their scores from 0 to 1, each in its own way: see the methods
`_select_relevance_score_fn` and `_euclidean_relevance_score_fn` of `VectorStore`.
"""

from __future__ import annotations

import math
from typing import Any

from langchain_core.vectorstores import VectorStore

from langchain_sift.checks import is_finite_number
from langchain_sift.errors import ArgumentError


def cosine_of_relevance(vectorstore: VectorStore, score: float) -> float:
    """Return the cosine of unit vectors for which the store reports this relevance score.

    Raises:
        ArgumentError: If the store's scale is not known.
    """
    if not is_finite_number(score):
        raise ArgumentError(f"score_threshold must be a finite number, got {score!r}")
    names = {cls.__name__ for cls in type(vectorstore).__mro__}
    has_own_scale = getattr(vectorstore, "override_relevance_score_fn", None) is not None
    if "Chroma" in names and not has_own_scale:
        space = _space(vectorstore)
        if space in {"cosine", "ip"}:
            return score  # 1 − (1 − cos)
        if space == "l2":
            return _of_squared_distance(score)
    is_euclidean = "EUCLIDEAN" in str(getattr(vectorstore, "distance_strategy", ""))
    if "FAISS" in names and is_euclidean and not has_own_scale:
        return _of_squared_distance(score)
    if "QdrantVectorStore" in names and "Cosine" in str(getattr(vectorstore, "distance", "")):
        return 2.0 * score - 1.0  # (1 + cos) / 2
    raise ArgumentError(
        f"score_threshold: the scale of the scores of this {type(vectorstore).__name__} is not "
        "known: pass min_similarity, a cosine, in its place"
    )


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
