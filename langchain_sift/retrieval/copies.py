"""Copy or pickle a component, with the objects that it works with."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from contextlib import suppress

from langchain_core.vectorstores import VectorStore


def shared_parts(fields: Mapping[str, object], memo: dict[int, object] | None) -> dict[int, object]:
    """Return a memo for `copy.deepcopy` that copies a component's settings alone.

    The copy shares models, stores, caches and handlers: some are connections or locks, which
    cannot be copied, and none of them is changed through the component.

    Args:
        fields: The fields of the component.
        memo: The memo of the copy that this one is part of. None means that it is part of none.
    """
    memo = {} if memo is None else memo
    for value in fields.values():
        items: Iterable[object] = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if not isinstance(item, list | dict | set):
                memo[id(item)] = item
    return memo


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, part: bytes | memoryview) -> int:
        """Return the length of what is not kept."""
        return len(part)


def check_pickled(vectorstore: VectorStore) -> None:
    """Check that the store of a retriever can be pickled, as one in memory can.

    Raises:
        TypeError: If it holds what no process can give to another, such as a connection.
    """
    # Errors of other types are of a class or a function that cannot be imported by its name. They
    # name it, and Ray's pickle takes it.
    with suppress(pickle.PicklingError, AttributeError):
        try:
            pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(vectorstore)
        except TypeError as error:
            raise TypeError(
                f"a SIFTRetriever on a {type(vectorstore).__name__} cannot be pickled: open the "
                "store and make the retriever in the process that uses it"
            ) from error
