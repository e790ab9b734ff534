"""Choose with SIFT among the documents of any other retriever: `SIFTReranker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import ConfigDict, Field, StrictInt, model_validator

from langchain_sift.checks import check_count
from langchain_sift.errors import DimensionMismatch, EmbeddingError
from langchain_sift.retrieval.constraints import Constraints, prepare, similar_candidates
from langchain_sift.retrieval.copies import shared_parts
from langchain_sift.retrieval.queries import check_query
from langchain_sift.retrieval.scores import write_gains
from langchain_sift.retrieval.settings import (
    CONSTRAINTS,
    SELECTION_FIELDS,
    check_fields,
    with_defaults,
)
from langchain_sift.selection.arguments import Array, as_matrices
from langchain_sift.selection.opposites import choose_for_retrieval
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.candidates import CandidatePool
from langchain_sift.stores.interface import Rows
from langchain_sift.stores.unit_vectors import unit_vector, with_units


class SIFTReranker(BaseDocumentCompressor):
    """Keeps the documents of another retriever that most reduce the uncertainty about the query.

    For retrievers without vectors: a keyword search, an ensemble, a web search. The documents are
    embedded together with the query, unless their metadata contain vectors (`vector_key`). On a
    vector store use `SIFTRetriever`, which embeds no document again.

    Instantiate:
        ```python
        from langchain_classic.retrievers import ContextualCompressionRetriever
        from langchain_sift import SIFTReranker

        retriever = ContextualCompressionRetriever(
            base_compressor=SIFTReranker(embeddings=embeddings, top_n=5),
            base_retriever=other_retriever,
        )
        ```

    Documents of identical text count as one. Ids and metadata are kept, and the input documents
    are not changed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embeddings: Embeddings = Field(repr=False)  # their repr may contain a key
    """Embeddings of the query, and of the documents without a vector."""

    top_n: StrictInt = 4
    """Maximum number of documents to keep."""

    kernel: str | None = None
    """Kernel of SIFT, "rbf" or "linear", as in `SIFTRetriever`."""

    length_scale: float | None = None
    """ℓ of the kernel "rbf", as in `SIFTRetriever`."""

    noise_variance: float | None = None
    """λ' of SIFT, as in `SIFTRetriever`."""

    stopping_alpha: float | None = None
    """α of adaptive SIFT, which keeps fewer documents for easy queries. Larger values stop
    earlier. None means always `top_n`."""

    score_key: str | None = None
    """Key of the relevance score that a reranker or a retriever wrote into the metadata, such as
    "relevance_score"; more is better. A document of a low score counts as a noisy observation,
    as in `SIFTRetriever`. None ignores such scores."""

    gain_key: str | None = None
    """Metadata key for a document's gain. None writes no gain."""

    max_tokens: StrictInt | None = None
    """Budget of tokens, as in `SIFTRetriever`."""

    token_counter: Any = Field(default=None, repr=False)
    """Counts the tokens of a text, as in `SIFTRetriever`."""

    max_per_source: StrictInt | None = None
    """Maximum number of documents of one source, as in `SIFTRetriever`."""

    group_by: str = "source"
    """Metadata key of a document's source, for `max_per_source`."""

    min_similarity: float | None = None
    """Lowest cosine with the query, as in `SIFTRetriever`."""

    near_duplicate_similarity: float | None = None
    """Documents whose cosine is at least this count as one, as in `SIFTRetriever`."""

    vector_key: str | None = None
    """Metadata key of a document's vector, which is removed from the result. It must come from the
    same `embeddings`. Documents without the key are embedded. None embeds all."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the embeddings."""
        return super().__deepcopy__(shared_parts(vars(self), memo))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_fields(cls, values)
        return values

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        check_count("top_n", self.top_n)
        self._settings()
        return self

    def _settings(self) -> tuple[SelectionSettings, Constraints]:
        """Return the settings of the selection and the constraints, with defaults."""
        fields = {name: getattr(self, name) for name in (*SELECTION_FIELDS, *CONSTRAINTS)}
        values = with_defaults({"k": self.top_n, "fetch_k": self.top_n, **fields}, self.embeddings)
        return (
            SelectionSettings(k=self.top_n, **{name: values[name] for name in SELECTION_FIELDS}),
            Constraints(**{name: values[name] for name in CONSTRAINTS}),
        )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return at most `top_n` of the documents, most informative first.

        A document whose vector is zero, NaN or infinite is left out with a warning.

        Args:
            documents: The documents of any retriever.
            query: The query that they were retrieved for.
            callbacks: Not used: embeddings have no callbacks.

        Raises:
            TypeError: If the query is not a string.
            EmbeddingError: If the vector of the query is zero or not finite, or a vector of a
                document has another dimension.
        """
        del callbacks
        check_query(query)
        if not documents:
            return []
        query_embedding = self.embeddings.embed_query(query)
        documents, vectors, texts = self._split_vectors(documents)
        # Some services refuse an empty list.
        embedded = self.embeddings.embed_documents(texts) if texts else []
        return self._choose(documents, query_embedding, vectors, texts, embedded)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Run `compress_documents` without blocking the event loop."""
        del callbacks
        check_query(query)
        if not documents:
            return []
        query_embedding = await self.embeddings.aembed_query(query)
        documents, vectors, texts = self._split_vectors(documents)
        embedded = await self.embeddings.aembed_documents(texts) if texts else []
        return await run_in_executor(
            None, self._choose, documents, query_embedding, vectors, texts, embedded
        )

    def _split_vectors(
        self, documents: Sequence[Document]
    ) -> tuple[list[Document], dict[int, Any], list[str]]:
        """Take the vectors out of the metadata.

        Returns:
            The documents without vectors, the vectors by index, and the distinct texts to embed.
        """
        stripped: list[Document] = []
        vectors: dict[int, Any] = {}
        texts: dict[str, None] = {}
        for index, document in enumerate(documents):
            if self.vector_key is None or self.vector_key not in document.metadata:
                stripped.append(document)
                texts[document.page_content] = None
                continue
            metadata = dict(document.metadata)
            vectors[index] = metadata.pop(self.vector_key)
            stripped.append(document.model_copy(update={"metadata": metadata}))
        return stripped, vectors, list(texts)

    def _choose(
        self,
        documents: Sequence[Document],
        query_embedding: Sequence[float],
        vectors: dict[int, Any],
        texts: Sequence[str],
        embedded: Sequence[Sequence[float]],
    ) -> list[Document]:
        query = unit_vector(_matrix([query_embedding])[0])
        if len(embedded) != len(texts):
            raise EmbeddingError(
                f"the embeddings returned {len(embedded)} vectors for {len(texts)} texts"
            )
        by_text = dict(zip(texts, embedded, strict=True))
        rows = _matrix(
            [
                vectors[index] if index in vectors else by_text[document.page_content]
                for index, document in enumerate(documents)
            ]
        )
        pool = CandidatePool(len(query))
        usable, units = _units(documents, rows, len(query))
        pool.add(usable, units)
        settings, constraints = self._settings()
        queries = query[None]
        similar = similar_candidates(pool.candidates(), queries, constraints.min_similarity)
        unrelated_gain = settings.unrelated_gain
        candidates, settings = prepare(similar, queries, settings, constraints)
        selection = choose_for_retrieval(as_matrices(queries, candidates.embeddings), settings)
        chosen = candidates.copy_documents(selection.indices.tolist())
        if self.gain_key is not None:
            write_gains(chosen, selection, self.gain_key, unrelated_gain=unrelated_gain)
        return chosen


def _units(
    documents: Sequence[Document], vectors: Array, dimensions: int
) -> tuple[Sequence[Document], Array]:
    """Return the documents that have a direction, and their vectors scaled to unit norm."""
    if vectors.shape[1] != dimensions:
        raise DimensionMismatch(
            f"the query has {dimensions} dimensions and the documents have {vectors.shape[1]}: "
            "embed both with the same model"
        )
    rows, units = with_units(Rows(documents, vectors, len(documents)), dimensions)
    return rows.documents, units


def _matrix(vectors: Sequence[Any]) -> Array:
    rule = "vectors must be lists of numbers, all of one length"
    try:
        matrix = np.array([np.asarray(vector, dtype=np.float64) for vector in vectors])
    except (TypeError, ValueError) as error:
        raise EmbeddingError(rule) from error
    if matrix.ndim != 2:
        raise EmbeddingError(rule)
    return matrix
