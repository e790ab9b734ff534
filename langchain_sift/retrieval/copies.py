"""Copy the settings of a component, and share what it works with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


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
