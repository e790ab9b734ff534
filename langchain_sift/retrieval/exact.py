"""Choose among candidates in memory, with exact nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from langchain_sift.errors import DimensionMismatch
from langchain_sift.retrieval.choosing import Choice, retrieve
from langchain_sift.retrieval.queries import Query
from langchain_sift.retrieval.settings import RetrievalSettings
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.calls import answer_all
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.interface import Nearest, Request, Rows


class ExactIndex:
    """Candidates in memory that answer the requests of a search without a store.

    A comparison of methods must not depend on the luck of an approximate index.
    """

    def __init__(self, candidates: Candidates) -> None:
        """Take the candidates; nothing is copied."""
        self.candidates = candidates

    def answer(self, request: Request) -> list[Rows] | tuple[Candidates, None]:
        """Answer a request; the answer to a page is all candidates."""
        if isinstance(request, Nearest):
            return [self._rows(self.nearest(d, request.count)) for d in request.directions]
        return self.candidates, None

    def nearest(self, direction: Array, count: int) -> npt.NDArray[np.int64]:
        """Return the rows of the highest cosines with a direction, nearest first.

        Args:
            direction: Shape (d,), of any length but zero.
            count: Maximum number of rows; of equal cosines the first row wins.
        """
        products = self.candidates.embeddings @ direction
        if count < len(products):
            least = np.partition(products, -count)[-count]
            rows = np.flatnonzero(products >= least)
        else:
            rows = np.arange(len(products))
        nearest: npt.NDArray[np.int64] = rows[np.argsort(-products[rows], kind="stable")][:count]
        return nearest

    def rows_of(self, documents: Iterable[Document]) -> npt.NDArray[np.int64]:
        """Return the rows of documents of the index."""
        texts = [document.page_content for document in documents]
        return np.array([self._row_of[text] for text in texts], dtype=np.int64)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {
            document.page_content: row for row, document in enumerate(self.candidates.documents)
        }

    def _rows(self, rows: npt.NDArray[np.int64]) -> Rows:
        documents = [self.candidates.documents[row] for row in rows.tolist()]
        vectors = self.candidates.embeddings[rows]
        return Rows(documents, vectors, len(documents), are_units=True)


def choose_exactly(index: ExactIndex, settings: RetrievalSettings, queries: Array) -> Choice:
    """Choose among candidates in memory, with exact neighbours and without a store.

    Args:
        index: The candidates.
        settings: The settings of the retrieval; `timeout` and `search` have no effect.
        queries: The vectors of the query, shape (m, d), of any length but zero.

    Returns:
        The choice; its indices are rows of the index.

    Raises:
        EmbeddingError: If a vector of the query is zero or not finite, or the stored
            vectors have other dimensions.
    """
    dimensions = index.candidates.embeddings.shape[1]
    if queries.shape[1] != dimensions:
        raise DimensionMismatch(
            f"the query has {queries.shape[1]} dimensions and the candidates have {dimensions}: "
            "embed both with the same model"
        )
    choice = answer_all(retrieve(Query(queries), settings), index.answer)
    if choice.candidates is index.candidates:
        return choice
    documents = [choice.candidates.documents[row] for row in choice.selection.indices]
    selection = replace(choice.selection, indices=index.rows_of(documents))
    return replace(choice, candidates=index.candidates, selection=selection)
