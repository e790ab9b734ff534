"""Turn the text of a query into vectors, and into the documents of a second retriever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import RetrieverLike

from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import Array
from langchain_sift.stores.calls import is_of_one_thread, of_one_thread
from langchain_sift.stores.embedding_calls import as_vectors
from langchain_sift.stores.fusion import SecondSearch
from langchain_sift.stores.interface import Source

Splitter = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query, ready for the search."""

    vectors: Array
    """Shape (m, d), as embedded."""

    second: SecondSearch | None = None
    """The documents of a second retriever. None if there is none."""


@dataclass(frozen=True, slots=True)
class QueryReader:
    """Embeds queries, and asks a second retriever."""

    embedder: Embeddings
    splitter: Splitter | None = None
    """Returns the parts of a query. None keeps it whole."""

    second_retriever: RetrieverLike | None = None
    embeddings: Source | None = None
    """Embeds documents of the second retriever that the store does not hold. None leaves them
    out."""

    def read(self, query: str) -> Query:
        """Embed each part of a query, and ask the second retriever for each.

        Raises:
            TypeError: If the query is not a string.
            ArgumentError: If the splitter returns no list of strings, or an empty one, or the
                second retriever no list of documents.
            EmbeddingError: If the vectors are not numbers, or of different dimensions.
        """
        parts, second = self._parts(query), self.second_retriever
        with _any_thread(self.embedder):
            vectors = as_vectors([self.embedder.embed_query(part) for part in parts])
        if second is None:
            return Query(vectors)
        with _any_thread(second):
            return self._query(vectors, [second.invoke(part) for part in parts])

    async def aread(self, query: str) -> Query:
        """Do as `read` does, without blocking the event loop."""
        # One part after another: `max_concurrency` of a batch counts queries.
        parts, second = self._parts(query), self.second_retriever
        with _any_thread(self.embedder):
            vectors = as_vectors([await self.embedder.aembed_query(part) for part in parts])
        if second is None:
            return Query(vectors)
        with _any_thread(second):
            return self._query(vectors, [await second.ainvoke(part) for part in parts])

    def _parts(self, query: str) -> Sequence[str]:
        check_query(query)
        if self.splitter is None:
            return [query]
        parts = self.splitter(query)
        is_list = isinstance(parts, Iterable) and not isinstance(parts, str)
        parts = list(parts) if is_list else []
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ArgumentError("query_splitter must return a list of at least one string")
        return parts

    def _query(self, vectors: Array, rankings: Sequence[Sequence[Document]]) -> Query:
        for ranking in rankings:
            is_list = isinstance(ranking, list | tuple)
            if not is_list or not all(isinstance(each, Document) for each in ranking):
                raise ArgumentError(
                    "second_retriever must return a list of documents, got a "
                    f"{type(ranking).__name__}"
                )
        named = tuple(tuple(map(_with_id, ranking)) for ranking in rankings)
        return Query(vectors, SecondSearch(named, self.embeddings))


def check_query(query: object) -> None:
    """Check that a query is a string.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(query, str):
        raise TypeError(
            f"the query must be a string, got {type(query).__name__}: in a chain of dictionaries, "
            "itemgetter('question') | retriever takes one entry"
        )


def _with_id(document: Document) -> Document:
    """Return a document with its id, which Qdrant's own retriever has in the metadata alone."""
    if document.id is None and {"_id", "_collection_name"} <= document.metadata.keys():
        return document.model_copy(update={"id": str(document.metadata["_id"])})
    return document


@contextmanager
def _any_thread(used: object) -> Iterator[None]:
    """Name the cure if an object can be used by the thread that made it only."""
    try:
        yield
    except Exception as error:
        if not is_of_one_thread(error):
            raise
        raise of_one_thread(f"the {type(used).__name__}") from error
