"""Retrieve with SIFT: a vector-store retriever that does not choose the same fact five times.

The module is longer than 300 lines for the documentation of the fields and the asynchronous twins
that LangChain's interface requires; it computes nothing.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self, SupportsIndex

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import LangSmithRetrieverParams, RetrieverLike
from langchain_core.runnables import RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list, get_executor_for_config
from langchain_core.stores import BaseStore
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict, Field, StrictInt, model_validator

from langchain_sift.calibrated_settings import CalibratedSettings, read_settings
from langchain_sift.checks import instances
from langchain_sift.errors import ArgumentError, SIFTError
from langchain_sift.retrieval.choosing import Choice, achoose, achoose_each, choose, choose_each
from langchain_sift.retrieval.copies import check_pickled, shared_parts
from langchain_sift.retrieval.parents import ParentRetriever, Parents
from langchain_sift.retrieval.queries import Query, QueryReader
from langchain_sift.retrieval.scores import Retrieval
from langchain_sift.retrieval.settings import (
    FIELDS,
    SEARCH_TYPES,
    RetrievalSettings,
    check_fields,
    merge_settings,
)
from langchain_sift.stores.embedding_calls import as_vectors, embeddings_of
from langchain_sift.stores.fusion import embeddings_source
from langchain_sift.stores.interface import (
    AnyAdapter,
    adapter_for,
    blocking_adapter_for,
)
from langchain_sift.stores.relevance import threshold_cosine

_CURE = "use `ainvoke` or `abatch`"
_GAIN = "langchain_sift_gain"
"""The default key of gains in the metadata."""


class SIFTRetriever(VectorStoreRetriever):
    """Retrieves the documents that most reduce the uncertainty about the response.

    Fetches `fetch_k` candidates with their vectors from the store and chooses `k` of them with
    SIFT (Hübotter, Bongni, Hakimi & Krause, arXiv 2410.08020). The query is embedded once, and
    no document is embedded again. Documents come in the order of choice, with the ids and
    metadata that the store holds. Documents of identical text count as one candidate.

    Setup:
        `pip install langchain-sift`

    Instantiate:
        ```python
        from langchain_sift import SIFTRetriever

        retriever = SIFTRetriever(vectorstore=store, k=5)
        retriever = SIFTRetriever(
            vectorstore=store, search_kwargs={"k": 5, "filter": {"year": 2024}}
        )
        retriever = SIFTRetriever.from_retriever(store.as_retriever(search_kwargs={"k": 5}))
        retriever = SIFTRetriever.from_settings("settings.json", vectorstore=store)  # calibrated
        ```

    Use:
        ```python
        documents = retriever.invoke("What is known about X?")
        documents = retriever.invoke("What is known about X?", k=3, filter={"year": 2024})
        retrieval = retriever.retrieve_with_scores("What is known about X?")
        ```

    A setting in a call takes precedence over `search_kwargs`, and those over the field.
    With `replace=True`, in a call or in `search_kwargs`, SIFT may choose a document again, as in
    the paper: for fine-tuning, one more gradient step on it.
    Chroma (embedded, server, `AsyncChroma`), `InMemoryVectorStore`, FAISS and Qdrant are read
    with their stored vectors; the texts of any other vector store are embedded again, unless
    `langchain_sift.stores.register_adapter` adds support for it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search_type: str = "sift"
    """ "sift", or for comparison: "similarity" (nearest neighbours), "mmr" (in its order of choice)
    or "uncertainty_sampling". All compare by cosine. A store with another metric, such as Chroma's
    "l2" or "ip", may order vectors of different lengths differently."""

    k: StrictInt | None = None
    """Maximum number of documents to return (the paper's N). None means 4, or with `max_tokens` as
    many as the budget holds."""

    fetch_k: StrictInt = 200
    """Maximum number of candidates for each vector of the query (the paper's K), at least `k`.
    With `k` candidates, SIFT can only change their order."""

    kernel: str | None = None
    """"linear", the paper's, or "rbf", for which texts of low similarity are unrelated. None means
    the `kernel` of the store's embeddings, if they have that attribute, else "linear"."""

    length_scale: float | None = None
    """ℓ of the kernel "rbf", exp((cos − 1) / ℓ²). Small values choose nearest neighbours, large
    ones more different documents. None means that of the embeddings, else 0.5."""

    noise_variance: float | None = None
    """The paper's λ', positive. Towards 0, only new information about the query counts; towards
    infinity, the choice is that of nearest neighbours. None means the `noise_variance` of the
    store's embeddings, if they have that attribute, as `HiddenStateEmbeddings` do; else 6.5 (4
    with "rbf"), chosen on test collections so that relevance is kept: see
    `examples/evidence/retrieval.md`. The paper's is 0.01. With the kernel "linear", a document that
    points away from all vectors of the query has no gain and comes after all others, unless with
    `replace`."""

    stopping_alpha: float | None = None
    """The paper's α: fewer documents for easy queries. Larger stops earlier. It needs a small λ',
    such as the paper's 0.01: with a large one the uncertainty hardly falls, and every query
    stops after as many documents. None never stops before `k`."""

    candidate_search: str = "nearest"
    """The source of the candidates. "nearest": the `fetch_k` rows nearest to the query. "residual":
    before each choice, rows near to the unexplained part of the query, and rows that gain more
    than the best candidate so far, with the linear kernel; see `select_residual`. "exhaustive":
    every row, for small stores."""

    step_fetch_k: StrictInt = 5
    """Number of candidates that "residual" fetches before each choice, in each of three
    directions."""

    max_tokens: StrictInt | None = None
    """Budget of tokens for all documents together. SIFT then chooses by gain per token, and passes
    over documents that are longer than what is left; no document is cut. Nothing is returned if
    no candidate fits. None means no budget."""

    token_counter: Any = Field(default=None, repr=False)
    """Counts the tokens of a text: a function, a tokenizer with `encode` or a LangChain model. None
    means the tokenizer of the store's embeddings if they show one, else four characters a
    token."""

    max_per_source: StrictInt | None = None
    """Maximum number of documents of one source, among the `fetch_k` candidates. None means no
    limit."""

    group_by: str = "source"
    """Key of a document's source in its metadata, for `max_per_source`. A document without the key
    is a source of its own."""

    min_similarity: float | None = None
    """Lowest cosine with the query, the highest of its vectors: nothing is returned for a query
    that no document is about. None means no limit."""

    near_duplicate_similarity: float | None = None
    """Candidates whose cosine is at least this count as one, the nearest to the query; `copies` of
    `retrieve_with_scores` is their number. None merges identical texts alone."""

    score_key: str | None = None
    """Key of a relevance score in the documents' metadata, such as trust or recency; more is
    better. A document with half the score has half the gain at first: SIFT takes it for a noisy
    observation, with a λ' of its own. Scores above 1 are divided by the highest, and with negative
    ones the lowest counts as 0. A document without a score has their mean. None means equal
    relevance."""

    gain_key: str | None = None
    """Key under which the metadata of a document get its gain. None writes nothing."""

    query_splitter: Callable[[str], Sequence[str]] | None = None
    """Splits a query, such as a long prompt, into parts that are embedded separately. The sum of
    their variances is reduced, so that no part is neglected."""

    query_embedder: Embeddings | None = Field(default=None, repr=False)
    """Embeds the query. None means the store's embedding function."""

    second_retriever: RetrieverLike | None = Field(default=None, repr=False)
    """Finds further candidates, such as `StoreBM25Retriever`, which compares words. Its order and
    that of the vectors are joined by reciprocal rank fusion, and the joint score counts as that
    of `score_key` does: a document with half of the highest score has half the gain at first.
    Its documents are read from the store, by id and under the filter; with a filter, all must
    have ids. Without one, those that the store does not hold are embedded, or left out if the
    retriever has the same `vectorstore`. It needs the text of the query, and the search type
    "sift" among "nearest" candidates. None means vectors alone."""

    docstore: BaseStore[str, Document] | None = Field(default=None, repr=False)
    """Returns parents: the chunks in the vector store are chosen, and their `k` different parents
    returned, as `ParentDocumentRetriever` stores them. Each parent is represented by its chunk of
    the highest gain. Tokens, sources and scores are those of the parents. A chunk that names no
    parent is returned itself, as is one whose parent the docstore lacks: a warning has their
    number, and `missing_parents` of `retrieve_with_scores` the ids. No filter is applied to the
    docstore. None returns the chunks."""

    parent_id_key: str = "doc_id"
    """Key of the parent's id in the metadata of a chunk."""

    timeout: float = Field(default=30.0)
    """Maximum seconds for all calls of the store, retries included, for one query or for 64 queries
    of a batch. At most 64 coroutines query a store at once; the wait of others does not count,
    unless the store answers nobody."""

    require_filter: bool = False
    """If True, `search_kwargs` must have a filter, such as a tenant's. The filter of a call
    narrows it and cannot replace it."""

    allowed_search_types: ClassVar[Collection[str]] = tuple(SEARCH_TYPES)

    @model_validator(mode="before")
    @classmethod
    def validate_search_type(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Check the names of the fields, and that the store is no retriever."""
        check_fields(cls, values)
        if isinstance(values.get("vectorstore"), VectorStoreRetriever):
            raise ArgumentError(
                "vectorstore must be the store itself, got a retriever: use "
                "SIFTRetriever.from_retriever(store.as_retriever(...)), or vectorstore=store"
            )
        return values

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        adapter = adapter_for(self.vectorstore)
        self._settings({}, adapter, check_filter=False)
        unread = getattr(adapter, "unread", None)
        if unread is not None and self.second_retriever is None:
            warnings.warn(unread, UserWarning, stacklevel=2)
        return self

    # Constructors

    @classmethod
    def from_retriever(cls, retriever: VectorStoreRetriever, **settings: Any) -> Self:
        """Return a SIFT retriever on the store of another retriever, with its `search_kwargs`.

        Args:
            retriever: The result of `vectorstore.as_retriever(...)`.
            **settings: Fields of the new retriever. Without `min_similarity` among them, a
                `score_threshold` of the other becomes the `min_similarity` that passes the same
                documents in its search type, for embeddings of unit norm.

        Raises:
            ArgumentError: If `retriever` is not a vector-store retriever, or the scale of its
                `score_threshold` is not known, or no document passes it.
        """
        if not isinstance(retriever, VectorStoreRetriever):
            raise ArgumentError(
                "retriever must be a VectorStoreRetriever, as as_retriever() returns it, got a "
                f"{type(retriever).__name__}: of a store, make SIFTRetriever(vectorstore=store)"
            )
        return cls(**_inherited(retriever, settings))

    @classmethod
    def from_parent_retriever(cls, retriever: ParentRetriever, **settings: Any) -> Self:
        """Return a SIFT retriever on the stores of a `ParentDocumentRetriever`.

        It returns `k` different parents, where the other returns those of its k best chunks. The
        other, or any `MultiVectorRetriever`, still adds the documents.

        Args:
            retriever: LangChain's `ParentDocumentRetriever` or `MultiVectorRetriever`.
            **settings: Fields of the new retriever; see `from_retriever` for a `score_threshold`.

        Raises:
            ArgumentError: If `retriever` is none of these, or the scale of its `score_threshold`
                is not known, or no document passes it.
        """
        if not isinstance(retriever, ParentRetriever):
            raise ArgumentError(
                "retriever must be a ParentDocumentRetriever or a MultiVectorRetriever, got a "
                f"{type(retriever).__name__}: otherwise, pass docstore=... and parent_id_key=..."
            )
        parents = {"docstore": retriever.docstore, "parent_id_key": retriever.id_key}
        return cls(**{**parents, **_inherited(retriever, settings)})

    @classmethod
    def from_settings(
        cls,
        settings: CalibratedSettings | Path | str,
        *,
        vectorstore: VectorStore,
        for_training: bool = False,
        **fields: Any,
    ) -> Self:
        """Return a retriever with the kernel, λ', `k` and `fetch_k` that `calibrate` chose.

        Args:
            settings: The calibrated settings, or their file.
            vectorstore: The store that they were calibrated on.
            for_training: If True, the settings that were calibrated for fine-tuning; else those
                for retrieval. If only one of them was calibrated, it serves both.
            **fields: Fields of the retriever, which take precedence over the settings.

        Raises:
            ArgumentError: If the file cannot be read, or was not written by `calibrate`.
        """
        calibrated = asdict(read_settings(settings).selection(for_training=for_training))
        return cls(**{"vectorstore": vectorstore, **calibrated, **fields})

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Sequence[Mapping[str, object] | None] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectorstore_cls: type[VectorStore] | None = None,
        **settings: Any,
    ) -> Self:
        """Put texts into a new store and return a retriever on it.

        Args:
            texts: The texts to retrieve from.
            embedding: Embeds the texts, and the queries.
            metadatas: Metadata of each text.
            ids: Id of each text. None means random ids.
            vectorstore_cls: Class of the store. None means a Chroma collection in memory.
            **settings: Fields of the retriever.

        Raises:
            ArgumentError: If a text is not a string, or there are more or fewer metadata or ids.
        """
        texts = instances("texts", texts, str)
        metadatas = list(metadatas or ()) or [{}] * len(texts)
        ids = list(ids or ()) or [str(uuid.uuid4()) for _ in texts]
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if len(given) != len(texts):
                raise ArgumentError(
                    f"{name} must be one for each of {len(texts)} texts, got {len(given)}"
                )
        documents = [
            Document(page_content=text, metadata=dict(metadata or {}), id=id_)
            for text, metadata, id_ in zip(texts, metadatas, ids, strict=True)
        ]
        return cls.from_documents(documents, embedding, vectorstore_cls=vectorstore_cls, **settings)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        embedding: Embeddings,
        *,
        vectorstore_cls: type[VectorStore] | None = None,
        **settings: Any,
    ) -> Self:
        """Put documents into a new store and return a retriever on it; see `from_texts`."""
        check_fields(cls, settings)  # before the documents are embedded
        if vectorstore_cls is not None:
            store = vectorstore_cls.from_documents(list(documents), embedding)
        else:
            from langchain_chroma import Chroma  # noqa: PLC0415 - takes a second

            # Collections of one name are one collection, anywhere in the process.
            name = f"sift-{uuid.uuid4()}"
            store = Chroma.from_documents(list(documents), embedding, collection_name=name)
        return cls(vectorstore=store, **settings)

    def with_gains(self) -> Self:
        """Return a copy that writes each document's gain into its metadata.

        `min_gain` of a `FineTuneConfig` needs the gains.
        """
        return self.model_copy(update={"gain_key": self.gain_key or _GAIN})

    # Retrieval with scores

    def retrieve_with_scores(self, query: str, **settings: object) -> Retrieval:
        """Return the documents for a query with their scores.

        Args:
            query: The text to retrieve for.
            **settings: As for `invoke`.

        Raises:
            ArgumentError: If a setting is unknown or out of range.
            EmbeddingError: If a vector of the query is zero or not finite, or the stored
                vectors have other dimensions.
            StoreError: If the store cannot answer, or not in time.
        """
        return self._choose(query, settings).scored()

    async def aretrieve_with_scores(self, query: str, **settings: object) -> Retrieval:
        """Do as `retrieve_with_scores` does, without blocking the event loop."""
        choice = await self._achoose(query, settings)
        return await run_in_executor(None, choice.scored)

    def retrieve_by_vector(self, embedding: Sequence[float], **settings: object) -> Retrieval:
        """Return the documents for the vector of a query with their scores.

        Args:
            embedding: The vector, shape (d,), of any length but zero.
            **settings: As for `invoke`.

        Raises:
            ArgumentError: As `retrieve_with_scores`, or if there is a `second_retriever`, which
                needs the text of the query.
            EmbeddingError: As `retrieve_with_scores`.
            StoreError: As `retrieve_with_scores`.
        """
        return self.retrieve_by_vectors([embedding], **settings)

    async def aretrieve_by_vector(
        self, embedding: Sequence[float], **settings: object
    ) -> Retrieval:
        """Do as `retrieve_by_vector` does, without blocking the event loop."""
        return await self.aretrieve_by_vectors([embedding], **settings)

    def retrieve_by_vectors(
        self, embeddings: Sequence[Sequence[float]], **settings: object
    ) -> Retrieval:
        """Return the documents for a query of several vectors with their scores.

        The vectors may be those of the sentences of a long prompt, or of the turns of a
        conversation. Candidates are fetched for each vector, and the choice reduces the sum of the
        vectors' variances.

        Args:
            embeddings: The vectors, shape (m, d), of any length but zero.
            **settings: As for `invoke`.

        Raises:
            ArgumentError: As `retrieve_by_vector`.
            EmbeddingError: As `retrieve_by_vector`.
            StoreError: As `retrieve_by_vector`.
        """
        adapter = blocking_adapter_for(self.vectorstore, cure=_CURE)
        query = self._vectors_alone(embeddings)
        return choose(adapter, self._settings(settings, adapter), query).scored()

    async def aretrieve_by_vectors(
        self, embeddings: Sequence[Sequence[float]], **settings: object
    ) -> Retrieval:
        """Do as `retrieve_by_vectors` does, without blocking the event loop."""
        adapter, query = adapter_for(self.vectorstore), self._vectors_alone(embeddings)
        checked = self._settings(settings, adapter)
        choice = await achoose(adapter, checked, query, store=self.vectorstore)
        return await run_in_executor(None, choice.scored)

    # LangChain's interface

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        _outcomes: Mapping[str, Choice | Exception] | None = None,
        **call: object,
    ) -> list[Document]:
        """Embed the query and choose documents, unless `batch` has done so."""
        choice = _choice_of_batch(_outcomes, query) or self._choose(query, call)
        if run_manager.handlers:
            child = run_manager.get_child()
            dispatch_custom_event("sift_selection", choice.event(), config={"callbacks": child})
        return choice.documents(self.gain_key)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        _outcomes: Mapping[str, Choice | Exception] | None = None,
        **call: object,
    ) -> list[Document]:
        """Do as `_get_relevant_documents` does, without blocking the event loop."""
        choice = _choice_of_batch(_outcomes, query)
        if choice is None:
            choice = await self._achoose(query, call)
        if run_manager.handlers:
            config: RunnableConfig = {"callbacks": run_manager.get_child()}
            await adispatch_custom_event("sift_selection", choice.event(), config=config)
        return choice.documents(self.gain_key)

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: object,
    ) -> list[Any]:
        """Retrieve for many queries, with few calls of the store.

        Each different query is embedded once, at most `max_concurrency` at a time. An error
        belongs to its query, and is returned at its position with `return_exceptions`.
        """
        if not inputs:
            return []
        with suppress(SIFTError):  # an invalid setting is raised by each `invoke`
            reader = self._reader()
            adapter = blocking_adapter_for(self.vectorstore, cure=_CURE)
            settings = self._settings(kwargs, adapter)
            with get_executor_for_config(get_config_list(config, len(inputs))[0]) as executor:
                outcomes = choose_each(adapter, settings, inputs, reader.read, executor)
            kwargs["_outcomes"] = outcomes
        return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: object,
    ) -> list[Any]:
        """Do as `batch` does, without blocking the event loop."""
        if not inputs:
            return []
        with suppress(SIFTError):
            reader = self._reader()
            adapter = adapter_for(self.vectorstore)
            settings = self._settings(kwargs, adapter)
            kwargs["_outcomes"] = await achoose_each(
                adapter,
                settings,
                inputs,
                reader.aread,
                limit=get_config_list(config, len(inputs))[0].get("max_concurrency"),
                store=self.vectorstore,
            )
        return await super().abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        embedder = self.query_embedder or self.vectorstore.embeddings
        if self.query_embedder is not None:
            params["ls_embedding_provider"] = type(self.query_embedder).__name__
        for attribute in ("model", "model_name"):
            if isinstance(name := getattr(embedder, attribute, None), str):
                params["ls_embedding_model"] = name
                break
        return params

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the store and the other objects that it works with."""
        return super().__deepcopy__(shared_parts(vars(self), memo))

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Return what makes the retriever again where it is unpickled, if its store allows that.

        Raises:
            TypeError: If the store cannot be pickled, as a connection.
        """
        check_pickled(self.vectorstore)
        return super().__reduce_ex__(protocol)

    # One retrieval

    def _choose(self, query: str, call: Mapping[str, object]) -> Choice:
        reader = self._reader()
        adapter = blocking_adapter_for(self.vectorstore, cure=_CURE)
        settings = self._settings(call, adapter)
        return choose(adapter, settings, reader.read(query))

    async def _achoose(self, query: str, call: Mapping[str, object]) -> Choice:
        reader = self._reader()
        adapter = adapter_for(self.vectorstore)
        settings = self._settings(call, adapter)
        read = await reader.aread(query)
        return await achoose(adapter, settings, read, store=self.vectorstore)

    def _reader(self) -> QueryReader:
        second = self.second_retriever
        # A second retriever on the same store may return documents that were deleted since: it gets
        # no embeddings, so that they are left out.
        is_same_store = getattr(second, "vectorstore", None) is self.vectorstore
        return QueryReader(
            embedder=self.query_embedder or embeddings_of(self.vectorstore),
            splitter=self.query_splitter,
            second_retriever=second,
            embeddings=None if is_same_store else embeddings_source(self.vectorstore.embeddings),
        )

    def _vectors_alone(self, embeddings: Sequence[Sequence[float]]) -> Query:
        if self.second_retriever is not None:
            raise ArgumentError(
                "second_retriever needs the text of the query: use `invoke` or "
                "`retrieve_with_scores`"
            )
        return Query(as_vectors(embeddings))

    def _settings(
        self, call: Mapping[str, object], adapter: AnyAdapter, *, check_filter: bool = True
    ) -> RetrievalSettings:
        return merge_settings(
            self.search_type,
            fields={name: getattr(self, name) for name in FIELDS},
            search_kwargs=self.search_kwargs,
            call=call,
            adapter=adapter,
            embeddings=self.vectorstore.embeddings or self.query_embedder,
            require_filter=self.require_filter and check_filter,
            parents=(None if self.docstore is None else Parents(self.docstore, self.parent_id_key)),
            is_hybrid=self.second_retriever is not None,
        )


def _inherited(
    retriever: VectorStoreRetriever | ParentRetriever, settings: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the fields of a retriever on the store of another, with given settings.

    From another SIFT retriever it takes every field that was set, such as `require_filter`.
    """
    if isinstance(retriever, SIFTRetriever):
        own = {name: getattr(retriever, name) for name in retriever.model_fields_set}
        return {**own, **settings}
    search_kwargs = dict(retriever.search_kwargs)
    threshold = search_kwargs.pop("score_threshold", None)
    if threshold is not None and "min_similarity" not in settings:
        cosine = threshold_cosine(
            retriever.vectorstore, threshold, search_type=retriever.search_type
        )
        settings = {"min_similarity": cosine, **settings}
    if settings.get("search_type") != "mmr":
        search_kwargs.pop("lambda_mult", None)
    inherited = {
        "vectorstore": retriever.vectorstore,
        "search_kwargs": search_kwargs,
        "tags": retriever.tags,
        "metadata": retriever.metadata,
    }
    return {**inherited, **settings}


def _choice_of_batch(
    outcomes: Mapping[str, Choice | Exception] | None, query: str
) -> Choice | None:
    """Return the choice that `batch` made for a query, or raise the error that prevented it."""
    if outcomes is None or not isinstance(query, str):
        return None
    outcome = outcomes.get(query)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
