"""`SIFTRetriever`: a vector-store retriever that does not choose the same fact five times."""

from __future__ import annotations

import time
import uuid
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list, get_executor_for_config
from langchain_core.runnables.utils import gather_with_concurrency
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict, Field, StrictInt, model_validator

from langchain_sift.calibrated_settings import CalibratedSettings, read_settings
from langchain_sift.errors import (
    ArgumentError,
    EmbeddingError,
    SIFTError,
    StoreError,
)
from langchain_sift.retrieval.batches import (
    BATCH_SIZE,
    Made,
    aor_error,
    different,
    merged,
    or_error,
    prepared,
    preparing,
    searches,
    successful,
)
from langchain_sift.retrieval.scores import Retrieval, scored, with_scores
from langchain_sift.retrieval.settings import (
    FIELDS,
    SEARCH_TYPES,
    Settings,
    check_fields,
    join_required,
    make_settings,
    noise_variance_for,
)
from langchain_sift.selection.arguments import Array
from langchain_sift.stores import embeddings_of
from langchain_sift.stores.calls import arun_together, run_together
from langchain_sift.stores.candidates import unit_rows
from langchain_sift.stores.interface import AnyAdapter, StoreAdapter, adapter_for

_GAIN = "langchain_sift_gain"
"""The metadata's key for gains where the user named none."""


class SIFTRetriever(VectorStoreRetriever):
    """Retrieves the documents that most reduce the uncertainty about the response.

    Takes `fetch_k` candidates with their vectors from the store and chooses `k` of them with
    SIFT (Hübotter, Bongni, Hakimi & Krause, arXiv 2410.08020). The query is embedded once;
    documents are not embedded again; ids and metadata come as stored, in the order chosen.
    Documents of identical text count as one candidate.

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

    A setting given to `invoke` goes before one in `search_kwargs`, which goes before the field.
    Reads Chroma (embedded, server, `AsyncChroma`), `InMemoryVectorStore`, FAISS and Qdrant with
    their own vectors, and any other vector store by embedding its texts again; see
    `langchain_sift.stores.register_adapter`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search_type: str = "sift"
    """ "sift", or to compare: "similarity" (nearest neighbours), "mmr", in the order it chose,
    or "uncertainty_sampling"."""

    k: StrictInt = 4
    """How many documents to return (the paper's N)."""

    fetch_k: StrictInt = 200
    """How many candidates to choose from (the paper's K), for each vector of the query; raised
    to `k` where it is smaller. With as many as `k`, SIFT can only change their order."""

    noise_variance: float = 0.01
    """The paper's λ'. Towards 0, only what is new about the query counts; towards infinity, the
    choice is that of nearest neighbours. It belongs to the embedding: 0.01 served the paper's,
    0.1 to 1 the hidden states of a small model, 1 `all-MiniLM-L6-v2`. Where it is not given, and
    the store's embeddings have a `noise_variance`, as `HiddenStateEmbeddings` do, it is that."""

    stopping_alpha: float | None = None
    """The paper's α: fewer documents for easy queries. Larger stops earlier; None never."""

    candidate_search: str = "nearest"
    """Where candidates come from. "nearest": the `fetch_k` nearest to the query, once.
    "absolute": those of the largest |cos| with it, as the paper has it, opposite ones too.
    "residual": before each choice the store is asked again, for what is nearest to the part of
    the query that is not explained yet, and to where more is gained than from the best candidate
    so far; see `select_residual`. "exhaustive": every row of the store, for small ones."""

    step_fetch_k: StrictInt = 5
    """How many candidates "residual" fetches before each choice, in each of three directions."""

    score_key: str | None = None
    """Under this key a document's gain is written to its metadata; None writes nothing."""

    query_splitter: Callable[[str], Sequence[str]] | None = None
    """Splits a query, such as a long prompt, into parts that are embedded each for itself. The
    sum of their variances is reduced, so that no part is forgotten."""

    query_embedder: Embeddings | None = Field(default=None, repr=False)
    """Embeds the query in the place of the store's own embedding function."""

    timeout: float = Field(default=30.0)
    """Seconds that the store may take for one retrieval, or for 64 of a batch together, all calls
    and retries included."""

    require_filter: bool = False
    """Whether `search_kwargs` must have a filter, such as a tenant's. A filter given to a call
    then narrows it and cannot take its place."""

    allowed_search_types: ClassVar[Collection[str]] = tuple(SEARCH_TYPES)

    @model_validator(mode="before")
    @classmethod
    def validate_search_type(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Reject a field that does not exist, with those that do."""
        check_fields(cls, values)
        if "noise_variance" in values:
            return values
        own = getattr(values.get("vectorstore"), "embeddings", None)
        embeddings = values.get("query_embedder") if own is None else own
        return {"noise_variance": noise_variance_for(embeddings), **values}

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self._settings({}, adapter_for(self.vectorstore))
        return self

    # Making one

    @classmethod
    def from_retriever(cls, retriever: VectorStoreRetriever, **settings: Any) -> Self:
        """Return a SIFT retriever on the store of another, with its `search_kwargs`.

        Args:
            retriever: What `vectorstore.as_retriever(...)` returns.
            **settings: Fields of the new retriever.

        Raises:
            ArgumentError: If it is no such retriever, or cuts off by `score_threshold`, which SIFT
                has no counterpart of: `stopping_alpha` may be what you want.
        """
        if not isinstance(retriever, VectorStoreRetriever):
            raise ArgumentError(
                "retriever must be what as_retriever() returns, got a "
                f"{type(retriever).__name__}: of a store, make SIFTRetriever(vectorstore=store)"
            )
        search_kwargs = dict(retriever.search_kwargs)
        if "score_threshold" in search_kwargs:
            raise ArgumentError(
                "SIFT has no score_threshold: take it out of search_kwargs, and set "
                "stopping_alpha if easy queries should get fewer documents"
            )
        if settings.get("search_type") != "mmr":
            search_kwargs.pop("lambda_mult", None)
        inherited = {
            "vectorstore": retriever.vectorstore,
            "search_kwargs": search_kwargs,
            "tags": retriever.tags,
            "metadata": retriever.metadata,
        }
        return cls(**{**inherited, **settings})

    @classmethod
    def from_settings(
        cls,
        settings: CalibratedSettings | Path | str,
        *,
        vectorstore: VectorStore,
        **fields: Any,
    ) -> Self:
        """Return a retriever with the λ', `k` and `fetch_k` that `calibrate` chose.

        Args:
            settings: What was chosen, or the file that it was written to.
            vectorstore: The store that it was chosen for.
            **fields: Fields of the retriever, which go before the settings.

        Raises:
            ArgumentError: If the file cannot be read, or is not what `calibrate` writes.
        """
        saved = read_settings(settings)
        chosen = {name: getattr(saved, name) for name in ("k", "fetch_k", "noise_variance")}
        return cls(**{"vectorstore": vectorstore, **chosen, **fields})

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embedding: Embeddings,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectorstore_cls: type[VectorStore] | None = None,
        **settings: Any,
    ) -> Self:
        """Put texts into a new store and return a retriever on it.

        Args:
            texts: What to retrieve from.
            embedding: Embeds them, and the queries.
            metadatas: One for each text.
            ids: One for each text.
            vectorstore_cls: The store's class; a Chroma collection in memory if None.
            **settings: Fields of the retriever.
        """
        documents = [
            Document(page_content=text, metadata=metadata, id=id_)
            for text, metadata, id_ in zip(
                texts,
                metadatas or [{} for _ in texts],
                ids or [str(uuid.uuid4()) for _ in texts],
                strict=True,
            )
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
        arguments: dict[str, Any] = {}
        if vectorstore_cls is None:
            from langchain_chroma import Chroma  # noqa: PLC0415 - takes a second

            vectorstore_cls = Chroma
            # Collections of one name are one collection, anywhere in the process.
            arguments["collection_name"] = f"sift-{uuid.uuid4()}"
        store = vectorstore_cls.from_documents(list(documents), embedding, **arguments)
        return cls(vectorstore=store, **settings)

    def with_gains(self) -> Self:
        """Return a copy that writes each document's gain into its metadata.

        `min_gain` of a `FineTuneConfig` needs the gains.
        """
        return self.model_copy(update={"score_key": self.score_key or _GAIN})

    # Asking it

    def retrieve_with_scores(self, query: str, **settings: Any) -> Retrieval:
        """Return the documents for a query with their scores.

        Args:
            query: What to retrieve for.
            **settings: As for `invoke`.

        Raises:
            ArgumentError: If a setting is unknown or out of range.
            EmbeddingError: If a vector is zero, not finite, or of the wrong dimension.
            StoreError: If the store cannot answer, or not in time.
        """
        return self._scored(self._embed(query), settings)

    async def aretrieve_with_scores(self, query: str, **settings: Any) -> Retrieval:
        """Do as `retrieve_with_scores` does, without blocking the event loop."""
        return await self._ascored(await self._aembed(query), settings)

    def retrieve_by_vector(self, embedding: Sequence[float], **settings: Any) -> Retrieval:
        """Return the documents for a query given as a vector, shape (d,), with their scores."""
        return self.retrieve_by_vectors([embedding], **settings)

    async def aretrieve_by_vector(self, embedding: Sequence[float], **settings: Any) -> Retrieval:
        """Do as `retrieve_by_vector` does, without blocking the event loop."""
        return await self.aretrieve_by_vectors([embedding], **settings)

    def retrieve_by_vectors(
        self, embeddings: Sequence[Sequence[float]], **settings: Any
    ) -> Retrieval:
        """Return the documents for a query of several vectors, shape (m, d), with their scores.

        The sum of the vectors' variances is reduced: sentences of a long prompt, or the turns
        of a conversation. Candidates are looked for around each of them.
        """
        return self._scored(_checked(embeddings), settings)

    async def aretrieve_by_vectors(
        self, embeddings: Sequence[Sequence[float]], **settings: Any
    ) -> Retrieval:
        """Do as `retrieve_by_vectors` does, without blocking the event loop."""
        return await self._ascored(_checked(embeddings), settings)

    # Doing it

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        """Embed, search, choose."""
        made = prepared(self, query, kwargs)
        if made is None:
            made = successful(self._choose([self._embed(query)], kwargs)[0])
        if run_manager.handlers:
            child = run_manager.get_child()
            dispatch_custom_event("sift_selection", made.event(), config={"callbacks": child})
        return with_scores(made.choice, self.score_key)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        """Do the same without blocking the event loop."""
        made = prepared(self, query, kwargs)
        if made is None:
            made = successful((await self._achoose([await self._aembed(query)], kwargs))[0])
        if run_manager.handlers:
            config: RunnableConfig = {"callbacks": run_manager.get_child()}
            await adispatch_custom_event("sift_selection", made.event(), config=config)
        return with_scores(made.choice, self.score_key)

    def _scored(self, queries: Array, call: dict[str, Any]) -> Retrieval:
        return scored(queries, successful(self._choose([queries], call)[0]).choice)

    async def _ascored(self, queries: Array, call: dict[str, Any]) -> Retrieval:
        made = successful((await self._achoose([queries], call))[0])
        return await run_in_executor(None, scored, queries, made.choice)

    def _choose(
        self, queries: Sequence[Array | Exception], call: Mapping[str, Any]
    ) -> list[Made | Exception]:
        """Return what was chosen for each query, or why nothing was."""
        adapter = adapter_for(self.vectorstore)
        if not isinstance(adapter, StoreAdapter):
            raise StoreError(
                f"{adapter.label} is asked by coroutines alone: use `ainvoke` or `abatch`"
            )
        settings = self._settings(call, adapter)
        arguments = self._search_arguments(settings, call, adapter)
        started = time.perf_counter()
        outcomes = run_together(
            searches(queries, settings), adapter, timeout=settings.timeout, arguments=arguments
        )
        return merged(queries, outcomes, settings, time.perf_counter() - started)

    async def _achoose(
        self, queries: Sequence[Array | Exception], call: Mapping[str, Any]
    ) -> list[Made | Exception]:
        adapter = adapter_for(self.vectorstore)
        settings = self._settings(call, adapter)
        arguments = self._search_arguments(settings, call, adapter)
        started = time.perf_counter()
        outcomes = await arun_together(
            searches(queries, settings),
            adapter,
            store=self.vectorstore,
            timeout=settings.timeout,
            arguments=arguments,
        )
        return merged(queries, outcomes, settings, time.perf_counter() - started)

    # The query

    def _embed(self, query: str) -> Array:
        embedder = self.query_embedder or embeddings_of(self.vectorstore)
        return _checked([embedder.embed_query(part) for part in self._parts(query)])

    async def _aembed(self, query: str) -> Array:
        embedder = self.query_embedder or embeddings_of(self.vectorstore)
        # One after another: `max_concurrency` counts queries.
        return _checked([await embedder.aembed_query(part) for part in self._parts(query)])

    def _parts(self, query: str) -> Sequence[str]:
        if not isinstance(query, str):
            raise TypeError(
                f"the query must be a string, got {type(query).__name__}: in a chain of "
                "dictionaries, itemgetter('question') | retriever takes one entry"
            )
        if self.query_splitter is None:
            return [query]
        parts = self.query_splitter(query)
        one = isinstance(parts, str) or not isinstance(parts, Iterable)
        parts = [] if one else list(parts)
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ArgumentError("query_splitter must return a list of at least one string")
        return parts

    # The settings

    def _settings(self, call: Mapping[str, Any], adapter: AnyAdapter) -> Settings:
        """Return all settings of one call, checked."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return make_settings(self.search_type, {**fields, **self.search_kwargs, **call}, adapter)

    def _search_arguments(
        self, settings: Settings, call: Mapping[str, Any], adapter: AnyAdapter
    ) -> dict[str, Any]:
        """Return what the store's search is given, with the filter that it must have."""
        if not self.require_filter:
            return settings.search
        required = self.search_kwargs.get("filter")
        joined = join_required(required, call.get("filter"), adapter)
        return {**settings.search, "filter": joined}

    # Many queries

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Retrieve for many queries; the store is asked for many of them at once.

        Each different query is embedded once, at most `max_concurrency` at a time. An error
        stays with its query, and is returned in its place with `return_exceptions`.
        """
        if not inputs:
            return []
        queries = different(inputs)
        with get_executor_for_config(get_config_list(config, len(inputs))[0]) as executor:
            embedded = list(executor.map(or_error(self._embed), queries))
        outcomes = [
            outcome
            for start in range(0, len(queries), BATCH_SIZE)
            for outcome in self._choose_or_errors(embedded[start : start + BATCH_SIZE], kwargs)
        ]
        with preparing(self, kwargs, dict(zip(queries, outcomes, strict=True))):
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Do as `batch` does, without blocking the event loop."""
        if not inputs:
            return []
        queries = different(inputs)
        limit = get_config_list(config, len(inputs))[0].get("max_concurrency")
        embedded = await gather_with_concurrency(
            limit, *(aor_error(self._aembed, query) for query in queries)
        )
        outcomes = [
            outcome
            for start in range(0, len(queries), BATCH_SIZE)
            for outcome in await self._achoose_or_errors(
                embedded[start : start + BATCH_SIZE], kwargs
            )
        ]
        with preparing(self, kwargs, dict(zip(queries, outcomes, strict=True))):
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )

    def _choose_or_errors(
        self, queries: Sequence[Array | Exception], call: Mapping[str, Any]
    ) -> list[Made | Exception]:
        try:
            return self._choose(queries, call)
        except SIFTError as error:  # a setting that is wrong is so for each of them
            return [error] * len(queries)

    async def _achoose_or_errors(
        self, queries: Sequence[Array | Exception], call: Mapping[str, Any]
    ) -> list[Made | Exception]:
        try:
            return await self._achoose(queries, call)
        except SIFTError as error:
            return [error] * len(queries)

    # What LangChain asks besides

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

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a vector store is a connection."""
        raise TypeError(
            f"a SIFTRetriever on a {type(self.vectorstore).__name__} cannot be pickled: open the "
            "store and make the retriever in the process that uses it"
        )


def _checked(embeddings: Sequence[Sequence[float]]) -> Array:
    try:
        queries = np.asarray(embeddings, dtype=np.float64)
    except ValueError as error:
        raise EmbeddingError(
            "the vectors of a query must be numbers, and all of one dimension"
        ) from error
    if queries.ndim != 2 or not queries.size:
        raise EmbeddingError(f"the vectors of a query must have shape (m, d), got {queries.shape}")
    unit_rows(queries, ["the query"] * len(queries), queries.shape[1])  # or an error
    return queries
