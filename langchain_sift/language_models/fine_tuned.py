"""What the chat model and the text model share: retrieve, fine-tune, answer, forget."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import as_completed
from contextlib import aclosing, closing, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, Self, TypeVar

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.documents import Document
from langchain_core.language_models import LangSmithParams
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_config_list,
    get_executor_for_config,
)
from langchain_core.utils.uuid import uuid7
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.calibrated_settings import CalibratedSettings, read_settings
from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer import Answer, Source
from langchain_sift.language_models.batches import all_or_none, cancelled_together
from langchain_sift.language_models.identity import cache_key, identifier_of
from langchain_sift.ttft import (
    AdapterCache,
    Engine,
    load_language_model,
    shared_engine,
)
from langchain_sift.ttft.model.tokens import well_formed

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
    "reservation",
    *_RECIPE_SETTINGS,
)


class TestTimeFineTuning(BaseModel):
    """The fields of both faces, and one request from prompt to answer."""

    __test__ = False  # pytest takes any class whose name begins with Test for one of its own

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    """A name on the Hugging Face hub, a folder, or a loaded causal `PreTrainedModel`, which is
    never changed. Loaded on first use, once for all who name it."""

    tokenizer: Any = Field(default=None, exclude=True)
    """A `PreTrainedTokenizerBase`; required with a loaded model."""

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
    """Seconds from being asked to the last token; then `RequestTimeout`. The retriever is waited
    for no longer either, and for that called in a thread of its own. None: no limit."""

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
    was asked; on, it needs a `corpus_version`. Only who has the same retriever, the object
    itself, finds an answer again: nothing else tells one tenant's from another's."""

    adapter_cache: AdapterCache | None = Field(default=None, exclude=True)
    """Where adapters are kept, so that what was learned once is not learned again: the same
    documents in the same order, by the same recipe, for the same tenant. None: nowhere."""

    corpus_version: str | Callable[[], str] | None = Field(default=None, exclude=True)
    """Names the state of the documents, as part of what a cached answer is found by."""

    held: Any = Field(default_factory=list, exclude=True, repr=False)
    """Not to be given: holds the engine for the copies too that LangChain makes of a model's
    fields, one for each call of a configurable model, so that none has to load it again."""

    _engine: Engine | None = PrivateAttr(default=None)

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: Any) -> str | PreTrainedModel:
        named = os.fspath(model) if isinstance(model, os.PathLike) else model
        if not isinstance(named, str | PreTrainedModel):
            raise ArgumentError(
                "model must be a name, a folder or a PreTrainedModel of transformers, "
                f"got a {type(model).__name__}"
            )
        return named

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, tokenizer: Any) -> PreTrainedTokenizerBase | None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
            raise ArgumentError(
                "tokenizer must be a PreTrainedTokenizerBase of transformers, or None for that of "
                f"the model's name, got a {type(tokenizer).__name__}"
            )
        return tokenizer

    @model_validator(mode="after")
    def _check_settings(self) -> TestTimeFineTuning:
        self._generation({})
        _check_timeout(self.timeout)
        if self.cache is not False and self.corpus_version is None:
            raise ArgumentError(
                "caching needs corpus_version=..., a name (or a function that returns it) of the "
                "documents' state: else an answer would outlive the documents it was learned from"
            )
        return self

    @classmethod
    def from_settings(cls, settings: CalibratedSettings | Path | str, **fields: Any) -> Self:
        """Return a model that learns as `calibrate` chose.

        Args:
            settings: What was chosen, or the file that it was written to: the model, learning
                rate, rank and length of documents. `SIFTRetriever.from_settings` takes the rest.
            **fields: Fields of the model, which go before the settings; `finetune` in place of
                all that they say of training, `model` if it is loaded already or lies elsewhere.

        Raises:
            ArgumentError: If the file cannot be read, or is not what `calibrate` writes.
        """
        saved = read_settings(settings)
        return cls(**{"model": saved.model, "finetune": saved.finetune_config(), **fields})

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
            self.held[:] = [self._engine]
        return self._engine

    @property
    def _model_name(self) -> str:
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What distinguishes one configured model from another."""
        version = self.corpus_version
        return {
            "model": self._model_name,
            "loaded": None if isinstance(self.model, str) else identifier_of(self.model),
            "tokenizer": None if self.tokenizer is None else identifier_of(self.tokenizer),
            "revision": self.revision,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "finetune": repr(self.finetune),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop": self.stop,
            # Part of what a cached answer is found by: another may be another tenant's.
            "retriever": None if self.cache is False else cache_key(self.retriever),
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
        stop: Any = call.get("stop") or self.stop or ()
        return GenerationConfig(
            max_tokens=call.get("max_tokens", self.max_tokens),
            temperature=call.get("temperature", self.temperature),
            seed=call.get("seed", self.seed),
            stop=(stop,) if isinstance(stop, str) else stop,
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
                raise ArgumentError(
                    f"{name!r} is no setting of a call: use one of {list(CALL_SETTINGS)}"
                )
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
            source=None if retriever is None else Source(retriever, well_formed(query), asked),
            recipe=replace(self.finetune, **recipe),
            generation=replace(generation, keep_special_tokens=keep_special_tokens),
            timeout=timeout,
            cache=self.adapter_cache,
            run_manager=run_manager or _run.get(),
            reservation=call.get("reservation"),
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
            with _within(_run, run):  # up to the first piece, everything is retrieved and learned
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
            with _within(_run, run):
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
        with _within(_run, run_manager):  # it may call `_stream`
            return super()._generate_with_cache(  # type: ignore[misc]
                messages, stop=stop, run_manager=run_manager, **kwargs
            )

    async def _agenerate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        with _within(_run, run_manager):
            async with _room.get() or nullcontext():
                return await super()._agenerate_with_cache(  # type: ignore[misc]
                    messages, stop=stop, run_manager=run_manager, **kwargs
                )

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Answer a list of conversations, as many together as `abatch`."""
        # LangChain asks all of them at once.
        with _within(_room, asyncio.Semaphore(self.limits.at_once)):
            result: LLMResult = await super().agenerate(*args, **kwargs)  # type: ignore[misc]
        return result

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

        if len(inputs) < 2:
            return list(map(answer, inputs, configs))
        # Cancelled before the executor waits for its threads.
        with get_executor_for_config(configs[0]) as executor, cancelled_together():
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

    def batch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Do as `batch` does, and yield each answer, with its place, when it is there."""
        model: Any = super()
        yield from model.batch_as_completed(inputs, self._together(config, len(inputs)), **kwargs)

    async def abatch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """Do the same without blocking the event loop."""
        model: Any = super()
        configs = self._together(config, len(inputs))
        async for one in model.abatch_as_completed(inputs, configs, **kwargs):
            yield one

    def _together(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
    ) -> list[RunnableConfig]:
        """Return configurations with which no more is asked at once than is good for a list."""
        enough = self.limits.at_once
        return [
            {**one, "max_concurrency": one.get("max_concurrency") or enough}
            for one in get_config_list(config, count)
        ]


_run: ContextVar[BaseRunManager | None] = ContextVar("langchain_sift_run", default=None)
_room: ContextVar[asyncio.Semaphore | None] = ContextVar("langchain_sift_room", default=None)


@contextmanager
def _within(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _check_timeout(seconds: object) -> None:
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise ArgumentError(f"timeout must be positive, or None for no limit, got {seconds!r}")
