"""Choose the documents of each method, among all documents of a store."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.choice import MethodChoice
from langchain_sift.comparison.invocation import invoke
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.settings import Retriever
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import ChosenDocument
from langchain_sift.retrieval.defaults import KernelOptions, KernelSettings, kernel_settings
from langchain_sift.retrieval.exact import ExactIndex, choose_exactly
from langchain_sift.retrieval.settings import RetrievalSettings
from langchain_sift.selection import random
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.greedy import method_of
from langchain_sift.selection.opposites import (
    choose_for_retrieval,
    with_variances_of_retrieval,
)
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import Candidates, every_candidate
from langchain_sift.stores.embedding_calls import embeddings_of, query_vector
from langchain_sift.stores.interface import Search, blocking_adapter_for

_READING_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents of a store, in memory, searched exactly.

    A comparison must not depend on an approximate index.
    """

    candidates: Candidates
    embeddings: Embeddings

    copies: Mapping[str, str] = field(default_factory=dict)
    """Ids of documents whose text an earlier document has, with the id of that document."""

    label_key: str | None = None
    """Metadata key that labels name documents by. None means their ids."""

    index: ExactIndex = field(init=False)
    ids: tuple[str, ...] = field(init=False)
    _rows: Mapping[str, int] = field(init=False)
    """The row of each id."""

    def __post_init__(self) -> None:
        """Index the documents, and give each an id."""
        ids = tuple(map(identifier, self.candidates.documents))
        object.__setattr__(self, "index", ExactIndex(self.candidates))
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_rows", dict(zip(ids, range(len(ids)), strict=True)))

    def first_id(self, document_id: str) -> str:
        """Return the id of the first document with the same text as this one."""
        return self.copies.get(document_id, document_id)

    def label_of(self, document: Document) -> str:
        """Return the name of a document in the labels of prompts; "" if it has none.

        The name is its id, or that of the first document with the same text. With a `label_key`,
        it is the metadata under that key, which many documents may share.
        """
        if self.label_key is None:
            return self.first_id(identifier(document))
        value = document.metadata.get(self.label_key)
        return "" if value is None else str(value)

    def ids_by_label(self) -> dict[str, list[str]]:
        """Return the ids of the documents that have each name of `label_of`."""
        ids: dict[str, list[str]] = {}
        for name, document in zip(self.ids, self.candidates.documents, strict=True):
            ids.setdefault(self.label_of(document), []).append(name)
        return ids

    def labels(self) -> frozenset[str]:
        """Return the names of all documents in the labels of prompts."""
        return frozenset(map(self.label_of, self.candidates.documents))

    @classmethod
    def read(
        cls,
        vectorstore: VectorStore,
        filter: Mapping[str, object] | None,
        *,
        label_key: str | None = None,
    ) -> Corpus:
        """Read all documents with their vectors, 8 bytes for each row and dimension.

        Args:
            vectorstore: A store with embeddings.
            filter: Filter of the store. None means all documents.
            label_key: Metadata key that labels name documents by. None means their ids.

        Raises:
            StoreError: If the store cannot answer.
            ArgumentError: If the store is empty, or the filter matches nothing.
            EmbeddingError: If the embeddings fail.
        """
        adapter = blocking_adapter_for(vectorstore)
        embeddings = embeddings_of(vectorstore)
        dimensions = len(query_vector(embeddings, "a"))
        arguments = {} if filter is None else {"filter": dict(filter)}
        copies: dict[str, str] = {}
        reading = _with_copies(every_candidate(dimensions), copies)
        candidates = run(reading, adapter, timeout=_READING_TIMEOUT, arguments=arguments)
        if not candidates.documents:
            what = "the store is empty" if filter is None else f"nothing matches {filter!r}"
            raise ArgumentError(f"{what}: there is nothing to choose from")
        return cls(candidates, embeddings, copies, label_key)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the text of each document."""
        texts = (document.page_content for document in self.candidates.documents)
        return zip(self.ids, texts, strict=True)

    def embed(self, query: str) -> Array:
        """Embed a query, shape (d,)."""
        return query_vector(self.embeddings, query)

    def choose(
        self,
        method: Method,
        query: Array,
        *,
        k: int,
        fetch_k: int,
        kernel: str | None,
        length_scale: float | None,
        noise_variance: float | None,
        seed: str,
    ) -> MethodChoice:
        """Choose k documents, without adaptive stopping.

        Args:
            method: A method with a selection of this package.
            query: The embedding of the query, shape (d,).
            k: Number of documents.
            fetch_k: Number of nearest neighbours to choose from, for the search "nearest".
            kernel: The kernel, if the method sets none. None means the default.
            length_scale: ℓ of "rbf", likewise.
            noise_variance: λ', likewise.
            seed: Seed of a random choice.

        Raises:
            EmbeddingError: If the query's vector is zero, not finite, or of another dimension.
        """
        selector = method.selector
        if method.selection == "random":
            selector = partial(random, seed=zlib.crc32(seed.encode()))
        given = KernelOptions(
            kernel=kernel, length_scale=length_scale, noise_variance=noise_variance
        )
        kernel_and_noise = kernel_of(method, self.embeddings, given)
        settings = RetrievalSettings(
            method=(
                choose_for_retrieval
                if method.selection == "sift"
                else with_variances_of_retrieval(method_of(selector))
            ),
            selection=SelectionSettings(k=k, replace=method.repeats, **asdict(kernel_and_noise)),
            fetch_k=fetch_k,
            candidate_search=method.search,
        )
        choice = choose_exactly(self.index, settings, query[None])
        selection, rows = choice.selection, choice.selection.indices.tolist()
        vectors = self.candidates.embeddings[rows]
        documents = [self.candidates.documents[row] for row in rows]
        chosen = zip(
            rows, selection.gains.tolist(), selection.posterior_variances.tolist(), strict=True
        )
        return MethodChoice(
            chosen=tuple(
                ChosenDocument(self.ids[row], gain, variance, self.candidates.copies[row])
                for row, gain, variance in chosen
            ),
            documents=tuple(documents),
            prior_variance=selection.prior_variance,
            similarities=vectors @ vectors.T,
            labels=tuple(map(self.label_of, documents)),
            sources=tuple(map(_source, documents)),
            seconds=choice.seconds,
            unrelated_gain=settings.selection.unrelated_gain,
        )

    def choose_with(self, retriever: Retriever, query: str, *, k: int) -> MethodChoice:
        """Choose with a retriever of the user's, at most k documents.

        Raises:
            ArgumentError: If it does not return a list of documents.
        """
        began = time.perf_counter()
        documents = invoke(retriever, query)
        seconds = time.perf_counter() - began
        is_list = isinstance(documents, list)
        others = [d for d in (documents if is_list else [documents]) if not isinstance(d, Document)]
        if others or not is_list:
            found = f"{'a list with ' * is_list}{type((others or [documents])[0]).__name__}"
            raise ArgumentError(f"a retriever must return a list of Documents, got {found}")
        documents = documents[:k]
        ids = [self.first_id(identifier(document)) for document in documents]
        return MethodChoice(
            chosen=tuple(ChosenDocument(name, math.nan, math.nan, 1) for name in ids),
            documents=tuple(documents),
            prior_variance=math.nan,
            similarities=self._similarities(ids),
            labels=tuple(map(self.label_of, documents)),
            sources=tuple(map(_source, documents)),
            seconds=seconds,
        )

    def _similarities(self, ids: Sequence[str]) -> Array | None:
        """Return the cosines among documents; None if one of them is not in the store."""
        if not all(name in self._rows for name in ids):
            return None
        vectors = self.candidates.embeddings[[self._rows[name] for name in ids]]
        similarities: Array = vectors @ vectors.T
        return similarities


def _with_copies(search: Search[Candidates], copies: dict[str, str]) -> Search[Candidates]:
    """Run a search of all candidates, and add the ids of copies as in `Corpus.copies`."""
    first: dict[str, str] = {}  # by text
    request = next(search)
    while True:
        answer = yield request
        for document in answer[0].documents:
            name = identifier(document)
            if first.setdefault(document.page_content, name) != name:
                copies[name] = first[document.page_content]
        try:
            request = search.send(answer)
        except StopIteration as stop:
            candidates: Candidates = stop.value
            return candidates


def kernel_of(method: Method, embeddings: object, given: KernelOptions) -> KernelSettings:
    """Return the kernel and λ' that a method chooses documents with.

    Args:
        method: A method with a selection of this package.
        embeddings: The embeddings of the store, which the defaults depend on.
        given: The values of a comparison for methods that set none.
    """
    is_residual = method.search == "residual"
    return kernel_settings(
        embeddings,
        kernel="linear" if is_residual else method.kernel or given["kernel"],
        length_scale=method.length_scale or given["length_scale"],
        noise_variance=method.noise_variance or given["noise_variance"],
    )


def _source(document: Document) -> str | None:
    source = document.metadata.get("source")
    return None if source is None or source == "" else str(source)


def identifier(document: Document) -> str:
    """Return the id of a document; without an id, a hash of its text."""
    if document.id is not None:
        return str(document.id)
    return hashlib.sha256(document.page_content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
