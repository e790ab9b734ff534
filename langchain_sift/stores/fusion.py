"""Join the candidates of a store with the documents of a second retriever.

Axes: n candidates, m query vectors, d dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from langchain_core.documents import Document

from langchain_sift.errors import InvalidFilter, StoreError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.candidates import CandidatePool, Candidates, nearest_pool
from langchain_sift.stores.interface import ById, Lookup, Rows, Search, Source
from langchain_sift.stores.unit_vectors import with_units

RANK_CONSTANT = 60
"""k of reciprocal rank fusion, 1 / (k + rank): Cormack, Clarke & Buettcher (SIGIR 2009)."""


@dataclass(frozen=True, slots=True)
class SecondSearch:
    """The documents that a second retriever returned for a query."""

    rankings: tuple[tuple[Document, ...], ...]
    """For each part of the query, the documents from best to worst."""

    embeddings: Source | None
    """Embeds the texts of documents that the store does not hold. None leaves them out."""


def hybrid_candidates(
    queries: Array, units: Array, second: SecondSearch, *, fetch_k: int, is_restricted: bool
) -> Search[Candidates]:
    """Fetch the rows nearest to each query vector, and fuse them with a second search.

    A document of the second search stands for the row of the store with its id, or with its
    text. The store returns these rows under the filter of the search, so a document that the
    filter excludes is never a candidate. Other documents are embedded, if there is no filter.

    Args:
        queries: As in `nearest_candidates`.
        units: As in `nearest_candidates`.
        second: The second search; the first `fetch_k` documents of each ranking count. If none
            is a candidate, the result is that of `nearest_candidates`.
        fetch_k: Maximum number of candidates for each query vector.
        is_restricted: True if the search has a filter.

    Raises:
        InvalidFilter: If there is a filter, and a document has no id or the adapter cannot read
            rows by id.
    """
    pool = yield from nearest_pool(queries, units, fetch_k=fetch_k)
    dense = pool.candidates()
    rankings = [ranking[:fetch_k] for ranking in second.rankings]
    documents = [document for ranking in rankings for document in ranking]
    if not documents:
        return dense
    text_of = yield from _add_stored(pool, dense, documents, is_restricted=is_restricted)
    if second.embeddings is not None and not is_restricted:
        yield from _add_embedded(pool, documents, text_of, second.embeddings, queries.shape[1])
    candidates = pool.candidates()
    texts = [[text_of.get(d.id or "", d.page_content) for d in ranking] for ranking in rankings]
    second_ranks = _ranks_of_texts(candidates, texts)
    if not np.isfinite(second_ranks).any():
        return dense
    scores = fused_scores(_dense_ranks(dense, units, len(second_ranks)), second_ranks)
    best_first = np.argsort(-scores, kind="stable")[: fetch_k * len(queries)]
    return replace(candidates, relevance=scores / scores.max()).take(best_first)


def fused_scores(*ranks: Array) -> Array:
    """Return the scores of reciprocal rank fusion, shape (n,).

    Args:
        *ranks: The rank of each document in a list, from 1, shape (n,); infinite if the list
            lacks it.
    """
    scores: Array = sum(1.0 / (RANK_CONSTANT + each) for each in ranks)  # type: ignore[assignment]
    return scores


def _add_stored(
    pool: CandidatePool,
    dense: Candidates,
    documents: Sequence[Document],
    *,
    is_restricted: bool,
) -> Search[Mapping[str, str]]:
    """Add the rows of the documents' ids to the pool; return the stored text of each id."""
    nameless = sum(document.id is None for document in documents)
    if is_restricted and nameless:
        raise InvalidFilter(
            f"{nameless} of {len(documents)} documents of the second retriever have no id, so the "
            "store cannot check them against the filter: give them the ids of the store"
        )
    text_of = {d.id: d.page_content for d in dense.documents if d.id is not None}
    named = (document.id for document in documents if document.id is not None)
    ids = {id_: rank for rank, id_ in enumerate(dict.fromkeys(named)) if id_ not in text_of}
    if not ids:
        return text_of
    rows: Rows | None = yield ById(tuple(ids))
    if rows is None:
        if is_restricted:
            raise InvalidFilter(
                "the adapter of the store cannot read rows by id, so the documents of the second "
                "retriever cannot be checked against the filter: add by_ids to the adapter"
            )
        return text_of
    # The answer may have the rows of other queries too.
    own = {id_: row for row, d in enumerate(rows.documents) if (id_ := d.id or "") in ids}
    rows = rows.take([own[id_] for id_ in sorted(own, key=ids.__getitem__)])
    usable, vectors = with_units(rows, dense.embeddings.shape[1])
    pool.add(usable.documents, vectors)
    return {**text_of, **{d.id: d.page_content for d in rows.documents if d.id is not None}}


def _add_embedded(
    pool: CandidatePool,
    documents: Sequence[Document],
    text_of: Mapping[str, str],
    embeddings: Source,
    dimensions: int,
) -> Search[None]:
    """Embed the documents that the store does not hold, each text once, and add them."""
    new: dict[str, Document] = {}
    for document in documents:
        if document.id not in text_of and document.page_content not in pool:
            new.setdefault(document.page_content, document)
    if not new:
        return
    by_text: Mapping[str, Sequence[float]] = yield Lookup(embeddings, tuple(new))
    matrix = np.array([by_text[text] for text in new], dtype=np.float64)
    found, vectors = with_units(Rows([*new.values()], matrix, len(new)), dimensions)
    pool.add(found.documents, vectors)


def _dense_ranks(dense: Candidates, units: Array, count: int) -> Array:
    """Return the best rank of each candidate over the query vectors, shape (n,)."""
    ranks = np.full(count, np.inf)
    if dense.documents:
        # The products of equal vectors may differ in their last bits.
        order = np.argsort(-np.round(dense.embeddings @ units.T, 9), axis=0, kind="stable")
        positions = np.argsort(order, axis=0)  # the inverse permutation
        ranks[: len(dense.documents)] = positions.min(axis=1) + 1
    return ranks


def _ranks_of_texts(candidates: Candidates, rankings: Sequence[Sequence[str]]) -> Array:
    """Return the best rank of each candidate in some rankings of texts, shape (n,).

    Texts that are no candidates, and repeats, do not count.
    """
    row_of = {document.page_content: row for row, document in enumerate(candidates.documents)}
    ranks = np.full(len(row_of), np.inf)
    for texts in rankings:
        present = (row_of[text] for text in dict.fromkeys(texts) if text in row_of)
        for rank, row in enumerate(present, start=1):
            ranks[row] = min(ranks[row], rank)
    return ranks


def embeddings_source(embeddings: object) -> Source:
    """Return the source of vectors of texts.

    Args:
        embeddings: LangChain's `Embeddings`. None is an error if a text is to be embedded.
    """
    if embeddings is None:
        return Source("the second retriever", _refuse, _arefuse)
    return Source(
        f"embeddings {type(embeddings).__name__}",
        embeddings.embed_documents,  # type: ignore[attr-defined]
        embeddings.aembed_documents,  # type: ignore[attr-defined]
    )


def _refuse(texts: list[str]) -> Sequence[Sequence[float]]:
    raise StoreError(
        f"the store has no embedding function, and does not hold {len(texts)} documents of the "
        "second retriever: pass embedding_function=... when you open it"
    )


async def _arefuse(texts: list[str]) -> Sequence[Sequence[float]]:
    return _refuse(texts)
