"""Three ways to find the candidates: the neighbours, every row, or what is still missing.

Each is a generator that yields requests and is sent their answers, so that the same lines serve
a store that is asked by a thread, one that is asked by coroutines, and many queries at once.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import Selection
from langchain_sift.selection.residual import residual_steps
from langchain_sift.stores.candidates import (
    CandidatePool,
    Candidates,
    normalized,
    unit_rows,
)
from langchain_sift.stores.interface import Nearest, Page, Rows

# A store may hold a text many times over. To find `fetch_k` different texts, at most so many
# times as many rows are read.
_MOST_COPIES = 16
# How many opposite neighbours are looked at first: most embeddings have none that matter.
_FIRST_OPPOSITE = 1
# What Chroma Cloud gives at once.
_PAGE_SIZE = 300


@dataclass(frozen=True, slots=True)
class _Neighbors:
    """Rows beside the direction that they were found in."""

    documents: list[Document]
    units: Array
    cosines: Array
    seen: int


def nearest_candidates(
    queries: Array, *, fetch_k: int, opposite: bool
) -> Generator[Nearest | Page, Any, Candidates]:
    """Find the rows nearest to each query, and unite them.

    Args:
        queries: Shape (m, d), of any length but zero. A store that compares by distance is asked
            with vectors as long as these: of unit norm, they would be nearest to short rows.
        fetch_k: How many different texts for each query.
        opposite: Whether nearness is |cos|: SIFT learns as much from -x as from x, and the
            paper's own pre-selection takes both. Otherwise it is the cosine.
    """
    pool = CandidatePool(queries.shape[1])
    found = yield from _neighbors(queries, fetch_k)
    if opposite:
        found = yield from _with_opposite(queries, found, fetch_k)
    for neighbors in found:
        _add_nearest_first(pool, neighbors, limit=fetch_k, absolute=opposite)
    return pool.candidates()


def every_candidate(dimensions: int) -> Generator[Nearest | Page, Any, Candidates]:
    """Read all rows of the store, page by page."""
    pool = CandidatePool(dimensions)
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, _PAGE_SIZE)
        pool.add(rows.documents, _units(rows, dimensions))
        if cursor is None:
            return pool.candidates()


def residual_candidates(
    queries: Array, *, step_fetch_k: int, **arguments: Any
) -> Generator[Nearest | Page, Any, tuple[Candidates, Selection]]:
    """Find candidates before each choice, and choose; see `select_residual`.

    Args:
        queries: As in `nearest_candidates`.
        step_fetch_k: As in `select_residual`.
        **arguments: Those of `select`.
    """
    pool = CandidatePool(queries.shape[1])
    length = np.linalg.norm(queries, axis=1).mean()
    steps = residual_steps(normalized(queries), step_fetch_k=step_fetch_k, **arguments)
    directions, count = next(steps)
    while True:
        found = yield from _neighbors(length * directions, count)
        new = [
            _add_nearest_first(pool, neighbors, limit=count, absolute=False) for neighbors in found
        ]
        try:
            directions, count = steps.send(np.concatenate([np.empty((0, queries.shape[1])), *new]))
        except StopIteration as end:
            return pool.candidates(), end.value


def _neighbors(directions: Array, count: int) -> Generator[Nearest | Page, Any, list[_Neighbors]]:
    """Ask for rows until each direction has `count` different texts or the store has no more."""
    if not len(directions):
        return []
    asked = count
    answers: list[Rows] = yield Nearest(directions, asked)
    while asked < _MOST_COPIES * count:
        short = [
            place
            for place, rows in enumerate(answers)
            if rows.seen >= asked and len({d.page_content for d in rows.documents}) < count
        ]
        if not short:
            break
        asked *= 4
        more: list[Rows] = yield Nearest(directions[short], asked)
        for place, rows in zip(short, more, strict=True):
            answers[place] = rows
    return [_beside(*pair) for pair in zip(directions, answers, strict=True)]


def _with_opposite(
    queries: Array, found: list[_Neighbors], fetch_k: int
) -> Generator[Nearest | Page, Any, list[_Neighbors]]:
    """Add to the neighbours of each query the rows that are farther out on the other side."""
    nearest, found = found, list(found)
    # Where there were fewer than asked for, the whole store is among them.
    waiting = [place for place, neighbors in enumerate(nearest) if neighbors.seen >= fetch_k]
    asked = _FIRST_OPPOSITE
    while waiting:
        answers: list[Rows] = yield Nearest(-queries[waiting], asked)
        unfinished = []
        for place, rows in zip(waiting, answers, strict=True):
            near, opposite = nearest[place], _beside(queries[place], rows)
            farther = np.abs(opposite.cosines) > np.min(np.abs(near.cosines), initial=1.0)
            found[place] = _united(near, opposite, np.flatnonzero(farther))
            texts = {document.page_content for document in opposite.documents}
            if rows.seen >= asked and np.all(farther) and len(texts) < fetch_k:
                unfinished.append(place)
        waiting = unfinished if asked < _MOST_COPIES * fetch_k else []
        asked = min(8 * asked, fetch_k) if asked < fetch_k else 4 * asked
    return found


def _add_nearest_first(
    pool: CandidatePool, neighbors: _Neighbors, *, limit: int, absolute: bool
) -> Array:
    """Add by the stored vectors alone, whatever the store's metric; equal ones by id."""
    documents = neighbors.documents
    nearness = np.abs(neighbors.cosines) if absolute else neighbors.cosines
    # Equal vectors may differ in the last bits of their products.
    rank = np.round(-nearness, 9).tolist()
    order = sorted(range(len(documents)), key=lambda row: (rank[row], documents[row].id or ""))
    if order == list(range(len(documents))):
        return pool.add(documents, neighbors.units, limit=limit)
    return pool.add([documents[row] for row in order], neighbors.units[order], limit=limit)


def _beside(direction: Array, rows: Rows) -> _Neighbors:
    units = _units(rows, len(direction))
    # Row by row: a product with a matrix wakes BLAS' other threads, which takes longer.
    cosines = np.vecdot(units, direction) / np.linalg.norm(direction)
    return _Neighbors(list(rows.documents), units, cosines, rows.seen)


def _units(rows: Rows, dimensions: int) -> Array:
    if not rows.documents:
        return np.empty((0, dimensions))
    return unit_rows(rows.vectors, [document.id for document in rows.documents], dimensions)


def _united(near: _Neighbors, opposite: _Neighbors, places: Any) -> _Neighbors:
    return _Neighbors(
        near.documents + [opposite.documents[place] for place in places],
        np.concatenate([near.units, opposite.units[places]]),
        np.concatenate([near.cosines, opposite.cosines[places]]),
        near.seen,
    )
