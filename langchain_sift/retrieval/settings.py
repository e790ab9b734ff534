"""Merge and check the settings of one retrieval.

Precedence: a keyword of the call, then `search_kwargs`, then the field of the retriever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel

from langchain_sift.checks import check_choice, check_count, check_seconds
from langchain_sift.errors import ArgumentError
from langchain_sift.retrieval.constraints import Constraints, tokenizer_of
from langchain_sift.retrieval.defaults import kernel_settings
from langchain_sift.retrieval.filters import narrow_filter
from langchain_sift.retrieval.parents import Parents
from langchain_sift.selection.greedy import Method
from langchain_sift.selection.marginal_relevance import check_lambda_mult, choose_by_relevance
from langchain_sift.selection.nearest import choose_nearest
from langchain_sift.selection.opposites import choose_for_retrieval
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.selection.uncertainty import choose_by_uncertainty
from langchain_sift.stores.interface import AnyAdapter

SEARCH_TYPES: Mapping[str, Method] = MappingProxyType(
    {
        "sift": choose_for_retrieval,
        "similarity": choose_nearest,
        "mmr": choose_by_relevance,
        "uncertainty_sampling": choose_by_uncertainty,
    }
)
CANDIDATE_SEARCHES = ("nearest", "residual", "exhaustive")
SELECTION_FIELDS = ("noise_variance", "kernel", "length_scale", "stopping_alpha")
CONSTRAINTS = tuple(field.name for field in dataclasses.fields(Constraints))
FIELDS = (
    "k",
    "fetch_k",
    "candidate_search",
    "step_fetch_k",
    "timeout",
    *SELECTION_FIELDS,
    *CONSTRAINTS,
)
"""Fields of a retriever that a call and `search_kwargs` may set too."""

DEFAULT_K = 4
_MOST_ROWS = 2**31
"""Stores count rows in 32 bits."""
_SEARCH_ARGUMENTS = ("filter", "where_document", "lambda_mult")
"""Arguments of LangChain's searches that `search_kwargs` takes, and a field does not."""
_INSTEAD_OF_THRESHOLD = (
    "set min_similarity, the lowest cosine, or call "
    "SIFTRetriever.from_retriever(store.as_retriever(...)), which converts a score_threshold"
)
_INSTEAD = {
    "score_threshold": _INSTEAD_OF_THRESHOLD,
    "lambda_mult": "use search_type='mmr'",
    "hybrid_fusion": (
        "dense vectors alone are searched: write it into the search_kwargs of a "
        "second_retriever=store.as_retriever(...)"
    ),
}
"""What to use in place of settings of other searches."""


@dataclass(frozen=True, slots=True)
class RetrievalSettings:
    """The settings of one retrieval, checked."""

    method: Method
    """Chooses among the candidates; not used by the candidate search "residual"."""

    selection: SelectionSettings
    """The settings of the selection; λ' is a number."""

    fetch_k: int
    """Maximum number of candidates for each query vector, for the candidate search "nearest"."""

    constraints: Constraints = field(default_factory=Constraints)

    candidate_search: str = "nearest"
    """One of `CANDIDATE_SEARCHES`; "residual" chooses with SIFT."""

    step_fetch_k: int = 5
    """Number of candidates in each direction before each choice, for "residual"."""

    timeout: float = 30.0
    """Seconds for all calls of the store, retries included."""

    parents: Parents | None = None
    """The docstore of parents. None returns the chunks."""

    is_hybrid: bool = False
    """True if there is a second retriever."""

    search: Mapping[str, object] = field(default_factory=dict)
    """Keyword arguments of the store's search."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range, or contradicts another.
        """
        check_count("fetch_k", self.fetch_k)
        check_count("step_fetch_k", self.step_fetch_k)
        check_seconds("timeout", self.timeout)
        check_choice("candidate_search", self.candidate_search, CANDIDATE_SEARCHES)
        if self.candidate_search == "residual":
            self._check_residual()
        if self.is_hybrid and self.candidate_search != "nearest":
            raise ArgumentError(
                f"second_retriever needs candidate_search 'nearest', got {self.candidate_search!r}"
            )
        if self.is_hybrid and self.method is not choose_for_retrieval:
            raise ArgumentError(
                "second_retriever needs search_type 'sift': other searches compare vectors alone, "
                "and would ignore its order"
            )

    def _check_residual(self) -> None:
        if self.selection.kernel != "linear":
            raise ArgumentError(
                "candidate_search 'residual' needs the kernel 'linear', got "
                f"{self.selection.kernel!r}: its directions are those of the linear kernel"
            )
        names = [
            *self.constraints.names,
            *(["docstore"] if self.parents else []),
            *(["second_retriever"] if self.is_hybrid else []),
        ]
        if names:
            raise ArgumentError(
                f"candidate_search 'residual' takes no {' and no '.join(names)}: use 'nearest'"
            )


def merge_settings(
    search_type: str,
    *,
    fields: Mapping[str, Any],
    search_kwargs: Mapping[str, Any],
    call: Mapping[str, Any],
    adapter: AnyAdapter,
    embeddings: object,
    require_filter: bool,
    parents: Parents | None = None,
    is_hybrid: bool = False,
) -> RetrievalSettings:
    """Merge the settings of a retriever and of a call, and check them.

    Args:
        search_type: One of `SEARCH_TYPES`.
        fields: A value for each of `FIELDS`; `k` may be missing.
        search_kwargs: Settings, and keyword arguments of the store's search.
        call: Settings and keyword arguments of the call.
        adapter: The store's adapter, which knows the arguments of its search.
        embeddings: The embeddings of the query, which may have default settings.
        require_filter: If True, `search_kwargs` must have a filter, and the filter of the call
            is joined to it.
        parents: The docstore of parents.
        is_hybrid: True if there is a second retriever.

    Raises:
        ArgumentError: If a setting is unknown or out of range.
        InvalidFilter: If the required filter is missing, or names no allowed value.
    """
    check_search_type(search_type)
    names = [*FIELDS, "replace", *(["lambda_mult"] if search_type == "mmr" else [])]
    merged = {"replace": False, **fields, **search_kwargs, **call}
    search = {name: value for name, value in merged.items() if name not in names}
    for name in search:
        if (instead := _instead_of(name, names, adapter)) is not None:
            raise ArgumentError(
                f"{name!r} is no setting of a {search_type!r} search in {adapter.label}: {instead}"
            )
    values = {name: merged[name] for name in names if name in merged}
    settings = _check(search_type, **with_defaults(values, embeddings))
    if search.setdefault("filter", None) == {}:
        search["filter"] = None
    if require_filter:
        search["filter"] = narrow_filter(search_kwargs.get("filter"), call.get("filter"), adapter)
    return replace(settings, search=search, parents=parents, is_hybrid=is_hybrid)


def _instead_of(name: str, names: Sequence[str], adapter: AnyAdapter) -> str | None:
    """Return what to use in place of a setting that does not exist; None if it may exist.

    A store whose arguments are not known may ignore those that it does not have, so a name that
    is close to one of `names` is refused there, too.
    """
    known = adapter.search_arguments
    if name in (known or ()):
        return None
    if (instead := _INSTEAD.get(name)) is not None:
        return instead
    if alike := get_close_matches(name, names, n=1, cutoff=0.85):
        return f"did you mean {alike[0]!r}?"
    return None if known is None else f"use one of {[*names, *known]}"


def check_search_type(search_type: str) -> None:
    """Check that there is such a search type.

    Raises:
        ArgumentError: If there is none; for LangChain's search by a threshold the message names
            what takes its place.
    """
    if search_type == "similarity_score_threshold":
        raise ArgumentError(
            f"search_type {search_type!r} is none of {list(SEARCH_TYPES)}: {_INSTEAD_OF_THRESHOLD}"
        )
    check_choice("search_type", search_type, SEARCH_TYPES)


def with_defaults(values: Mapping[str, Any], embeddings: object) -> Mapping[str, Any]:
    """Return the settings of a retrieval, with values for those that are None or missing."""
    is_residual = values.get("candidate_search") == "residual"
    kernel = kernel_settings(
        embeddings,
        kernel=values.get("kernel") or ("linear" if is_residual else None),
        length_scale=values.get("length_scale"),
        noise_variance=values.get("noise_variance"),
    )
    k = values.get("k")
    if k is None:
        k = values["fetch_k"] if values.get("max_tokens") else DEFAULT_K
    counter = values.get("token_counter")
    if counter is None and values.get("max_tokens") is not None:
        counter = tokenizer_of(embeddings)
    return {**values, "k": k, **asdict(kernel), "token_counter": counter}


def _check(search_type: str, *, token_counter: object, **values: Hashable) -> RetrievalSettings:
    try:
        settings = _check_once(search_type, **values)
    except TypeError:  # a value that cannot be hashed; the check names it
        settings = _check_once.__wrapped__(search_type, **values)
    if token_counter is None:
        return settings
    # Not in the cache, which would keep it in memory: it may be a whole chat model.
    constraints = replace(settings.constraints, token_counter=token_counter)
    return replace(settings, constraints=constraints)


@lru_cache(maxsize=256, typed=True)  # the settings of a retriever seldom change between calls
def _check_once(
    search_type: str,
    *,
    k: Any,
    fetch_k: Any,
    candidate_search: Any,
    step_fetch_k: Any,
    timeout: Any,
    replace: Any,
    lambda_mult: Any = None,
    **others: Any,
) -> RetrievalSettings:
    for name, count in (("k", k), ("fetch_k", fetch_k), ("step_fetch_k", step_fetch_k)):
        check_count(name, count)
        if count >= _MOST_ROWS:
            raise ArgumentError(
                f"{name} must be below 2**31, got {count}: pass the number of documents that you "
                "need"
            )
    if np.ndim(others["noise_variance"]):
        raise ArgumentError("noise_variance must be one number; score_key makes one per document")
    method = SEARCH_TYPES[search_type]
    if lambda_mult is not None:
        check_lambda_mult(lambda_mult)
        method = partial(choose_by_relevance, lambda_mult=lambda_mult)
    if not isinstance(replace, bool):
        raise ArgumentError(f"replace must be True or False, got {replace!r}")
    if others["score_key"] is not None and search_type != "sift":
        raise ArgumentError(
            f"score_key needs search_type 'sift', got {search_type!r}, which knows no relevance"
        )
    if candidate_search == "residual" and search_type != "sift":
        raise ArgumentError(
            f"candidate_search 'residual' needs search_type 'sift', got {search_type!r}"
        )
    return RetrievalSettings(
        method=method,
        selection=SelectionSettings(
            k=int(k),  # a store's client may not know NumPy's integers
            replace=replace and search_type != "similarity",  # a repeat is no neighbour
            **{name: others[name] for name in SELECTION_FIELDS},
        ),
        # A store's client may not know NumPy's integers.
        fetch_k=max(int(fetch_k), int(k)),
        constraints=Constraints(
            **{name: others[name] for name in CONSTRAINTS if name != "token_counter"}
        ),
        candidate_search=candidate_search,
        step_fetch_k=int(step_fetch_k),
        timeout=timeout,
    )


def check_fields(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Check that the model has all these fields.

    Raises:
        ArgumentError: If it lacks a field; the message lists its fields.
    """
    for name in values:
        if name in model.model_fields:
            continue
        if name in _SEARCH_ARGUMENTS:
            raise ArgumentError(
                f"{name!r} is no setting of {model.__name__}: write search_kwargs={{{name!r}: ...}}"
            )
        raise ArgumentError(
            f"{name!r} is no setting of {model.__name__}: use one of {[*model.model_fields]}"
        )
