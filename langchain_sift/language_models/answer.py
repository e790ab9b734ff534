"""One request of a face: retrieve, hand in, answer, and tell what happened."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing
from dataclasses import asdict, replace
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManager, BaseRunManager, CallbackManager
from langchain_core.documents import Document
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import Runnable
from transformers import PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.batches import _begun_within
from langchain_sift.language_models.modes import aretrieve_within, retrieve_within, retriever_for
from langchain_sift.language_models.runs import (
    achild_callbacks,
    adispatch_event,
    child_callbacks,
    dispatch_event,
)
from langchain_sift.retrieval.scores import gain_of, too_little_to_gain
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.ttft import (
    AdapterCache,
    Engine,
    GenerationTask,
    Outcome,
    Request,
    Reservation,
    Step,
    Ticket,
    TrainingRecord,
)
from langchain_sift.ttft.model.tokens import max_token_count, training_tokens

T = TypeVar("T")

_DOCUMENTS_OF_AN_UNKNOWN_RETRIEVER = 16  # reserved before it is asked

# Tokenizing and loading for coroutines: not in the event loop, and not in its own executor,
# which others need.
_PREPARING = ThreadPoolExecutor(4, thread_name_prefix="langchain-sift-prepare")


def _checked(documents: Iterable[Document], source: str) -> list[Document]:
    """Return the documents as a list.

    Raises:
        ArgumentError: If they are none; the message names place and type, and no text.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise ArgumentError(
            f"{source} must be a sequence of Documents, got one {type(documents).__name__}"
        )
    listed = list(documents)
    for index, document in enumerate(listed):
        text = document.page_content if isinstance(document, Document) else None
        if not isinstance(text, str):
            found = type(document if text is None else text).__name__
            raise ArgumentError(
                f"{source} must be Documents with a text each, got {found} at index {index}"
            )
    return listed


class Source:
    """Where the documents of one prompt come from, and how they are asked for."""

    def __init__(
        self, retriever: Runnable[str, list[Document]], query: str, asked: dict[str, Any]
    ) -> None:
        """Take a retriever, a prompt's query, and what the call asks of the retriever."""
        self._query = query
        self._asked = asked
        self._retriever = retriever_for("ttft", retriever)
        self.k = _DOCUMENTS_OF_AN_UNKNOWN_RETRIEVER
        if isinstance(retriever, SIFTRetriever):
            settings = {"k": retriever.k, **retriever.search_kwargs, **asked}
            if isinstance(settings["k"], int):  # else the retriever says what is wrong
                self.k = settings["k"]

    def documents(self, callbacks: CallbackManager | None) -> list[Document]:
        """Retrieve."""
        return self._retriever.invoke(self._query, {"callbacks": callbacks}, **self._asked)

    async def adocuments(self, callbacks: AsyncCallbackManager | None) -> list[Document]:
        """Retrieve without blocking the event loop."""
        return await self._retriever.ainvoke(self._query, {"callbacks": callbacks}, **self._asked)


class Answer:
    """One request: iterate over it for the text; afterwards it knows what happened."""

    def __init__(
        self,
        *,
        engine: Engine | Callable[[], Engine],
        prompt: Callable[[], list[int]],
        documents: Iterable[Document] | None,
        source: Source | None,
        recipe: FineTuneConfig,
        generation: GenerationConfig,
        timeout: float | None,
        cache: AdapterCache | None,
        run_manager: BaseRunManager | None,
        reservation: Reservation | None = None,
    ) -> None:
        """Prepare the request; nothing is done before `start`, or the first piece is asked for.

        Raises:
            ArgumentError: If `documents` are none.
        """
        self._engine = engine
        self._make_prompt = prompt
        self._prompt: list[int] = []
        self._given = None if documents is None else _checked(documents, "documents")
        self._documents: list[Document] = []
        self._source = source
        self._recipe = recipe
        self._generation = generation
        self._timeout = timeout
        self._cache = cache
        self._key: str | None = None
        self._cached = False
        self._run_manager = run_manager
        self._reservation = reservation
        self._ticket: Ticket | None = None
        self._seconds_retrieval = 0.0
        self._outcome = Outcome(TrainingRecord())

    def start(self) -> Ticket:
        """Reserve a place, retrieve, and hand in the request; once."""
        if self._ticket is not None:
            return self._ticket
        began = time.perf_counter()
        with ExitStack() as stack:
            engine = self._engine if isinstance(self._engine, Engine) else self._engine()
            reservation = self._admitted(engine, stack)
            request = self._read_prompt(engine)
            if self._given is None and self._source is not None:
                asked = time.perf_counter()
                self._found(self._retrieved(self._source, began), asked)
            request = self._with_documents(engine, request)
            self._ticket = engine.submit(
                request, reservation=reservation, timeout=self._timeout, started=began
            )
            stack.pop_all()
        begun = _begun_within.get()
        if begun is not None:
            begun.answers.append(self)
            if begun.failed:
                self.cancel()
        return self._ticket

    async def astart(self) -> Ticket:
        """As `start`, without blocking the event loop."""
        return await aretrieve_within(self._timeout, self._astart(time.perf_counter()))

    async def _astart(self, began: float) -> Ticket:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            if isinstance(self._engine, Engine):  # where it is full, it says so at once
                engine = self._engine
            else:
                engine = await loop.run_in_executor(_PREPARING, self._engine)
            reservation = self._admitted(engine, stack)
            request = await loop.run_in_executor(_PREPARING, self._read_prompt, engine)
            if self._given is None and self._source is not None:
                asked = time.perf_counter()
                self._found(
                    await self._source.adocuments(achild_callbacks(self._run_manager)), asked
                )
            request = await loop.run_in_executor(_PREPARING, self._with_documents, engine, request)
            self._ticket = engine.submit(
                request, reservation=reservation, timeout=self._timeout, started=began
            )
            stack.pop_all()
        return self._ticket

    def cancel(self) -> None:
        """End it, if it was started and is not done."""
        if self._ticket is not None:
            self._ticket.cancel()

    def __iter__(self) -> Generator[str]:
        """Yield the text in pieces; leaving early cancels what is not done."""
        try:
            with closing(iter(self.start())) as events:
                for event in events:
                    if isinstance(event, str):
                        yield event
                    elif isinstance(event, Step):
                        dispatch_event(self._run_manager, self._event(event))
                    else:
                        self._ended(event)
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[str]:
        """As `__iter__`, without blocking the event loop."""
        ticket = await self.astart()
        async with aclosing(aiter(ticket)) as events:
            async for event in events:
                if isinstance(event, str):
                    yield event
                elif isinstance(event, Step):
                    await adispatch_event(self._run_manager, self._event(event))
                else:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(_PREPARING, self._ended, event)

    def _admitted(self, engine: Engine, stack: ExitStack) -> Reservation:
        """Return the request's place, to be given back where the stack ends."""
        tokens = self._most_tokens()
        reservation = stack.enter_context(self._reservation or engine.admission.admit(tokens))
        reservation.resize(tokens)
        return reservation

    def _most_tokens(self) -> int:
        """Return the number of training tokens to reserve before any text is tokenized."""
        recipe = self._recipe
        lengths: list[int] = []
        if self._given is not None:
            lengths = [max_token_count(d.page_content, recipe.max_length) for d in self._given]
        elif self._source is not None:
            lengths = [recipe.max_length] * self._source.k
        return training_tokens(lengths, recipe)

    def _read_prompt(self, engine: Engine) -> Request:
        """Make the prompt, and check it before anything is retrieved for it."""
        self._prompt = self._make_prompt()
        task = GenerationTask(self._prompt, self._generation)
        return engine.request(task=task, config=self._recipe)

    def _retrieved(self, source: Source, began: float) -> list[Document]:
        retrieve = functools.partial(source.documents, child_callbacks(self._run_manager))
        return retrieve_within(self._timeout, retrieve, started=began)

    def _found(self, documents: Sequence[Document], asked: float) -> None:
        self._documents = _checked(documents, "what the retriever returns")
        self._seconds_retrieval = time.perf_counter() - asked

    def _with_documents(self, engine: Engine, request: Request) -> Request:
        if self._given is not None:
            self._documents = self._given
        request = engine.with_texts(
            request,
            [document.page_content for document in self._documents],
            skip_reason=too_little_to_gain(self._documents, self._recipe.min_gain),
        )
        if self._cache is None or not request.documents:
            return request
        self._key = self._cache.key(engine.fingerprint, request)
        adapter = self._cache.get(self._key)
        self._cached = adapter is not None
        return (
            replace(request, keep_adapter=True)
            if adapter is None
            else request.with_adapter(adapter)
        )

    def _ended(self, outcome: Outcome) -> None:
        self._outcome = outcome
        adapter = outcome.adapter
        if self._cache is None or self._key is None or adapter is None:
            return
        if adapter.config == self._recipe:  # not so where for want of memory documents were cut
            self._cache.put(self._key, adapter)

    def _event(self, step: Step) -> dict[str, object]:
        return {**asdict(step), "document": self._documents[step.document].id}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; known once the answer has started."""
        engine = self._engine if isinstance(self._engine, Engine) else self._engine()
        return engine.language_model.tokenizer

    @property
    def usage(self) -> UsageMetadata:
        """Tokens of the prompt and of the answer; those trained on are counted apart."""
        return UsageMetadata(
            input_tokens=len(self._prompt),
            output_tokens=self._outcome.tokens,
            total_tokens=len(self._prompt) + self._outcome.tokens,
        )

    @property
    def finish_reason(self) -> str:
        """Why the answer has no more tokens: "stop" or "length"."""
        return self._outcome.finish_reason

    @property
    def metadata(self) -> dict[str, object]:
        """What was learned from, as plain values: `response_metadata["ttft"]`."""
        training = self._outcome.training
        ids = [document.id for document in self._documents]
        gains = [gain_of(document) for document in self._documents]
        return {
            "documents": [ids[index] for index in training.trained],
            "gains": [gains[index] for index in training.trained],
            "skipped": [ids[index] for index in training.skipped],
            "truncated": [ids[index] for index in training.truncated],
            "steps": training.steps,
            "tokens": training.tokens,
            "losses": list(training.losses),
            "update_norm": training.update_norm,
            "drift": training.drift,
            "ended": training.ended,
            "fallback": training.fallback,
            "cached": self._cached,
            "seconds": {
                "retrieval": self._seconds_retrieval,
                "waiting": self._outcome.seconds_waiting,
                "training": training.seconds,
                "generation": self._outcome.seconds_task,
            },
        }
