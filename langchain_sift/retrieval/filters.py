"""Join the filter of a call with a required one, such as a tenant's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from langchain_sift.errors import InvalidFilter
from langchain_sift.stores.interface import AnyAdapter


def narrow_filter(required: Any, requested: Any, adapter: AnyAdapter) -> Any:
    """Join a required filter, such as a tenant's, with the filter that a call requests.

    Args:
        required: The filter that every search must have.
        requested: The filter of the call. None or {} changes nothing.
        adapter: The store's adapter, which joins the filters.

    Raises:
        InvalidFilter: If the required filter is missing, or names no allowed value.
    """
    if not required:
        raise InvalidFilter(
            "require_filter is set, and search_kwargs has no filter: nothing was searched"
        )
    _check_required(required)
    return required if requested in (None, {}) else adapter.conjunction(required, requested)


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
