"""From the vectors of a query to scored documents."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document

from langchain_sift.selection import Selection, Selector
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.candidates import Candidates, normalized
from langchain_sift.stores.interface import Nearest, Page
from langchain_sift.stores.searching import (
    every_candidate,
    nearest_candidates,
    residual_candidates,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen from what."""

    candidates: Candidates
    selection: Selection

    @property
    def documents(self) -> list[Document]:
        """The documents, in the order of choice."""
        return [self.candidates.documents[index] for index in self.selection.indices]


def retrieve(
    queries: Array,
    *,
    selector: Selector,
    candidate_search: str,
    fetch_k: int,
    step_fetch_k: int,
    **arguments: Any,
) -> Generator[Nearest | Page, Any, Choice]:
    """Find candidates and choose; a generator of requests to the store.

    Args:
        queries: Shape (m, d), as they were embedded.
        selector: The method.
        candidate_search: One of `CANDIDATE_SEARCHES`; "residual" chooses with SIFT.
        fetch_k: Candidates for each query vector, for "nearest" and "absolute".
        step_fetch_k: As in `select_residual`, for "residual".
        **arguments: The selector's.
    """
    if candidate_search == "residual":
        candidates, selection = yield from residual_candidates(
            queries, step_fetch_k=step_fetch_k, **arguments
        )
        return Choice(candidates, selection)
    if candidate_search == "exhaustive":
        candidates = yield from every_candidate(queries.shape[1])
    else:
        candidates = yield from nearest_candidates(
            queries, fetch_k=fetch_k, opposite=candidate_search == "absolute"
        )
    return Choice(candidates, selector(normalized(queries), candidates.embeddings, **arguments))
