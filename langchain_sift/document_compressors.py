"""`SIFTReranker`: SIFT over the documents of any other retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import ConfigDict, Field, StrictInt, model_validator

from langchain_sift.errors import ArgumentError, DimensionMismatch, EmbeddingError
from langchain_sift.retrieval.scores import write_gains
from langchain_sift.retrieval.settings import check_fields, noise_variance_for
from langchain_sift.selection import select
from langchain_sift.selection.arguments import Array, check_arguments
from langchain_sift.stores.candidates import CandidatePool, unit_rows, unit_vector


class SIFTReranker(BaseDocumentCompressor):
    """Chooses, of the documents of another retriever, those that reduce the uncertainty most.

    For what has no vectors to give: a keyword search, an ensemble, a web search. The documents
    are embedded together with the query, unless `vector_key` says where their vectors are. On a
    vector store `SIFTRetriever` does the same without embedding anything again.

    Instantiate:
        ```python
        from langchain_classic.retrievers import ContextualCompressionRetriever
        from langchain_sift import SIFTReranker

        retriever = ContextualCompressionRetriever(
            base_compressor=SIFTReranker(embeddings=embeddings, top_n=5),
            base_retriever=other_retriever,
        )
        ```

    Documents of identical text count as one. Ids and metadata are kept; the documents given are
    not changed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embeddings: Embeddings = Field(repr=False)  # theirs may show a key
    """Embeds the query, and the documents where they bring no vectors."""

    top_n: StrictInt = 4
    """How many documents to keep at most."""

    noise_variance: float = 0.01
    """The paper's λ'; where it is not given, as in `SIFTRetriever` that of the embeddings."""

    stopping_alpha: float | None = None
    """The paper's α: fewer documents for easy queries. Larger stops earlier; None never."""

    score_key: str | None = None
    """Under this key a document's gain is written to its metadata; None writes nothing."""

    vector_key: str | None = None
    """Under this key of its metadata a document brings its vector, which is taken out. It has to
    come from the same `embeddings`. Documents without it are embedded."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_fields(cls, values)
        return {"noise_variance": noise_variance_for(values.get("embeddings")), **values}

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.top_n < 1:
            raise ArgumentError(f"top_n must be an integer of at least 1, got {self.top_n}")
        check_arguments(self.top_n, self.noise_variance, self.stopping_alpha)
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return at most `top_n` of the documents, most informative first.

        Args:
            documents: From any retriever.
            query: What they were retrieved for.
            callbacks: Not used: embeddings report to none.

        Raises:
            EmbeddingError: If a vector is zero, not finite, or of the wrong dimension.
        """
        del callbacks
        if not documents:
            return []
        query_embedding = self.embeddings.embed_query(query)
        documents, given, texts = self._vectors_given(documents)
        # Some services take no empty list.
        embedded = self.embeddings.embed_documents(texts) if texts else []
        return self._choose(documents, query_embedding, given, texts, embedded)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Do as `compress_documents` does, without blocking the event loop."""
        del callbacks
        if not documents:
            return []
        query_embedding = await self.embeddings.aembed_query(query)
        documents, given, texts = self._vectors_given(documents)
        embedded = await self.embeddings.aembed_documents(texts) if texts else []
        return await run_in_executor(
            None, self._choose, documents, query_embedding, given, texts, embedded
        )

    def _vectors_given(
        self, documents: Sequence[Document]
    ) -> tuple[list[Document], dict[int, Any], list[str]]:
        """Return documents without their vectors, the vectors by place, and texts that lack one."""
        kept: list[Document] = []
        given: dict[int, Any] = {}
        texts: dict[str, None] = {}  # each once, in their order
        for place, document in enumerate(documents):
            if self.vector_key is None or self.vector_key not in document.metadata:
                kept.append(document)
                texts[document.page_content] = None
                continue
            metadata = dict(document.metadata)
            given[place] = metadata.pop(self.vector_key)
            kept.append(document.model_copy(update={"metadata": metadata}))
        return kept, given, list(texts)

    def _choose(
        self,
        documents: Sequence[Document],
        query_embedding: Sequence[float],
        given: dict[int, Any],
        texts: Sequence[str],
        embedded: Sequence[Sequence[float]],
    ) -> list[Document]:
        query = unit_vector(_matrix([query_embedding])[0])
        if len(embedded) != len(texts):
            raise EmbeddingError(
                f"the embeddings returned {len(embedded)} vectors for {len(texts)} texts"
            )
        by_text = dict(zip(texts, embedded, strict=True))
        vectors = [
            given[place] if place in given else by_text[document.page_content]
            for place, document in enumerate(documents)
        ]
        pool = CandidatePool(len(query))
        pool.add(documents, _units(documents, _matrix(vectors), len(query)))
        candidates = pool.candidates()
        selection = select(
            query,
            candidates.embeddings,
            k=self.top_n,
            noise_variance=self.noise_variance,
            stopping_alpha=self.stopping_alpha,
        )
        chosen = candidates.copy_documents(selection.indices.tolist())
        if self.score_key is not None:
            write_gains(chosen, selection.gains.tolist(), self.score_key)
        return chosen


def _units(documents: Sequence[Document], vectors: Array, dimensions: int) -> Array:
    if vectors.shape[1] != dimensions:
        raise DimensionMismatch(
            f"the query has {dimensions} dimensions and the documents have {vectors.shape[1]}: "
            "embed both with the same model"
        )
    names = [document.id or f"document {place}" for place, document in enumerate(documents)]
    return unit_rows(vectors, names, dimensions)


def _matrix(vectors: Sequence[Any]) -> Array:
    msg = "vectors must be lists of numbers, all of one length"
    try:
        matrix = np.array([np.asarray(vector, dtype=np.float64) for vector in vectors])
    except (TypeError, ValueError) as error:
        raise EmbeddingError(msg) from error
    if matrix.ndim != 2:
        raise EmbeddingError(msg)
    return matrix
