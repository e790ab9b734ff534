"""Convert the responses of Chroma to rows, and name the rows that its calls are to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_sift.stores.adapters.chroma_filters import Arguments
from langchain_sift.stores.interface import ROWS_PER_CALL, Rows

Response = Mapping[str, Any]
"""The response of `Collection.query` or `Collection.get`: columns by name."""

INCLUDE: Any = ["documents", "metadatas", "embeddings"]


def parts_of(ids: Sequence[str]) -> list[list[str]]:
    """Divide ids into lists of a length that one call may have."""
    starts = range(0, len(ids), ROWS_PER_CALL)
    return [list(ids[start : start + ROWS_PER_CALL]) for start in starts]


def page_arguments(cursor: int | None, size: int, conditions: Arguments) -> Arguments:
    """Return the arguments of `Collection.get` for the rows after the cursor."""
    return {"limit": size, "offset": cursor or 0, "include": INCLUDE, **conditions}


def id_arguments(ids: Sequence[str], conditions: Arguments) -> Arguments:
    """Return the arguments of `Collection.get` for the rows of these ids."""
    return {"ids": list(ids), "include": INCLUDE, **conditions}


def page_of(response: Response, cursor: int | None, size: int) -> tuple[Rows, int | None]:
    """Convert the response of `Collection.get` to rows and the next cursor, None at the end."""
    rows = rows_of(response)
    return rows, (cursor or 0) + size if rows.seen == size else None


def rows_of(response: Response) -> Rows:
    """Convert the response of `Collection.get`."""
    vectors = response["embeddings"] if response["embeddings"] is not None else []
    return rows_of_columns(
        response["ids"], response["documents"] or [], response["metadatas"] or [], vectors
    )


def distribute(response: Response, parts: Sequence[Response]) -> list[Rows]:
    """Return the rows of each direction; rows deleted meanwhile are left out."""
    rows = Rows.joined([rows_of(part) for part in parts])
    row_of = {document.id: row for row, document in enumerate(rows.documents)}
    answers = []
    for ids in response["ids"]:
        kept = rows.take([row_of[id_] for id_ in ids if id_ in row_of])
        answers.append(replace(kept, seen=len(ids)))
    return answers


def rows_of_columns(
    ids: Sequence[str],
    texts: Sequence[str | None],
    metadatas: Sequence[Mapping[str, Any] | None],
    vectors: Any,
) -> Rows:
    """Convert the columns of an answer."""
    # A row without a text is no document; Chroma returns None for it.
    kept = [row for row, text in enumerate(texts) if text is not None]
    documents = [
        Document(id=ids[row], page_content=texts[row] or "", metadata=dict(metadatas[row] or {}))
        for row in kept
    ]
    matrix = np.asarray(vectors, dtype=np.float64)
    if len(kept) < len(ids):
        matrix = matrix[kept]
    return Rows(documents, matrix if kept else np.empty((0, 0)), seen=len(ids))
