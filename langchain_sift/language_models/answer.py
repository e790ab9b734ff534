"""One call of a model: retrieve, train, answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import asdict, replace

from langchain_core.documents import Document
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableConfig
from transformers import PreTrainedTokenizerBase

from langchain_sift.language_models.call_adapters import CallAdapter
from langchain_sift.language_models.call_settings import CallSettings, check_documents
from langchain_sift.language_models.chat_templates.conversations import for_conversation
from langchain_sift.language_models.context import FittedPrompt, fit_documents, room_for_prompt
from langchain_sift.language_models.follow_ups import Query, aask, ask
from langchain_sift.language_models.modes import aretrieve_within, retrieve_within
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.language_models.preparing import EXECUTOR
from langchain_sift.language_models.records import describe_training, token_usage
from langchain_sift.language_models.runs import (
    achild_callbacks,
    adispatch_event,
    child_callbacks,
    dispatch_event,
)
from langchain_sift.language_models.structured_output.answer_rules import ANY_ANSWER, AnswerRules
from langchain_sift.language_models.token_logprobs import AnswerScores
from langchain_sift.retrieval.scores import too_little_to_gain
from langchain_sift.ttft import (
    Engine,
    GenerationTask,
    LanguageModel,
    Outcome,
    PromptScores,
    Request,
    Reservation,
    Step,
    Ticket,
    TokenScore,
    TrainingRecord,
)

_PREPARED = "the prompt was not prepared"
_PREPARED_WITH_DOCUMENTS = "the prompt was not prepared and its documents not retrieved"


class Answer:
    """One call in flight: iterate over it for the text; then read its metadata."""

    def __init__(
        self,
        engine: Engine | Callable[[], Engine],
        render: Callable[[LanguageModel, str], list[int]],
        query: Query,
        settings: CallSettings,
        rules: AnswerRules = ANY_ANSWER,
    ) -> None:
        """Prepare a call; nothing is done before `start` or the first iteration.

        Args:
            engine: The engine, or a function that loads it.
            render: Returns the token ids of the prompt with a context; "" means no context.
            query: The query for the retriever.
            settings: The settings of the call.
            rules: The tools that the answer may call, or its format.
        """
        self.rules = rules
        """The tools that the answer may call, or its format."""
        self.call_opening = ""
        """The beginning of a required call, with which the prompt ends, once there is one."""
        self.scores = AnswerScores()
        """The scores of its tokens, if the call asks for them."""
        self._engine = engine
        self._render = render
        self._query = query
        self._settings = settings
        self._documents: Sequence[Document] = settings.documents or ()
        self._prompt = FittedPrompt([])
        self._adapter = CallAdapter(settings.cache, settings.finetune, settings.kept)
        self._ticket: Ticket | None = None
        self._seconds_retrieval = 0.0
        self._outcome = Outcome(TrainingRecord())

    def start(self) -> Ticket:
        """Reserve capacity, retrieve, and submit the request; once."""
        if self._ticket is None:
            self._ticket = self._start(self._settings.beginning)
            if self._settings.group is not None:
                self._settings.group.add(self)
        return self._ticket

    async def astart(self) -> Ticket:
        """Do the same without blocking the event loop."""
        if self._ticket is None:
            settings, started = self._settings, self._settings.beginning
            action = _PREPARED if settings.retriever is None else _PREPARED_WITH_DOCUMENTS
            self._ticket = await aretrieve_within(
                settings.timeout, self._astart(started), started=started, action=action
            )
        return self._ticket

    def _start(self, started: float) -> Ticket:
        settings = self._settings
        engine = self._engine if isinstance(self._engine, Engine) else self._engine()
        with self._held(settings.admit(engine)) as reservation:
            request = self._request(engine)
            if settings.retriever is not None:
                config: RunnableConfig = {"callbacks": child_callbacks(settings.run)}
                retrieval_started = time.perf_counter()
                query = ask(self._query, engine, settings.timeout, started)
                retrieve = functools.partial(
                    settings.retriever.invoke, query, config, **settings.retrieval
                )
                documents = retrieve_within(settings.timeout, retrieve, started=started)
                request = self._add_documents(engine, request, documents, retrieval_started)
            return engine.submit(
                request, reservation=reservation, timeout=settings.timeout, started=started
            )

    async def _astart(self, started: float) -> Ticket:
        settings, loop = self._settings, asyncio.get_running_loop()
        # With a loaded engine nothing is awaited here, and one at capacity raises at once.
        if isinstance(self._engine, Engine):
            engine = self._engine
        else:
            engine = await loop.run_in_executor(EXECUTOR, self._engine)
        with self._held(await settings.aadmit(engine)) as reservation:
            request = await loop.run_in_executor(EXECUTOR, self._request, engine)
            if settings.retriever is not None:
                config: RunnableConfig = {"callbacks": achild_callbacks(settings.run)}
                retrieval_started = time.perf_counter()
                query = await aask(self._query, engine, settings.timeout, started)
                documents = await settings.retriever.ainvoke(query, config, **settings.retrieval)
                add_documents = functools.partial(self._add_documents, engine, request, documents)
                request = await loop.run_in_executor(EXECUTOR, add_documents, retrieval_started)
            return engine.submit(
                request, reservation=reservation, timeout=settings.timeout, started=started
            )

    def cancel(self) -> None:
        """Cancel the request, if it was submitted and is not done."""
        if self._ticket is not None:
            self._ticket.cancel()

    def __iter__(self) -> Generator[str]:
        """Yield the text in pieces; leaving early cancels the request."""
        run = self._settings.run
        try:
            with closing(iter(self.start())) as events:
                for event in events:
                    if isinstance(event, str):
                        yield event
                    elif isinstance(event, Outcome):
                        self._finish(event)
                    elif isinstance(event, TokenScore | PromptScores):
                        self.scores.add(event)
                    elif run is not None and run.handlers:
                        dispatch_event(run, self._event(event))
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[str]:
        """Do the same without blocking the event loop."""
        run, ticket = self._settings.run, await self.astart()
        async with aclosing(aiter(ticket)) as events:
            async for event in events:
                if isinstance(event, str):
                    yield event
                elif isinstance(event, Outcome):
                    await asyncio.get_running_loop().run_in_executor(EXECUTOR, self._finish, event)
                elif isinstance(event, TokenScore | PromptScores):
                    self.scores.add(event)
                elif run is not None and run.handlers:
                    await adispatch_event(run, self._event(event))

    @contextmanager
    def _held(self, reservation: Reservation) -> Iterator[Reservation]:
        """Reserve room for the training tokens; release all if the block fails."""
        try:
            reservation.resize(self._settings.max_training_tokens())
            yield reservation
        except BaseException:
            reservation.release()
            raise

    def _request(self, engine: Engine) -> Request:
        """Check the prompt, and return the request; documents of a retriever are added later."""
        settings = self._settings
        self._prompt = self._fit_prompt(engine.language_model)
        generation, tokenizer = settings.generation, engine.language_model.tokenizer
        if settings.conversation:
            generation = for_conversation(generation, tokenizer, self._prompt.token_ids)
        grammar = self.rules.grammar(tokenizer, generation.reasoning)
        self.call_opening = self.rules.call_opening(tokenizer, generation.reasoning)
        generation = self.rules.uncut(generation)
        task = GenerationTask(
            self._prompt.token_ids,
            generation,
            grammar=grammar,
            top_scores=settings.top_scores,
            score_prompt=settings.score_prompt,
        )
        request = engine.request(settings.adapter, task, config=settings.finetune)
        if settings.adapter is not None or settings.retriever is not None:
            return request
        return self._with_documents(engine, request)

    def _fit_prompt(self, language_model: LanguageModel) -> FittedPrompt:
        settings, tokenizer = self._settings, language_model.tokenizer
        return fit_documents(
            [document.page_content for document in settings.context],
            functools.partial(self._render, language_model),
            tokenizer,
            room=room_for_prompt(language_model.context_length, settings.generation.max_tokens),
            max_length=settings.finetune.max_length,
        )

    def _add_documents(
        self, engine: Engine, request: Request, documents: Iterable[Document], started: float
    ) -> Request:
        """Return the request with the retrieved documents."""
        self._documents = check_documents(documents, "the retriever's result")
        self._seconds_retrieval = time.perf_counter() - started
        return self._with_documents(engine, request)

    def _with_documents(self, engine: Engine, request: Request) -> Request:
        settings, model = self._settings, engine.language_model
        render = settings.prompt_with or functools.partial(self._render, model)
        material = training_material(
            self._documents, settings.finetune, model, settings.template, render
        )
        request = engine.with_texts(
            request, material.texts, teaching=material.teaching, skip_reason=self._skip_reason()
        )
        return self._adapter.request(engine, request)

    def _skip_reason(self) -> str | None:
        """Return the reason to skip training, if there is one."""
        min_gain = self._settings.finetune.min_gain
        return too_little_to_gain(self._documents, min_gain) if min_gain else None

    def _finish(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._adapter.keep(outcome)

    def _event(self, step: Step) -> dict[str, object]:
        return {**asdict(step), "document": self._documents[step.document].id}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model; loads the model if the answer has not started."""
        engine = self._engine if isinstance(self._engine, Engine) else self._engine()
        return engine.language_model.tokenizer

    @property
    def prompt(self) -> Sequence[int]:
        """The token ids of the prompt, once the answer has started."""
        return self._prompt.token_ids

    @property
    def usage(self) -> UsageMetadata:
        """Number of tokens of the prompt and of the answer, without training tokens."""
        return token_usage(len(self._prompt.token_ids), self._outcome)

    @property
    def finish_reason(self) -> str:
        """Reason for the end of the answer: "stop" or "length"."""
        return self._outcome.finish_reason

    @property
    def metadata(self) -> dict[str, object]:
        """The training and the timings as plain values: `response_metadata["ttft"]`."""
        training = self._outcome.training
        if self._settings.adapter is not None:  # its documents are those of another call
            training = replace(training, trained=(), skipped=(), truncated=())
        context = self._settings.context_record or self._prompt.record(self._settings.context)
        return {
            **context,
            **describe_training(training, self._documents),
            "cached": self._adapter.from_cache or self._settings.adapter is not None,
            "shortened": self._outcome.shortened,
            "seconds": {
                "retrieval": self._seconds_retrieval,
                "waiting": self._outcome.seconds_waiting,
                "teaching": training.seconds_teacher,
                "training": training.seconds,
                "generation": self._outcome.seconds_task,
            },
        }
