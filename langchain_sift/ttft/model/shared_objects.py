"""Share objects that are slow to make between their users."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedObjects(Generic[T]):
    """A cache of shared objects, built once per key and dropped with the last user."""

    def __init__(self) -> None:
        """Begin without objects."""
        self._objects: weakref.WeakValueDictionary[Hashable, T] = weakref.WeakValueDictionary()
        self._locks: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the object of this key; one thread builds it, others with this key wait."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                shared = self._objects.get(key)
            if shared is None:
                shared = build()
                with self._guard:
                    self._objects[key] = shared
            return shared
