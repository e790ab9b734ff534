"""The settings of one retrieval: from the fields, from `search_kwargs` and from the call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from langchain_sift.checks import check_count
from langchain_sift.errors import ArgumentError, InvalidFilter
from langchain_sift.selection import mmr, nearest_neighbors, select, uncertainty_sampling
from langchain_sift.selection.arguments import check_arguments
from langchain_sift.selection.greedy import Selector
from langchain_sift.selection.marginal_relevance import check_lambda_mult
from langchain_sift.stores.interface import AnyAdapter

SEARCH_TYPES: Mapping[str, Selector] = MappingProxyType(
    {
        "sift": select,
        "similarity": nearest_neighbors,
        "mmr": mmr,
        "uncertainty_sampling": uncertainty_sampling,
    }
)
# Fields that a call and `search_kwargs` may set too.
FIELDS = (
    "k",
    "fetch_k",
    "noise_variance",
    "stopping_alpha",
    "candidate_search",
    "step_fetch_k",
    "timeout",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one retrieval does."""

    method: dict[str, Any]
    """Arguments of `retrieve`."""

    search: dict[str, Any]
    """Arguments of the store's search."""

    timeout: float
    """Seconds for the store."""


def make_settings(search_type: str, given: Mapping[str, Any], adapter: AnyAdapter) -> Settings:
    """Return the settings, checked.

    Args:
        search_type: One of `SEARCH_TYPES`.
        given: All of `FIELDS`, and what else a call may set.
        adapter: The store's; it knows what its searches take.

    Raises:
        ArgumentError: If a setting is unknown or out of range.
    """
    if search_type not in SEARCH_TYPES:
        raise ArgumentError(f"search_type must be one of {list(SEARCH_TYPES)}, got {search_type!r}")
    settings = {"replace": False, **given}
    names = [*FIELDS, "replace", *(["lambda_mult"] if search_type == "mmr" else [])]
    search = {name: value for name, value in settings.items() if name not in names}
    for name in search:
        if adapter.search_arguments is not None and name not in adapter.search_arguments:
            raise ArgumentError(
                f"{name!r} is no setting of a {search_type!r} search in "
                f"{adapter.label}: use one of {[*names, *adapter.search_arguments]}"
            )
    method = {name: value for name, value in settings.items() if name in names}
    timeout = method.pop("timeout")
    check_arguments(method["k"], method["noise_variance"], method["stopping_alpha"])
    _check_search(search_type, timeout=timeout, **method)
    # NumPy's integers are integers; a store's client may not know them.
    method["k"], method["step_fetch_k"] = int(method["k"]), int(method["step_fetch_k"])
    method["fetch_k"] = max(int(method["fetch_k"]), method["k"])
    method["selector"] = SEARCH_TYPES[search_type]
    search["filter"] = search.get("filter") or None
    return Settings(method=method, search=search, timeout=timeout)


def join_required(required: Any, given: Any, adapter: AnyAdapter) -> Any:
    """Return a filter that must be there, narrowed by one that may be given.

    Raises:
        InvalidFilter: If there is none, or it does not say what is allowed.
    """
    if not required:
        raise InvalidFilter(
            "require_filter is set, and search_kwargs has no filter: nothing was searched"
        )
    _check_required(required)
    return adapter.conjunction(required, given) if given else required


def _check_search(
    search_type: str,
    *,
    fetch_k: Any,
    step_fetch_k: Any,
    candidate_search: Any,
    timeout: Any,
    replace: Any,
    lambda_mult: Any = 0.5,
    **_: Any,
) -> None:
    """Reject what is out of range, among the settings that `check_arguments` does not know."""
    check_count("fetch_k", fetch_k)
    check_count("step_fetch_k", step_fetch_k)
    check_lambda_mult(lambda_mult)
    if not isinstance(replace, bool):
        raise ArgumentError(f"replace must be True or False, got {replace!r}")
    seconds = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not (seconds and 0 < timeout < threading.TIMEOUT_MAX):
        raise ArgumentError(f"timeout must be a positive number of seconds, got {timeout!r}")
    if candidate_search not in CANDIDATE_SEARCHES:
        raise ArgumentError(
            f"candidate_search must be one of {CANDIDATE_SEARCHES}, got {candidate_search!r}"
        )
    # The others rank by nearness, and what is opposite is not near.
    if candidate_search in {"absolute", "residual"} and search_type != "sift":
        raise ArgumentError(
            f"candidate_search {candidate_search!r} is SIFT's own, got search_type {search_type!r}"
        )


# What passes documents that lack the key altogether, in the filters of the stores known here.
_DENIALS = frozenset(
    {"$ne", "$neq", "$nin", "$not", "$not_contains", "$exists", "must_not", "is_empty", "is_null"}
)


def _check_required(condition: Any) -> None:
    """Reject a tenant's filter that does not say what is allowed."""
    if callable(condition):
        return  # what it passes only it knows
    if isinstance(condition, BaseModel):  # Qdrant's
        condition = condition.model_dump(exclude_none=True)
    for loose in _loose_parts(condition):
        raise InvalidFilter(
            f"a required filter must say what is allowed, and this one has {loose}, which also "
            "passes documents that lack the key"
        )


def _loose_parts(condition: Any) -> Iterator[str]:
    """Yield what in a nested condition does not say what is allowed."""
    if condition is None:
        yield "None"
    if not isinstance(condition, Mapping | list | tuple):
        return
    if not condition:
        yield "an empty condition"
    if isinstance(condition, Mapping):
        yield from sorted(_DENIALS.intersection(map(str, condition)))
        condition = condition.values()
    for part in condition:
        yield from _loose_parts(part)


CANDIDATE_SEARCHES = ("nearest", "absolute", "residual", "exhaustive")


def noise_variance_for(embeddings: Any, given: float | None = None) -> float:
    """Return the λ' that was given, else what the embeddings have it as, else the paper's 0.01.

    λ' belongs to the embedding: any may have an attribute `noise_variance`.
    """
    return float(getattr(embeddings, "noise_variance", 0.01)) if given is None else given


def check_fields(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Reject a field that does not exist, with those that do.

    Raises:
        ArgumentError: If there is one.
    """
    for name in values:
        if name not in model.model_fields:
            raise ArgumentError(
                f"{name!r} is no setting of {model.__name__}: use one of {[*model.model_fields]}"
            )
