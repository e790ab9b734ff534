"""`SIFTRetriever`: a vector-store retriever that does not choose the same fact five times."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import ConfigDict, Field, model_validator

from langchain_sift.errors import ArgumentError
from langchain_sift.selection import mmr, nearest_neighbors, select, uncertainty_sampling
from langchain_sift.selection.greedy import Selector, check_arguments
from langchain_sift.stores import embed_query, fetch_candidates
from langchain_sift.stores.candidates import unit_vector

_SEARCH_TYPES: Mapping[str, Selector] = MappingProxyType(
    {
        "sift": select,
        "similarity": nearest_neighbors,
        "mmr": mmr,
        "uncertainty_sampling": uncertainty_sampling,
    }
)
_SETTINGS = ("k", "fetch_k", "noise_variance", "stopping_alpha", "replace")
_STORE_SETTINGS = ("filter", "where_document")
_MMR_SETTINGS = ("lambda_mult",)


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
        ```

    Use:
        ```python
        documents = retriever.invoke("What is known about X?")
        documents = retriever.invoke("What is known about X?", k=3, filter={"year": 2024})
        ```

    A setting given to `invoke` goes before one in `search_kwargs`, which goes before the field.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search_type: str = "sift"
    """ "sift", or to compare: "similarity" (nearest neighbours), "mmr", in the order it chose,
    or "uncertainty_sampling"."""

    k: int = Field(default=4)
    """How many documents to return (the paper's N)."""

    fetch_k: int = Field(default=200)
    """How many candidates to choose from (the paper's K); raised to `k` where it is smaller.
    With as many as `k`, SIFT can only change their order."""

    noise_variance: float = Field(default=0.01)
    """The paper's λ'. Towards 0, only what is new about the query counts; towards infinity, the
    choice is that of nearest neighbours. It belongs to the embedding: 0.01 served the paper's,
    0.1 to 1 the hidden states of a small model."""

    stopping_alpha: float | None = None
    """The paper's α: fewer documents for easy queries. Larger stops earlier; None never."""

    allowed_search_types: ClassVar[Collection[str]] = tuple(_SEARCH_TYPES)

    @model_validator(mode="before")
    @classmethod
    def validate_search_type(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Reject a search type that does not exist and a search setting that has no effect."""
        search_type = values.get("search_type", "sift")
        if search_type not in _SEARCH_TYPES:
            msg = f"search_type must be one of {list(_SEARCH_TYPES)}, got {search_type!r}"
            raise ValueError(msg)
        _check_names(values.get("search_kwargs") or {}, search_type)
        return values

    @model_validator(mode="after")
    def _check_ranges(self) -> SIFTRetriever:
        self._settings({})
        return self

    def _settings(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of one call, checked."""
        fields = {name: getattr(self, name) for name in _SETTINGS if name != "replace"}
        settings = {"replace": False, **fields, **self.search_kwargs, **call}
        _check_names(settings, self.search_type)
        check_arguments(settings["k"], settings["noise_variance"], settings["stopping_alpha"])
        fetch_k = settings["fetch_k"]
        if isinstance(fetch_k, bool) or not isinstance(fetch_k, int) or fetch_k < 1:
            msg = f"fetch_k must be an integer of at least 1, got {fetch_k!r}"
            raise ArgumentError(msg)
        settings["fetch_k"] = max(fetch_k, settings["k"])
        return settings

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        """Embed, fetch, select."""
        del run_manager
        if not isinstance(query, str):
            msg = f"the query must be a string, got {type(query).__name__}"
            raise TypeError(msg)
        settings = self._settings(kwargs)
        in_store = {name: settings.pop(name) for name in _STORE_SETTINGS if name in settings}
        fetch_k = settings.pop("fetch_k")
        query_embedding = unit_vector(embed_query(self.vectorstore, query))
        candidates = fetch_candidates(
            self.vectorstore, query_embedding, fetch_k=fetch_k, **in_store
        )
        chooser: Callable[..., Any] = _SEARCH_TYPES[self.search_type]
        selection = chooser(query_embedding, candidates.embeddings, **settings)
        return [candidates.documents[index] for index in selection.indices]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        """The same, off the event loop."""
        return await run_in_executor(
            None,
            self._get_relevant_documents,
            query,
            run_manager=run_manager.get_sync(),
            **kwargs,
        )


def _check_names(settings: Mapping[str, Any], search_type: str) -> None:
    allowed = [*_SETTINGS, *_STORE_SETTINGS]
    if search_type == "mmr":
        allowed += _MMR_SETTINGS
    for name in settings:
        if name not in allowed:
            msg = f"{name!r} is no setting of a {search_type!r} search: use one of {allowed}"
            raise ArgumentError(msg)
