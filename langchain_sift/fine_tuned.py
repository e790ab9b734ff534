"""What the chat model and the text model share: retrieve, fine-tune, answer, forget."""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, replace
from itertools import repeat
from typing import Any, TypeVar

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.language_models import LangSmithParams
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_config_list,
    get_executor_for_config,
)
from langchain_core.utils.uuid import uuid7
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError, RequestTimeout
from langchain_sift.extras import require
from langchain_sift.retrievers import SIFTRetriever

require("ttft", "torch", "transformers")

from langchain_sift.ttft import (  # noqa: E402
    AdapterCache,
    Answering,
    Engine,
    Outcome,
    Request,
    Step,
    Ticket,
    TrainingRecord,
    load_language_model,
    shared_engine,
)
from langchain_sift.ttft.tokens import well_formed  # noqa: E402

T = TypeVar("T")

_RECIPE_SETTINGS = (
    "learning_rate",
    "steps_per_document",
    "max_documents",
    "max_train_tokens",
    "max_train_seconds",
    "min_gain",
)
CALL_SETTINGS = (
    "documents",
    "retriever",
    "k",
    "filter",
    "max_tokens",
    "temperature",
    "seed",
    "stop",
    "timeout",
    *_RECIPE_SETTINGS,
)
_GAIN = "langchain_sift_gain"
_DOCUMENTS_OF_AN_UNKNOWN_RETRIEVER = 16  # reserved before it is asked

# Tokenizing and loading for coroutines: not in the event loop, and not in its own executor,
# which others need.
_PREPARING = ThreadPoolExecutor(4, thread_name_prefix="langchain-sift-prepare")


class TestTimeFineTuning(BaseModel):
    """The fields of both faces, and one request from prompt to answer."""

    __test__ = False  # pytest takes any class whose name begins with Test for one of its own

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    """A name on the Hugging Face hub, a folder, or a loaded causal `PreTrainedModel`, which is
    never changed. Loaded on first use, once for all who name it."""

    tokenizer: Any = Field(default=None, exclude=True)
    """Required with a loaded model."""

    retriever: Runnable[str, list[Document]] | None = Field(default=None, exclude=True)
    """Where the documents of a prompt come from, most informative first. A `SIFTRetriever` is
    asked for its choice with repeats. None: only `documents=` of a call are learned from."""

    finetune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    """How the model learns from them."""

    limits: Limits = Field(default_factory=Limits)
    """How many prompts are trained together, and how many may wait."""

    max_tokens: int = 256
    """Largest number of tokens of an answer; fewer where the model's context ends first."""

    temperature: float = 0.0
    """0 always takes the likeliest token."""

    seed: int | None = None
    """Of the sampling at a temperature above 0; None: another answer each time."""

    stop: list[str] | None = None
    """An answer ends before the first of these strings."""

    timeout: float | None = 600.0
    """Seconds from being asked to the last token; then `RequestTimeout`. None: no limit."""

    revision: str | None = None
    """Branch, tag or commit of a named model."""

    device: str | None = None
    """Where to load a named model to: by default "cuda" where there is one, else "cpu"."""

    dtype: str | None = None
    """Of a named model's weights: by default bfloat16 on an accelerator and where this CPU is
    faster with it, else float32."""

    quantization: str | None = None
    """Of a named model's weights: "4bit" or "8bit" (with bitsandbytes), or none."""

    cache: BaseCache | bool | None = False
    """LangChain's cache of answers. Off, for an answer depends on what the store held when it
    was asked; on, it needs a `corpus_version`."""

    adapter_cache: AdapterCache | None = Field(default=None, exclude=True)
    """Where adapters are kept, so that what was learned once is not learned again: the same
    documents in the same order, by the same recipe, for the same tenant. None: nowhere."""

    corpus_version: str | Callable[[], str] | None = Field(default=None, exclude=True)
    """Names the state of the documents, as part of what a cached answer is found by."""

    _engine: Engine | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_settings(self) -> TestTimeFineTuning:
        self._generation({})
        _check_timeout(self.timeout)
        if self.cache is not False and self.corpus_version is None:
            msg = (
                "caching needs corpus_version=..., a name (or a function that returns it) of the "
                "documents' state: else an answer would outlive the documents it was learned from"
            )
            raise ArgumentError(msg)
        return self

    @property
    def engine(self) -> Engine:
        """The engine that answers; loads the model on first use."""
        if self._engine is None:
            language_model = load_language_model(
                self.model,
                self.tokenizer,
                revision=self.revision,
                device=self.device,
                dtype=self.dtype,
                quantization=self.quantization,
            )
            self._engine = shared_engine(language_model, self.finetune, self.limits)
        return self._engine

    @property
    def _model_name(self) -> str:
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What distinguishes one configured model from another."""
        version = self.corpus_version
        loaded = None if isinstance(self.model, str) else _serial_of(self.model)
        return {
            "model": self._model_name,
            "loaded": loaded,
            "revision": self.revision,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "finetune": repr(self.finetune),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop": self.stop,
            # Part of what a cached answer is found by: another may be another tenant's.
            "retriever": None if self.cache is False else repr(self.retriever),
            "corpus_version": version() if callable(version) else version,
        }

    def _named(self, params: LangSmithParams, call: Mapping[str, Any]) -> LangSmithParams:
        """Return what a trace tells of the model, with its provider and name."""
        params["ls_provider"] = "langchain-sift"
        params["ls_model_name"] = str(call.get("model", self._model_name))
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Return the text's tokens in the model's own tokenizer."""
        tokenizer = self.engine.language_model.tokenizer
        token_ids: list[int] = tokenizer(well_formed(text), verbose=False)["input_ids"]
        return token_ids

    def _generation(self, call: Mapping[str, Any]) -> GenerationConfig:
        stop = call.get("stop") or self.stop or ()
        if isinstance(stop, str):
            stop = (stop,)
        return GenerationConfig(
            max_tokens=call.get("max_tokens", self.max_tokens),
            temperature=call.get("temperature", self.temperature),
            seed=call.get("seed", self.seed),
            stop=tuple(stop),
        )

    def _answer(
        self,
        prompt: Callable[[], list[int]],
        query: str,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        *,
        stop: list[str] | None,
        keep_special_tokens: bool = False,
        **call: Any,
    ) -> Answer:
        """Return the answer to one prompt, to be iterated over; nothing is done for it yet.

        Raises:
            ArgumentError: If `call` holds what is no setting of a call, or a value that none of
                them takes.
        """
        for name in call:
            if name not in CALL_SETTINGS:
                msg = f"{name!r} is no setting of a call: use one of {list(CALL_SETTINGS)}"
                raise ArgumentError(msg)
        generation = self._generation(call if stop is None else {**call, "stop": stop})
        recipe = {name: call[name] for name in _RECIPE_SETTINGS if name in call}
        retriever = call.get("retriever", self.retriever)
        asked: dict[str, Any] = {name: call[name] for name in ("k", "filter") if name in call}
        timeout = call.get("timeout", self.timeout)
        _check_timeout(timeout)
        return Answer(
            engine=self._engine or (lambda: self.engine),
            prompt=prompt,
            documents=call.get("documents"),
            source=None if retriever is None else _Source(retriever, well_formed(query), asked),
            recipe=replace(self.finetune, **recipe),
            generation=replace(generation, keep_special_tokens=keep_special_tokens),
            timeout=timeout,
            cache=self.adapter_cache,
            run_manager=run_manager or _run.get(),
        )

    # LangChain gives `_generate` and the text model's `_stream` their run, and the chat model's
    # `_stream` none: what it retrieves and learns would be no part of its run.

    def stream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Answer piece by piece."""
        config, run = self._begin_run(config, CallbackManager)
        pieces = super().stream(input, config, stop=stop, **kwargs)  # type: ignore[misc]
        with closing(pieces):
            with _within(run):  # up to the first piece, everything is retrieved and learned
                first = next(pieces, None)
            if first is not None:
                yield first
                yield from pieces

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Do the same without blocking the event loop."""
        config, run = self._begin_run(config, AsyncCallbackManager)
        pieces = super().astream(input, config, stop=stop, **kwargs)  # type: ignore[misc]
        async with aclosing(pieces):
            with _within(run):
                first = await anext(pieces, None)
            if first is not None:
                yield first
                async for piece in pieces:
                    yield piece

    def _begin_run(
        self,
        config: RunnableConfig | None,
        kind: type[CallbackManager] | type[AsyncCallbackManager],
    ) -> tuple[RunnableConfig, BaseRunManager]:
        """Return a configuration, and the run that there will be of it."""
        model: Any = self
        config = ensure_config(config)
        manager = kind.configure(
            config.get("callbacks"),
            model.callbacks,
            model.verbose,
            config.get("tags"),
            model.tags,
            config.get("metadata"),
            model.metadata,
        )
        run_id = config.get("run_id") or uuid7()
        run = BaseRunManager(
            run_id=run_id,
            handlers=manager.handlers,
            inheritable_handlers=manager.inheritable_handlers,
            tags=manager.tags,
            inheritable_tags=manager.inheritable_tags,
            metadata=manager.metadata,
            inheritable_metadata=manager.inheritable_metadata,
        )
        return {**config, "callbacks": manager, "run_id": run_id}, run

    def _generate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        with _within(run_manager):  # it may call `_stream`
            return super()._generate_with_cache(  # type: ignore[misc]
                messages, stop=stop, run_manager=run_manager, **kwargs
            )

    async def _agenerate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        with _within(run_manager):
            return await super()._agenerate_with_cache(  # type: ignore[misc]
                messages, stop=stop, run_manager=run_manager, **kwargs
            )

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer several prompts, as many together as the engine trains together.

        With `return_exceptions` a prompt that fails fails alone. Without, or where the caller is
        interrupted, the others are cancelled: nobody waits for them any more.
        """
        model: Any = self
        configs = self._together(config, len(inputs))

        def answer(prompt: Any, config: RunnableConfig) -> Any:
            try:
                return model.invoke(prompt, config, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        if len(inputs) < 2:  # noqa: PLR2004 - no thread for what is alone
            return list(map(answer, inputs, configs))
        # Cancelled before the executor waits for its threads.
        with get_executor_for_config(configs[0]) as executor, _AllOrNone():
            answers = list(map(executor.submit, repeat(answer), inputs, configs))
            try:
                for one in as_completed(answers):
                    one.result()
            finally:
                for one in answers:
                    one.cancel()
            return [one.result() for one in answers]

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Do the same without blocking the event loop."""
        model: Any = self
        configs = self._together(config, len(inputs))
        room = asyncio.Semaphore(configs[0]["max_concurrency"] or 1) if configs else None

        async def answer(prompt: Any, config: RunnableConfig) -> Any:
            assert room is not None  # noqa: S101 - there is a configuration
            async with room:
                try:
                    return await model.ainvoke(prompt, config, **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return error
                    raise

        return await all_or_none(map(answer, inputs, configs))

    def _together(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
    ) -> list[RunnableConfig]:
        """Return configurations with which a batch keeps the engine's batches full.

        And no fuller: a batch is not refused for being larger than what may wait at once.
        """
        enough = min(max(2, 2 * self.limits.max_batch_size), self.limits.max_requests)
        return [
            {**one, "max_concurrency": one.get("max_concurrency") or enough}
            for one in get_config_list(config, count)
        ]


_serials: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _serial_of(model: Any) -> str:
    """Return what tells a loaded model from all others, in this process and in others."""
    return _serials.setdefault(model, uuid.uuid4().hex)


_run: ContextVar[BaseRunManager | None] = ContextVar("langchain_sift_run", default=None)


@contextmanager
def _within(run: BaseRunManager | None) -> Iterator[None]:
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


async def all_or_none(answers: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all answers at once; where one fails, cancel the others: nobody waits for them."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class _AllOrNone:
    """Where the block fails, all answers begun in it are cancelled, in whatever thread."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._failed = False

    def add(self, answer: Answer) -> None:
        self._answers.append(answer)
        if self._failed:
            answer.cancel()

    def __enter__(self) -> None:
        self._token = _begun_in.set(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _begun_in.reset(self._token)
        if kind is not None:
            self._failed = True
            for answer in self._answers:
                answer.cancel()


# LangChain's executors run in copies of the caller's context.
_begun_in: ContextVar[_AllOrNone | None] = ContextVar("langchain_sift_begun_in", default=None)


def _check_timeout(seconds: object) -> None:
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        msg = f"timeout must be positive, or None for no limit, got {seconds!r}"
        raise ArgumentError(msg)


def _checked(documents: Iterable[Document], source: str) -> list[Document]:
    """Return the documents as a list.

    Raises:
        ArgumentError: If they are none; the message names place and type, and no text.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        msg = f"{source} must be a sequence of Documents, got one {type(documents).__name__}"
        raise ArgumentError(msg)
    listed = list(documents)
    for index, document in enumerate(listed):
        text = document.page_content if isinstance(document, Document) else None
        if not isinstance(text, str):
            found = type(document if text is None else text).__name__
            msg = f"{source} must be Documents with a text each, got {found} at index {index}"
            raise ArgumentError(msg)
    return listed


class _Source:
    """Where the documents of one prompt come from, and how they are asked for."""

    def __init__(
        self, retriever: Runnable[str, list[Document]], query: str, asked: dict[str, Any]
    ) -> None:
        self._query = query
        self._asked = asked
        self._retriever = retriever
        self.k = _DOCUMENTS_OF_AN_UNKNOWN_RETRIEVER
        self.scores = isinstance(retriever, SIFTRetriever)
        if isinstance(retriever, SIFTRetriever):
            settings = {"k": retriever.k, **retriever.search_kwargs, **asked}
            if isinstance(settings["k"], int):  # else the retriever says what is wrong
                self.k = settings["k"]
            # A repeat is one more gradient step on what matters most (arXiv 2410.08020).
            self._asked = {"replace": True, **asked}
            self._retriever = retriever.model_copy(update={"score_key": _GAIN})

    def documents(self, callbacks: CallbackManager | None) -> list[Document]:
        return self._retriever.invoke(self._query, {"callbacks": callbacks}, **self._asked)

    async def adocuments(self, callbacks: AsyncCallbackManager | None) -> list[Document]:
        return await self._retriever.ainvoke(self._query, {"callbacks": callbacks}, **self._asked)


class Answer:
    """One request: iterate over it for the text; afterwards it knows what happened."""

    def __init__(
        self,
        *,
        engine: Engine | Callable[[], Engine],
        prompt: Callable[[], list[int]],
        documents: Iterable[Document] | None,
        source: _Source | None,
        recipe: FineTuneConfig,
        generation: GenerationConfig,
        timeout: float | None,
        cache: AdapterCache | None,
        run_manager: BaseRunManager | None,
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
            place = stack.enter_context(engine.admit(self._most_tokens()))
            self._read_prompt(engine)
            if self._given is None and self._source is not None:
                asked = time.perf_counter()
                self._found(self._source.documents(self._callbacks()), asked)
            request = self._request(engine)
            self._ticket = engine.submit(request, place=place, timeout=self._timeout, since=began)
            stack.pop_all()
        block = _begun_in.get()
        if block is not None:
            block.add(self)
        return self._ticket

    async def astart(self) -> Ticket:
        """As `start`, without blocking the event loop."""
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                return await self._astart(time.perf_counter())
        except TimeoutError as error:
            if not deadline.expired():  # the store's, or the engine's own
                raise
            msg = f"the prompt's documents were not there within {self._timeout} s"
            raise RequestTimeout(msg) from error

    async def _astart(self, began: float) -> Ticket:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            if isinstance(self._engine, Engine):  # where it is full, it says so at once
                engine = self._engine
            else:
                engine = await loop.run_in_executor(_PREPARING, self._engine)
            place = stack.enter_context(engine.admit(self._most_tokens()))
            await loop.run_in_executor(_PREPARING, self._read_prompt, engine)
            if self._given is None and self._source is not None:
                asked = time.perf_counter()
                self._found(await self._source.adocuments(self._acallbacks()), asked)
            request = await loop.run_in_executor(_PREPARING, self._request, engine)
            self._ticket = engine.submit(request, place=place, timeout=self._timeout, since=began)
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
                        self._tell(event)
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
                    await self._atell(event)
                else:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(_PREPARING, self._ended, event)

    def _most_tokens(self) -> int:
        """Return how many training tokens to reserve before anything is known but numbers."""
        recipe = self._recipe
        if self._given is not None:
            # A token is at least one byte; some tokenizers begin and end a text with one more.
            texts = (
                d.page_content[: recipe.max_length] for d in self._given[: recipe.max_documents]
            )
            lengths = (len(text.encode("utf-8", "surrogatepass")) + 2 for text in texts)
            tokens = sum(min(recipe.max_length, length) for length in lengths)
        elif self._source is not None:
            documents = min(self._source.k, recipe.max_documents or self._source.k)
            tokens = documents * recipe.max_length
        else:
            tokens = 0
        tokens *= recipe.steps_per_document
        return min(tokens, recipe.max_train_tokens or tokens)

    def _read_prompt(self, engine: Engine) -> None:
        self._prompt = self._make_prompt()
        engine.check_prompt(self._prompt)

    def _found(self, documents: Sequence[Document], asked: float) -> None:
        self._documents = _checked(documents, "what the retriever returns")
        self._seconds_retrieval = time.perf_counter() - asked

    def _request(self, engine: Engine) -> Request:
        if self._given is not None:
            self._documents = self._given
        request = engine.request(
            [document.page_content for document in self._documents],
            Answering(self._prompt, self._generation),
            config=self._recipe,
            untaught=self._too_little_to_gain(),
        )
        if self._cache is None or not request.documents:
            return request
        self._key = self._cache.key(engine.fingerprint, request)
        adapter = self._cache.get(self._key)
        self._cached = adapter is not None
        return replace(request, keep=True) if adapter is None else request.taught_by(adapter)

    def _ended(self, outcome: Outcome) -> None:
        self._outcome = outcome
        if self._cache is not None and self._key is not None and outcome.adapter is not None:
            self._cache.put(self._key, outcome.adapter)

    def _too_little_to_gain(self) -> str | None:
        gains = self._gains()
        gain = sum(gain for gain in gains if gain is not None)
        if None not in gains and gain < self._recipe.min_gain:
            return f"the documents' gain, {gain:.3g}, is below {self._recipe.min_gain}"
        return None

    def _gains(self) -> list[float | None]:
        if self._source is None or not self._source.scores or self._given is not None:
            return [None] * len(self._documents)
        return [document.metadata.get(_GAIN) for document in self._documents]

    def _callbacks(self) -> CallbackManager | None:
        manager = self._run_manager
        return None if manager is None else CallbackManager(**_child_of(manager))

    def _acallbacks(self) -> AsyncCallbackManager | None:
        manager = self._run_manager
        return None if manager is None else AsyncCallbackManager(**_child_of(manager))

    def _tell(self, step: Step) -> None:
        manager = self._run_manager
        if manager is not None and manager.handlers:
            config: RunnableConfig = {"callbacks": CallbackManager(**_itself(manager))}
            dispatch_custom_event("ttft_step", self._event(step), config=config)

    async def _atell(self, step: Step) -> None:
        manager = self._run_manager
        if manager is not None and manager.handlers:
            config: RunnableConfig = {"callbacks": AsyncCallbackManager(**_itself(manager))}
            await adispatch_custom_event("ttft_step", self._event(step), config=config)

    def _event(self, step: Step) -> dict[str, Any]:
        return {**asdict(step), "document": self._documents[step.document].id}

    @property
    def usage(self) -> UsageMetadata:
        """Tokens of the prompt and of the answer; those trained on are counted apart."""
        return UsageMetadata(
            input_tokens=len(self._prompt),
            output_tokens=self._outcome.tokens,
            total_tokens=len(self._prompt) + self._outcome.tokens,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What was learned from, as plain values: `response_metadata["ttft"]`."""
        training = self._outcome.training
        ids = [document.id for document in self._documents]
        gains = self._gains()
        return {
            "documents": [ids[index] for index in training.trained],
            "gains": [gains[index] for index in training.trained],
            "skipped": [ids[index] for index in training.skipped],
            "truncated": [ids[index] for index in training.truncated],
            "steps": training.steps,
            "tokens": training.tokens,
            "losses": list(training.losses),
            "losses_after": list(training.losses_after),
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


def _child_of(manager: BaseRunManager) -> dict[str, Any]:
    """Return what a run within this one inherits; a model's manager has no `get_child`."""
    return {
        "handlers": manager.inheritable_handlers,
        "inheritable_handlers": manager.inheritable_handlers,
        "parent_run_id": manager.run_id,
        "tags": manager.inheritable_tags,
        "inheritable_tags": manager.inheritable_tags,
        "metadata": manager.inheritable_metadata,
        "inheritable_metadata": manager.inheritable_metadata,
    }


def _itself(manager: BaseRunManager) -> dict[str, Any]:
    """Return what an event of this run goes to: also handlers that its model alone has."""
    own = {"handlers": manager.handlers, "tags": manager.tags, "metadata": manager.metadata}
    return {**_child_of(manager), **own}
