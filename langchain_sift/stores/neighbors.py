"""Search a store for the rows nearest to some directions, until there are enough texts."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from langchain_sift.errors import InvalidFilter, StoreError, StoreTimeout, StoreUnavailable
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.interface import ROWS_PER_CALL, Nearest, Rows, Search
from langchain_sift.stores.unit_vectors import texts_with_units

# A store may hold a text many times. To find `fetch_k` different texts, a search reads at most
# `fetch_k` times this many rows.
_MOST_COPIES = 16
# Searches beyond the limit of a store for one answer, each without the texts seen before.
_FURTHER_SEARCHES = 3


def different_texts(directions: Array, count: int) -> Search[list[Rows]]:
    """Request rows until each direction has `count` different texts or the store has no more.

    Only texts of rows that `with_units` keeps count. The search may end before, see
    `warn_of_limit`; and a store that limits its answers may have more texts than can be requested,
    see `Rows.limit`.

    Args:
        directions: Shape (j, d), to query the store with.
        count: Number of different texts for each direction.
    """
    if not len(directions):
        return []
    requested, most = count, _MOST_COPIES * count
    answers: list[Rows] = yield Nearest(directions, requested)
    while requested < most and (short := _short(answers, requested, count)):
        limit = answers[short[0]].limit
        more: list[Rows] = []
        if limit is None or requested < limit:
            requested = _next(requested, most)
            more = yield from _more(directions[short], requested)
        for index, rows in zip(short, more, strict=False):
            answers[index] = rows
        if not more:
            for index in short:
                answers[index] = yield from _beyond_limit(directions[index], answers[index], count)
            break
    return answers


def warn_of_limit(answers: Sequence[Rows], count: int) -> None:
    """Warn if a search ended at the most rows that it reads, with too few texts.

    Args:
        answers: The answers of `different_texts`.
        count: As there.
    """
    most = _MOST_COPIES * count
    if _short(answers, most, count):
        warnings.warn(
            f"the rows nearest to a query, at most {most}, have fewer than {count} different texts "
            "with a vector, and further rows are not read: remove copies, rows without a text and "
            "zero vectors from the store (`langchain-sift doctor` counts them), or raise fetch_k",
            UserWarning,
            stacklevel=2,
        )


def _short(answers: Sequence[Rows], requested: int, count: int) -> list[int]:
    """Return the indices of the answers with too few texts to which the store may add rows."""
    return [
        index
        for index, rows in enumerate(answers)
        if rows.seen >= requested and len(texts_with_units(rows)) < count
    ]


def _next(requested: int, most: int) -> int:
    """Return the number of rows to request next; one call within the usual limit comes first."""
    if requested < ROWS_PER_CALL < 4 * requested:
        return min(ROWS_PER_CALL, most)
    return min(4 * requested, most)


def _more(directions: Array, requested: int) -> Search[list[Rows]]:
    """Request this many rows, more than before; return none if the store refuses."""
    try:
        more: list[Rows] = yield Nearest(directions, requested)
    except (StoreUnavailable, StoreTimeout):
        raise
    except (InvalidFilter, StoreError):  # not the filter, with which the first search succeeded
        return []
    return more


def _beyond_limit(direction: Array, rows: Rows, count: int) -> Search[Rows]:
    """Request further rows, without the texts of those before, until there are `count` texts.

    Args:
        direction: Shape (d,), to query the store with.
        rows: The rows nearest to it, as many as the store allows in one answer.
        count: Number of different texts. There may be fewer, because a store can exclude only so
            many texts.
    """
    for _ in range(_FURTHER_SEARCHES):
        if len(texts_with_units(rows)) >= count:
            break
        copies = Counter(document.page_content for document in rows.documents)
        excluded = tuple(text for text, _ in copies.most_common())
        try:
            (more,) = yield Nearest(direction[None], rows.limit or ROWS_PER_CALL, excluded)
        except (InvalidFilter, StoreError):  # such as a store that cannot exclude texts
            break
        known = {document.id for document in rows.documents}
        new = [row for row, document in enumerate(more.documents) if document.id not in known]
        if not new:
            break
        rows = replace(
            rows,
            documents=[*rows.documents, *(more.documents[row] for row in new)],
            vectors=np.concatenate([rows.vectors, more.vectors[new]]),
        )
    return rows
