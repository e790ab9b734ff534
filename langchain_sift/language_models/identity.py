"""Make cache keys for objects."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Mapping

from langchain_core.documents import Document

# The identifiers of live objects, by their addresses. Not a WeakKeyDictionary: many objects have
# no hash, or are equal to others.
_identifiers: dict[int, str] = {}


def identifier_of(value: object) -> str:
    """Return an identifier that no other object has, in this process or in others."""
    if id(value) not in _identifiers:
        identifier = uuid.uuid4().hex
        try:
            weakref.finalize(value, _identifiers.pop, id(value), None).atexit = False
        except TypeError:
            # Its end cannot be observed, and its address may be used again: do not keep it.
            return identifier
        _identifiers.setdefault(id(value), identifier)
    return _identifiers[id(value)]


def cache_key(value: object) -> object:
    """Return a cache key for a value: text, numbers and documents by value, others by identity.

    The key's `repr` is unique. A `repr` of the value alone is not: two closures may have the same,
    and two objects may have the same address, one after the other. It is part of the key, because
    it shows the fields that were changed since.
    """
    if isinstance(value, Mapping):
        return {key: cache_key(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cache_key(item) for item in value]
    if value is None or isinstance(value, str | int | float | Document):
        return value
    return f"{identifier_of(value)} {value!r}"
