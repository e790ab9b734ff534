"""Retrieve the documents of a prompt, and give the arguments for each of its answers."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from langchain_core.documents import Document

from langchain_sift.auto_mode import AUTO, ModeChoice
from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.errors import RequestTimeout
from langchain_sift.language_models.batches import gather_or_cancel
from langchain_sift.language_models.call_adapters import KeptAdapter
from langchain_sift.language_models.follow_ups import Query, aask
from langchain_sift.language_models.modes import (
    aretrieve_within,
    choose_mode_for,
    context_documents,
    retriever_for,
    table_settings_of,
    training_documents,
)
from langchain_sift.serving.admitted import AdmittedRequest, CallSession
from langchain_sift.serving.request_settings import RequestSettings
from langchain_sift.serving.responses import Chunk, TTFTRecord
from langchain_sift.serving.stream_chunks import ChoiceEnd
from langchain_sift.serving.streams import Merged
from langchain_sift.ttft.model.tokens import max_training_tokens

Prompt = TypeVar("Prompt")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call:
    """The call of the model for one prompt, with the documents that were retrieved for it."""

    settings: RequestSettings
    admitted: AdmittedRequest
    source: Mapping[str, object]
    """The documents, or where the model finds them."""

    deadline: float
    """By `time.perf_counter`."""

    count: int
    """Number of answers."""

    session: CallSession
    """The session that answers, or that keeps the adapter of the first answer."""

    retrieval_seconds: float | None = None
    """Seconds of the retrieval. None if there was none before the call."""

    mode_reason: str | None = None
    """Reason for the choice of the mode. None if the request or the server sets it."""

    kept: KeptAdapter = field(default_factory=KeptAdapter)
    """The adapter that the first answer trains for the others."""

    async def arguments(self, number: int) -> Mapping[str, Any]:
        """Return the keyword arguments for one of the answers, as soon as there is room for it.

        Args:
            number: Number of the answer. The first trains; the others follow when it is complete.

        Raises:
            EngineOverloaded: If there is no room for it.
            RequestTimeout: If the deadline has passed.
        """
        is_first = number == 0 or "adapter" in self.source
        source = self.source if is_first else self._source_of_others()
        if number == 0 and (self.count > 1 or self.session.is_new):
            source = {**source, "kept": self.kept}
        tokens = self._most_training_tokens(source)
        reservation = await self.admitted.reserve(self.deadline, tokens)
        timeout = self.settings.timeout
        if time.perf_counter() >= self.deadline:
            raise RequestTimeout(f"the prompt was not answered within {timeout} s: raise timeout")
        return self.settings.call_arguments(
            source, number=number, reservation=reservation, started=self.deadline - timeout
        )

    def _most_training_tokens(self, source: Mapping[str, Any]) -> int:
        """Return an upper bound of the tokens to train on."""
        if "adapter" in source:
            return 0
        documents = source.get("documents")
        count = self.settings.retriever.k or 0 if documents is None else len(documents)
        options = self.settings.fine_tuning.model_dump(exclude_none=True)
        return max_training_tokens(count, replace(self.admitted.view.chat.finetune, **options))

    def _source_of_others(self) -> Mapping[str, object]:
        context = {"context": self.source["context"]} if "context" in self.source else {}
        if self.kept.adapter is None:
            return {"documents": [], **context}
        return {"adapter": self.kept.adapter, **context}

    def record(self, metadata: Mapping[str, object]) -> TTFTRecord:
        """Return the record of the first answer.

        Args:
            metadata: `response_metadata["ttft"]` of the answer.
        """
        mode = self.settings.mode
        own = {"mode": mode, "mode_reason": self.mode_reason}
        record = TTFTRecord.model_validate({**metadata, **own})
        if not fine_tunes(mode):
            record.fallback = None  # the request asks for the base model
        record.session = self.session.id_of(self.kept.adapter, record.documents)
        if self.retrieval_seconds is not None:
            record.seconds.retrieval = self.retrieval_seconds
        return record


async def prepare_call(
    settings: RequestSettings,
    admitted: AdmittedRequest,
    query: Query,
    count: int,
    fitting: Callable[[Sequence[Document]], int],
) -> Call:
    """Retrieve the documents for a prompt, unless the model does so itself.

    Args:
        settings: Those of the request.
        admitted: The request.
        query: The query for the retriever.
        count: Number of answers.
        fitting: Returns how many documents the prompt has room for.
    """
    start, mode = time.perf_counter(), settings.mode
    deadline = start + settings.timeout
    engine, session = admitted.view.chat.engine, admitted.session(settings.session)
    if session.adapter is not None and not adds_context(mode):
        return Call(settings, admitted, {"adapter": session.adapter}, deadline, count, session)
    if not adds_context(mode):
        # In the mode "ttft" the model retrieves the documents by itself.
        source: dict[str, object] = (
            {"retriever": settings.retriever, "filter": settings.filter}
            if fine_tunes(mode)
            else {"documents": []}
        )
        return Call(settings, admitted, source, deadline, count, session)
    retriever = retriever_for(mode if session.adapter is None else "rag", settings.retriever)

    async def retrieve() -> tuple[list[Document], ModeChoice | None]:
        """Return the documents of the mode, and its choice if the mode is "auto"."""
        text = await aask(query, engine, settings.timeout)
        documents = await retriever.ainvoke(text, filter=settings.filter)
        if mode != AUTO:
            return documents, None
        used = table_settings_of(settings.retriever, settings.context_k)
        choose = functools.partial(choose_mode_for, documents, fitting, settings.modes, used)
        choice = await asyncio.to_thread(choose)
        if choice.mode == "rag" and settings.showing is not None:
            documents = await settings.showing.ainvoke(text, filter=settings.filter)
        return documents, choice

    documents, choice = await aretrieve_within(settings.timeout, retrieve())
    reason = None
    if choice is not None:
        mode, reason = choice.mode, choice.reason
        settings = replace(settings, mode=mode)
    source = {"documents": training_documents(mode, documents)}
    if session.adapter is not None:
        source = {"adapter": session.adapter}
    source["context"] = context_documents(mode, documents, settings.context_k)
    seconds = time.perf_counter() - start
    return Call(settings, admitted, source, deadline, count, session, seconds, reason)


async def all_answers(
    prompts: Sequence[Prompt],
    prepare: Callable[[Prompt], Awaitable[Call]],
    answer: Callable[[Prompt, Mapping[str, Any]], Awaitable[Answer]],
    at_once: int,
) -> list[tuple[Call, list[Answer]]]:
    """Answer all prompts, each as often as its call says.

    Args:
        prompts: At least one.
        prepare: Returns the call for a prompt.
        answer: Answers a prompt with the arguments of a call.
        at_once: Number of answers to generate at a time.
    """
    capacity = asyncio.Semaphore(at_once)

    async def one(prompt: Prompt, call: Call, number: int) -> Answer:
        """Return one answer."""
        async with capacity:
            return await answer(prompt, await call.arguments(number))

    async def every(prompt: Prompt) -> tuple[Call, list[Answer]]:
        """Return all answers to one prompt."""
        async with capacity:
            call = await prepare(prompt)
        first = await one(prompt, call, 0)
        others = [one(prompt, call, number) for number in range(1, call.count)]
        return call, [first, *await gather_or_cancel(others)]

    return await gather_or_cancel(map(every, prompts))


Prompt_contra = TypeVar("Prompt_contra", contravariant=True)


class PiecesOf(Protocol[Prompt_contra]):
    """Stream one answer to a prompt."""

    def __call__(
        self,
        prompt: Prompt_contra,
        call: Call,
        /,
        *,
        index: int,
        number: int,
        report: Callable[[Chunk], Awaitable[None]],
    ) -> AsyncGenerator[Chunk | ChoiceEnd]:
        """Yield its chunks and its end; see `chat_pieces`."""


async def answer_pieces(
    prompts: Sequence[Prompt],
    prepare: Callable[[Prompt], Awaitable[Call]],
    pieces_of: PiecesOf[Prompt],
    *,
    n: int,
    at_once: int,
) -> AsyncGenerator[Chunk | ChoiceEnd]:
    """Answer all prompts, each n times, and yield the pieces of all answers as they come.

    Args:
        prompts: At least one.
        prepare: Returns the call for a prompt.
        pieces_of: Streams one answer.
        n: Number of answers to each prompt.
        at_once: Number of answers to generate at a time.
    """
    capacity = asyncio.Semaphore(at_once)
    merged: Merged[Chunk | ChoiceEnd] = Merged()

    async def one(place: int, call: Call, number: int) -> AsyncGenerator[Chunk | ChoiceEnd]:
        """Yield the pieces of one answer."""
        async with capacity:
            index = place * n + number
            pieces = pieces_of(prompts[place], call, index=index, number=number, report=merged.put)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def every(place: int) -> AsyncGenerator[Chunk | ChoiceEnd]:
        """Yield the pieces of the first answer to a prompt, then start the others."""
        async with capacity:
            call = await prepare(prompts[place])
        async with aclosing(one(place, call, 0)) as pieces:
            async for piece in pieces:
                yield piece
        for number in range(1, n):
            merged.add(one(place, call, number))

    for place in range(len(prompts)):
        merged.add(every(place))
    async with aclosing(merged):
        async for piece in merged:
            yield piece
