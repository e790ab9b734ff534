"""Use documents in one of four modes: not at all, as context, for fine-tuning, or for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableLambda, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from langchain_sift.auto_mode import (
    AUTO,
    UNRELATED_GAIN,
    ModeChoice,
    ModeTable,
    TableSettings,
    choose_mode,
)
from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.errors import ArgumentError, RequestTimeout
from langchain_sift.retrieval.scores import uncertainty_given, unrelated_gain_of
from langchain_sift.retrieval.settings import with_defaults
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.stores.deadlines import within

CONTEXT_PROMPT = "Use these documents to answer.\n\n{context}\n\n{input}"
"""The prompt of the modes "rag" and "both"."""

_RETRIEVED = "the prompt's documents were not retrieved"
"""What a timeout of a retrieval says."""

T = TypeVar("T")
Retriever = Runnable[str, list[Document]]

_SETTINGS = ("k", "kernel", "length_scale", "noise_variance", "candidate_search")


def retriever_for(mode: str, retriever: Retriever) -> Retriever:
    """Return the retriever that a mode queries; in the mode "base" it returns no documents.

    For fine-tuning and "auto", a `SIFTRetriever` returns its gains: `min_gain` and the choice of a
    mode need them. For "rag" it returns each document once: in a prompt a repeat says nothing.
    A `SIFTRetriever` is found within what `bind`, `with_config`, `with_retry` and `with_fallbacks`
    return.

    Raises:
        ArgumentError: If `retriever` is no Runnable.
    """
    if not (adds_context(mode) or fine_tunes(mode)):
        return RunnableLambda(lambda _: [])
    if isinstance(retriever, RunnableBindingBase):  # as `with_config` and `bind` return it
        update: dict[str, object] = {"bound": retriever_for(mode, retriever.bound)}
        is_sift = isinstance(_unwrapped(retriever), SIFTRetriever)
        if is_sift and retriever.kwargs.get("replace") and not fine_tunes(mode):
            update["kwargs"] = {**retriever.kwargs, "replace": False}
        return retriever.model_copy(update=update)
    if isinstance(retriever, RunnableWithFallbacks):
        first, *others = (
            retriever_for(mode, each) for each in (retriever.runnable, *retriever.fallbacks)
        )
        return retriever.model_copy(update={"runnable": first, "fallbacks": others})
    if not isinstance(retriever, SIFTRetriever):
        _check_retriever(retriever)
        return retriever
    return retriever.with_gains() if fine_tunes(mode) else _without_repeats(retriever)


def _check_retriever(retriever: object) -> None:
    if not isinstance(retriever, Runnable):
        raise ArgumentError(
            "retriever must be a LangChain retriever or another Runnable, got a "
            f"{type(retriever).__name__}: of a store, make SIFTRetriever(vectorstore=store); of a "
            "function, RunnableLambda(function)"
        )


def _without_repeats(retriever: SIFTRetriever) -> SIFTRetriever:
    if not retriever.search_kwargs.get("replace"):
        return retriever
    search_kwargs = {**retriever.search_kwargs, "replace": False}
    return retriever.model_copy(update={"search_kwargs": search_kwargs})


def training_documents(mode: str, documents: Sequence[Document]) -> list[Document]:
    """Return the documents that a mode trains on, in order."""
    return list(documents) if fine_tunes(mode) else []


def context_documents(
    mode: str, documents: Sequence[Document], context_k: int | None = None
) -> list[Document]:
    """Return the documents that a mode puts before the prompt if they fit, each text once.

    Args:
        mode: The mode.
        documents: Those of the prompt, most informative first.
        context_k: Maximum number of documents. None means all.
    """
    if not adds_context(mode):
        return []
    first = distinct([document.page_content for document in documents])
    return [documents[index] for index in first[:context_k]]


def choose_mode_for(
    documents: Sequence[Document],
    fitting: Callable[[Sequence[Document]], int],
    table: ModeTable | None,
    used: TableSettings | None = None,
) -> ModeChoice:
    """Choose the mode of one prompt; see `choose_mode`.

    Args:
        documents: Those that the retriever of the mode "auto" returned.
        fitting: Returns how many of some distinct documents the prompt has room for.
        table: The gains of the modes on held-out prompts. None means the rule without it.
        used: The settings of the retriever; the reason names those that the table was not measured
            with. None means that they are not compared.
    """
    known = context_documents(AUTO, documents)
    room = fitting(known) if known else 0
    unrelated_gain = unrelated_gain_of(documents) or UNRELATED_GAIN
    uncertainty = uncertainty_given(documents)
    choice = choose_mode(uncertainty, len(known), room, table, unrelated_gain=unrelated_gain)
    note = None if table is None else table.note_on(used)
    return choice if note is None else replace(choice, reason=f"{choice.reason}; {note}")


def table_settings_of(retriever: Retriever, context_k: int | None) -> TableSettings | None:
    """Return the settings that a `SIFTRetriever` chooses documents with; None of another.

    Args:
        retriever: The retriever.
        context_k: Maximum number of documents in the prompt. None means as many as fit.
    """
    call: dict[str, object] = {}
    found = retriever
    while isinstance(found, RunnableBindingBase):
        call = {**found.kwargs, **call}
        found = found.bound
    if not isinstance(found, SIFTRetriever):
        return None
    given = {**found.search_kwargs, **call}  # those of a call take precedence over the field
    values = {name: given.get(name, getattr(found, name)) for name in _SETTINGS}
    embeddings = found.vectorstore.embeddings or found.query_embedder
    used = with_defaults(values, embeddings)
    if values["k"] is None and given.get("max_tokens", found.max_tokens) is not None:
        used = {**used, "k": None}  # as many as fit
    return TableSettings.of(used, context_k=context_k)


def _unwrapped(retriever: Runnable[str, list[Document]]) -> Runnable[str, list[Document]]:
    while isinstance(retriever, RunnableBindingBase):
        retriever = retriever.bound
    return retriever


def distinct(texts: Sequence[str]) -> list[int]:
    """Return the index of the first occurrence of each text."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text, index)
    return list(first.values())


def prompt_with_context(question: str, context: str) -> str:
    """Return the prompt of the modes "rag" and "both": the documents, then the question."""
    return CONTEXT_PROMPT.format(context=context, input=question) if context else question


def retrieve_within(
    timeout: float | None, retrieve: Callable[[], T], *, started: float | None = None
) -> T:
    """Call a retriever with a deadline, in a thread that can be abandoned.

    Args:
        timeout: Seconds until the deadline. None means no limit.
        retrieve: The call.
        started: The beginning of the timeout, by `time.perf_counter`; by default now.

    Raises:
        RequestTimeout: If the call does not return in time. A `TimeoutError` of the store, before
            the deadline, is raised unchanged.
    """
    if timeout is None:
        return retrieve()
    deadline = (time.perf_counter() if started is None else started) + timeout
    try:
        documents: T = within(max(0.0, deadline - time.perf_counter()), retrieve)
    except TimeoutError as error:
        if time.perf_counter() < deadline:
            raise
        raise _timeout_of(_RETRIEVED, timeout) from error
    return documents


async def aretrieve_within(
    timeout: float | None,
    retrieval: Awaitable[T],
    *,
    started: float | None = None,
    action: str = _RETRIEVED,
) -> T:
    """Do as `retrieve_within` does, without blocking the event loop.

    Args:
        timeout: Seconds until the deadline. None means no limit.
        retrieval: The call, and whatever else must be done before the deadline.
        started: The beginning of the timeout, by `time.perf_counter`; by default now.
        action: What is done, for the error.
    """
    spent = 0.0 if started is None else time.perf_counter() - started
    deadline = asyncio.timeout(None if timeout is None else timeout - spent)
    try:
        async with deadline:
            return await retrieval
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise _timeout_of(action, timeout) from error


def _timeout_of(action: str, timeout: float | None) -> RequestTimeout:
    return RequestTimeout(f"{action} within {timeout} s: raise timeout")
