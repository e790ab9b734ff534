"""Many queries at once: what was chosen for each, and how it comes to the `invoke` of each."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_sift.retrieval.search import Choice, retrieve
from langchain_sift.retrieval.settings import Settings
from langchain_sift.selection.arguments import Array


@dataclass(frozen=True, slots=True)
class Made:
    """A choice with what an observer may want to know about it."""

    choice: Choice
    settings: Settings
    seconds: float

    def event(self) -> dict[str, Any]:
        """Return it as plain values: what "sift_selection" events tell."""
        selection, method = self.choice.selection, self.settings.method
        return {
            "ids": [document.id for document in self.choice.documents],
            "gains": selection.gains.tolist(),
            "posterior_variances": selection.posterior_variances.tolist(),
            "prior_variance": selection.prior_variance,
            "noise_variance": float(method["noise_variance"]),
            "candidate_search": method["candidate_search"],
            "fetch_k": method["fetch_k"],
            "candidates": len(self.choice.candidates.documents),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class _Prepared:
    retriever: object
    call: Mapping[str, Any]
    outcomes: dict[str, Made | Exception]


# `Runnable.batch` calls `invoke` for each query, with the callbacks that belong to it; what was
# chosen for all of them is handed down here.
_PREPARED: contextvars.ContextVar[_Prepared | None] = contextvars.ContextVar(
    "langchain_sift_prepared", default=None
)
# So many queries of a batch are answered together, within one timeout.
BATCH_SIZE = 64


@contextmanager
def preparing(
    retriever: object, call: Mapping[str, Any], outcomes: dict[str, Made | Exception]
) -> Iterator[None]:
    """Hand down, to each `invoke` of this call on this retriever, what was chosen for its query.

    No longer than the call: a task that was started meanwhile keeps the context.
    """
    token = _PREPARED.set(_Prepared(retriever, call, outcomes))
    try:
        yield
    finally:
        _PREPARED.reset(token)
        outcomes.clear()


def prepared(retriever: object, query: Any, call: Mapping[str, Any]) -> Made | None:
    """Return what `batch` has chosen for this query, if it is `batch` that asks."""
    handed_down = _PREPARED.get()
    if handed_down is None or handed_down.retriever is not retriever or handed_down.call != call:
        return None
    outcome = handed_down.outcomes.get(query) if isinstance(query, str) else None
    return None if outcome is None else successful(outcome)


def searches(
    queries: Sequence[Array | Exception], settings: Settings
) -> list[Generator[Any, Any, Choice]]:
    """Return a search for each query that could be embedded."""
    return [
        retrieve(query, **settings.method) for query in queries if not isinstance(query, Exception)
    ]


def merged(
    queries: Sequence[Array | Exception],
    outcomes: Sequence[Choice | Exception],
    settings: Settings,
    seconds: float,
) -> list[Made | Exception]:
    """Put the outcomes in the places of the queries that were searched for."""
    following = iter(outcomes)
    merged: list[Made | Exception] = []
    for query in queries:
        outcome = query if isinstance(query, Exception) else next(following)
        if isinstance(outcome, Exception):
            merged.append(outcome)
        else:
            merged.append(Made(outcome, settings, seconds))
    return merged


def successful(outcome: Made | Exception) -> Made:
    """Return the choice, or raise what stood in its way."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def different(inputs: Sequence[Any]) -> list[str]:
    """Return the queries, each once; what is no query `invoke` refuses."""
    return list(dict.fromkeys(query for query in inputs if isinstance(query, str)))


def or_error(function: Callable[[str], Array]) -> Callable[[str], Array | Exception]:
    """Return a function that returns its error: it is raised where the query's turn comes."""

    def returning(query: str) -> Array | Exception:
        try:
            return function(query)
        except Exception as error:  # noqa: BLE001 - the others go on
            return error

    return returning


async def aor_error(function: Callable[[str], Awaitable[Array]], query: str) -> Array | Exception:
    """Return the function's result, or its error."""
    try:
        return await function(query)
    except Exception as error:  # noqa: BLE001 - as above
        return error
