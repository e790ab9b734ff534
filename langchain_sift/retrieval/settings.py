"""Merge and check the settings of one retrieval.

Precedence: a keyword of the call, then `search_kwargs`, then the field of the retriever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from langchain_sift.checks import check_count, check_seconds
from langchain_sift.errors import ArgumentError, InvalidFilter
from langchain_sift.selection import Selection, Selector
from langchain_sift.selection.arguments import Matrices, check_arguments
from langchain_sift.selection.greedy import Method
from langchain_sift.selection.marginal_relevance import check_lambda_mult, choose_by_relevance
from langchain_sift.selection.nearest import choose_nearest
from langchain_sift.selection.sift import choose_by_gain
from langchain_sift.selection.uncertainty import choose_by_uncertainty
from langchain_sift.stores.interface import AnyAdapter

SEARCH_TYPES: Mapping[str, Method] = MappingProxyType(
    {
        "sift": choose_by_gain,
        "similarity": choose_nearest,
        "mmr": choose_by_relevance,
        "uncertainty_sampling": choose_by_uncertainty,
    }
)
CANDIDATE_SEARCHES = ("nearest", "residual", "exhaustive")
FIELDS = (
    "k",
    "fetch_k",
    "noise_variance",
    "stopping_alpha",
    "candidate_search",
    "step_fetch_k",
    "timeout",
)
"""Fields of a retriever that a call and `search_kwargs` may set too."""


@dataclass(frozen=True, slots=True)
class RetrievalSettings:
    """The settings of one retrieval, checked."""

    method: Method
    """Chooses among the candidates; not used by the candidate search "residual"."""

    k: int
    """Maximum number of documents."""

    fetch_k: int
    """Maximum number of candidates for each query vector, for the candidate search "nearest"."""

    noise_variance: float
    """λ', positive."""

    candidate_search: str = "nearest"
    """One of `CANDIDATE_SEARCHES`; "residual" chooses with SIFT."""

    stopping_alpha: float | None = None
    """α of adaptive SIFT. None never stops before `k`."""

    replace: bool = False
    """If True, a document may be chosen again."""

    step_fetch_k: int = 5
    """Number of candidates in each direction before each choice, for "residual"."""

    timeout: float = 30.0
    """Seconds for all calls of the store, retries included."""

    search: Mapping[str, object] = field(default_factory=dict)
    """Keyword arguments of the store's search."""


def merge_settings(
    search_type: str,
    *,
    fields: Mapping[str, Any],
    search_kwargs: Mapping[str, Any],
    call: Mapping[str, Any],
    adapter: AnyAdapter,
    require_filter: bool,
) -> RetrievalSettings:
    """Merge the settings of a retriever and of a call, and check them.

    Args:
        search_type: One of `SEARCH_TYPES`.
        fields: A value for each of `FIELDS`.
        search_kwargs: Settings, and keyword arguments of the store's search.
        call: Settings and keyword arguments of the call.
        adapter: The store's adapter, which knows the arguments of its search.
        require_filter: If True, `search_kwargs` must have a filter, and the filter of the call
            is joined to it.

    Raises:
        ArgumentError: If a setting is unknown or out of range.
        InvalidFilter: If the required filter is missing, or names no allowed value.
    """
    if search_type not in SEARCH_TYPES:
        raise ArgumentError(f"search_type must be one of {list(SEARCH_TYPES)}, got {search_type!r}")
    names = [*FIELDS, "replace", *(["lambda_mult"] if search_type == "mmr" else [])]
    merged = {"replace": False, **fields, **search_kwargs, **call}
    search = {name: value for name, value in merged.items() if name not in names}
    for name in search:
        if adapter.search_arguments is not None and name not in adapter.search_arguments:
            raise ArgumentError(
                f"{name!r} is no setting of a {search_type!r} search in "
                f"{adapter.label}: use one of {[*names, *adapter.search_arguments]}"
            )
    settings = _check(search_type, **{name: merged[name] for name in names if name in merged})
    search["filter"] = search.get("filter") or None
    if require_filter:
        search["filter"] = narrow_filter(search_kwargs.get("filter"), call.get("filter"), adapter)
    return replace(settings, search=search)


def _check(search_type: str, **values: Hashable) -> RetrievalSettings:
    try:
        return _check_once(search_type, **values)
    except TypeError:  # a value that cannot be hashed; the check names it
        return _check_once.__wrapped__(search_type, **values)


@lru_cache(maxsize=256, typed=True)  # the settings of a retriever seldom change between calls
def _check_once(
    search_type: str,
    *,
    k: Any,
    fetch_k: Any,
    noise_variance: Any,
    stopping_alpha: Any,
    candidate_search: Any,
    step_fetch_k: Any,
    timeout: Any,
    replace: Any,
    lambda_mult: Any = None,
) -> RetrievalSettings:
    check_arguments(k, noise_variance, stopping_alpha)
    check_count("fetch_k", fetch_k)
    check_count("step_fetch_k", step_fetch_k)
    check_seconds("timeout", timeout)
    method = SEARCH_TYPES[search_type]
    if lambda_mult is not None:
        check_lambda_mult(lambda_mult)
        method = partial(choose_by_relevance, lambda_mult=lambda_mult)
    if not isinstance(replace, bool):
        raise ArgumentError(f"replace must be True or False, got {replace!r}")
    if candidate_search not in CANDIDATE_SEARCHES:
        raise ArgumentError(
            f"candidate_search must be one of {CANDIDATE_SEARCHES}, got {candidate_search!r}"
        )
    if candidate_search == "residual" and search_type != "sift":
        raise ArgumentError(
            f"candidate_search 'residual' needs search_type 'sift', got {search_type!r}"
        )
    return RetrievalSettings(
        method=method,
        # A store's client may not know NumPy's integers.
        k=int(k),
        fetch_k=max(int(fetch_k), int(k)),
        noise_variance=noise_variance,
        candidate_search=candidate_search,
        stopping_alpha=stopping_alpha,
        replace=replace and search_type != "similarity",  # a repeat is no neighbour
        step_fetch_k=int(step_fetch_k),
        timeout=timeout,
    )


def method_of(selector: Selector) -> Method:
    """Return a selector as the method of `RetrievalSettings`; it checks its arguments again."""

    def method(
        matrices: Matrices,
        *,
        k: int,
        noise_variance: float,
        replace: bool,
        stopping_alpha: float | None,
    ) -> Selection:
        return selector(
            matrices.queries,
            matrices.candidates,
            k=k,
            noise_variance=noise_variance,
            replace=replace,
            stopping_alpha=stopping_alpha,
        )

    return method


def noise_variance_for(embeddings: object, noise_variance: float | None = None) -> float:
    """Return λ' if it is set, else the default of the embeddings, else the paper's 0.01.

    The right λ' depends on the embedding; embeddings of any class may have an attribute
    `noise_variance`.
    """
    if noise_variance is not None:
        return noise_variance
    return float(getattr(embeddings, "noise_variance", 0.01))


def check_fields(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Check that the model has all these fields.

    Raises:
        ArgumentError: If it lacks a field; the message lists its fields.
    """
    for name in values:
        if name not in model.model_fields:
            raise ArgumentError(
                f"{name!r} is no setting of {model.__name__}: use one of {[*model.model_fields]}"
            )


def narrow_filter(required: Any, requested: Any, adapter: AnyAdapter) -> Any:
    """Join a required filter, such as a tenant's, with the filter that a call requests.

    Args:
        required: The filter that every search must have.
        requested: The filter of the call. None or empty changes nothing.
        adapter: The store's adapter, which joins the filters.

    Raises:
        InvalidFilter: If the required filter is missing, or names no allowed value.
    """
    if not required:
        raise InvalidFilter(
            "require_filter is set, and search_kwargs has no filter: nothing was searched"
        )
    _check_required(required)
    return adapter.conjunction(required, requested) if requested else required


# Conditions, in the filters of the stores known here, that pass documents without the key.
_DENIALS = frozenset(
    {"$ne", "$neq", "$nin", "$not", "$not_contains", "$exists", "must_not", "is_empty", "is_null"}
)


def _check_required(condition: Any) -> None:
    """Check that a required filter names the allowed values."""
    if callable(condition):
        return  # a function's conditions cannot be read
    if isinstance(condition, BaseModel):  # Qdrant's
        condition = condition.model_dump(exclude_none=True)
    for loose in _loose_parts(condition):
        raise InvalidFilter(
            f"a required filter must name the allowed values, and this one has {loose}, which "
            "also passes documents that lack the key"
        )


def _loose_parts(condition: Any) -> Iterator[str]:
    """Yield the parts of a nested condition that name no allowed value."""
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
