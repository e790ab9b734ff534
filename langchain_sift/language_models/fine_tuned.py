"""Define the fields and methods that the chat model and the text model share.

Longer than 300 lines: pydantic and LangChain require the documented fields and the methods that
override theirs in one class.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseRunManager
from langchain_core.documents import Document
from langchain_core.language_models import LangSmithParams
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import AnyConfigurableField
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
from langchain_sift.checks import check_integer, check_timeout
from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.batches import (
    AnswerGroup,
    AsyncSharedRoom,
    Place,
    SharedRoom,
    batch_configs,
    gather_or_cancel,
    run_batch,
)
from langchain_sift.language_models.call_settings import (
    FINETUNE_SETTINGS,
    GENERATION_SETTINGS,
    CallSettings,
    check_arguments,
    check_documents,
    read_iterators,
)
from langchain_sift.language_models.chat_templates.rendering import count_tokens
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.chat_templates.tools import convert_tools
from langchain_sift.language_models.context import (
    FittedPrompt,
    Render,
    fit_documents,
    room_for_prompt,
)
from langchain_sift.language_models.identity import cache_key, identifier_of
from langchain_sift.language_models.modes import retriever_for
from langchain_sift.language_models.preparing import EXECUTOR
from langchain_sift.language_models.sessions import (
    Closable,
    alearn,
    as_adapter,
    check_adapter,
    check_has_effect,
    learn,
)
from langchain_sift.language_models.synchronous import abandonable
from langchain_sift.language_models.token_logprobs import top_scores
from langchain_sift.retrieval.copies import shared_parts
from langchain_sift.ttft import (
    AdapterCache,
    Engine,
    TrainedAdapter,
    load_language_model,
    shared_engine,
)
from langchain_sift.ttft.model.load_settings import wrong_model
from langchain_sift.ttft.model.tokens import text_tokens

PromptOf = Callable[[str], PromptValue]
"""Return the prompt with the texts of documents, joined by blank lines."""

_FIELDS_OF_THE_ENGINE = frozenset(
    {
        "model",
        "tokenizer",
        "gguf_file",
        "revision",
        "device",
        "dtype",
        "quantization",
        "finetune",
        "limits",
    }
)


class TestTimeFineTuning(Closable, BaseModel):
    """The fields of both models, the engine, and the settings of a call."""

    __test__ = False  # pytest would collect any class whose name begins with Test

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    """A name on the Hugging Face Hub, a folder, a GGUF file, or a loaded causal `PreTrainedModel`.
    The model is never modified. A named model is loaded on first use and shared within the
    process, also by deep copies. A pickle has the name alone, or the weights of a loaded model."""

    tokenizer: Any = Field(default=None, exclude=True)
    """A `PreTrainedTokenizerBase`; required with a loaded model. None means that of the name."""

    retriever: Runnable[str, list[Document]] | None = Field(default=None, exclude=True)
    """Returns the documents for a prompt, the most informative first. A document that it returns
    more than once gets as many gradient steps; a `SIFTRetriever` repeats documents only with
    `replace=True`. None means that the model trains only on the `documents=` of a call."""

    finetune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    """Settings of the fine-tuning."""

    limits: Limits = Field(default_factory=Limits)
    """Number of prompts in a batch, and limits of the queue."""

    max_tokens: int = 256
    """Maximum number of tokens of an answer; fewer if the model's context ends first."""

    temperature: float | None = None
    """Sampling temperature. At 0 the most likely token is chosen. None means what the checkpoint's
    `generation_config` recommends, or 0 if it does not recommend sampling."""

    top_p: float | None = None
    """Sample from the likeliest tokens with together this probability; 1 means all. None means
    what the checkpoint recommends, or else all."""

    top_k: int | None = None
    """Sample from this many of the likeliest tokens; 0 means all. None as in `top_p`."""

    min_p: float | None = None
    """Sample from tokens with at least this share of the likeliest token's probability; 0 means
    all. None as in `top_p`."""

    repetition_penalty: float | None = None
    """Above 1, discourages tokens that the prompt or the answer contains; 1 has no effect. None
    means that of the checkpoint, or else 1."""

    frequency_penalty: float = 0.0
    """Lowers a token's score by this for each time that the answer contains it; from -2 to 2."""

    presence_penalty: float = 0.0
    """Lowers the score of each token that the answer contains by this; from -2 to 2."""

    seed: int | None = None
    """Seed of the sampling. None means a different answer each time."""

    stop: list[str] | None = None
    """Strings before which an answer ends, unless it is an answer in a given format or a required
    call, of which only the whole is valid."""

    timeout: float | None = 600.0
    """Seconds from the call to the last token; then `RequestTimeout`. It includes the retrieval,
    which for this purpose runs in a separate thread. None means no limit."""

    gguf_file: str | None = None
    """GGUF file of a named model, whose weights are unpacked to `dtype`. None means that `model`
    names it, or that there is none."""

    revision: str | None = None
    """Branch, tag or commit of a named model."""

    device: str | None = None
    """Device for a named model. None means "cuda" if available, otherwise "cpu"."""

    dtype: str | None = None
    """Type of a named model's weights. None means bfloat16 on an accelerator and on a CPU that is
    faster with it, otherwise float32."""

    quantization: str | None = None
    """Quantization of a named model's weights: "4bit" or "8bit" (with bitsandbytes), or None."""

    cache: BaseCache | bool | None = False
    """LangChain's cache of answers, off by default: an answer depends on the documents in the
    store. It needs a `corpus_version`. The key includes the identity of the retriever, so that
    tenants do not share answers."""

    adapter_cache: AdapterCache | None = Field(default=None, exclude=True)
    """Cache of trained adapters. An adapter is used again for the same documents in the same
    order, with the same `finetune` and for the same tenant. None means no cache."""

    corpus_version: str | Callable[[], str] | None = Field(default=None, exclude=True)
    """Version of the documents, or a function that returns it: part of the key of `cache`."""

    adapter: TrainedAdapter | None = Field(default=None, exclude=True)
    """Trained adapter to answer with, as `learn` sets it. Calls then retrieve and train nothing,
    unless they bring documents or a retriever. None means to fine-tune for each prompt."""

    _engine: Engine | None = PrivateAttr(default=None)
    _closed: bool = PrivateAttr(default=False)

    # The engine that was created last. Copies of a model that need the same share this list.
    _kept_engine: list[Engine] = PrivateAttr(default_factory=list)

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: Any) -> str | PreTrainedModel:
        model = os.fspath(model) if isinstance(model, os.PathLike) else model
        if not isinstance(model, str | PreTrainedModel):
            raise wrong_model(model)
        return model

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, tokenizer: Any) -> PreTrainedTokenizerBase | None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
            raise ArgumentError(
                "tokenizer must be a PreTrainedTokenizerBase of transformers, or None for that of "
                f"the model's name, got a {type(tokenizer).__name__}"
            )
        return tokenizer

    @field_validator("adapter", mode="before")
    @classmethod
    def _check_adapter(cls, adapter: object) -> TrainedAdapter | None:
        return None if adapter is None else as_adapter(adapter)

    @model_validator(mode="after")
    def _check_settings(self) -> TestTimeFineTuning:
        self._generation_config({})
        check_timeout("timeout", self.timeout, optional=True)
        if self.cache is not False and self.corpus_version is None:
            raise ArgumentError(
                "caching needs corpus_version=..., a version of the documents or a function that "
                "returns it: otherwise an answer would outlive the documents behind it"
            )
        return self

    @classmethod
    def from_settings(cls, settings: CalibratedSettings | Path | str, **fields: Any) -> Self:
        """Create a model with the settings that `calibrate` chose.

        Args:
            settings: The settings, or the file with them. The model uses the name of the model,
                the learning rate, the rank and the length of documents;
                `SIFTRetriever.from_settings(..., for_training=True)` uses the others.
            **fields: Fields of the model; they take precedence. `finetune` replaces all settings
                of the fine-tuning, `model` the name of the model.

        Raises:
            ArgumentError: If the file cannot be read, or was not written by `calibrate`, or only
                retrieval was calibrated and no `model` is given.
        """
        saved = read_settings(settings)
        if saved.model is None and "model" not in fields:
            raise ArgumentError(
                "these settings are of retrieval alone and name no model: pass model=..., or "
                "calibrate with a model"
            )
        return cls(**{"model": saved.model, "finetune": saved.finetune_config(), **fields})

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; one that shapes the engine takes another engine for the next call."""
        if name == "adapter" and value is not None:
            value = as_adapter(value)
        super().__setattr__(name, value)
        if name == "adapter" and value is not None:
            self._closed = False
        if name in _FIELDS_OF_THE_ENGINE:
            self._engine = None
            self._kept_engine = list(self._kept_engine)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values of some fields; it shares the engine if that fits."""
        copied = super().model_copy(update=update, deep=deep)
        if update and update.get("adapter") is not None:
            copied.adapter = update["adapter"]  # pydantic does not check it
        if update and not _FIELDS_OF_THE_ENGINE.isdisjoint(update):
            copied._engine = None
            copied._kept_engine = list(copied._kept_engine)  # keeps the weights
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the model, the engine, the retriever and the caches."""
        parts = {**vars(self), "engine": self._engine}
        memo = shared_parts(parts, memo)
        memo[id(self._kept_engine)] = self._kept_engine
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """Return the fields: a named model is loaded again where it is unpickled.

        Of a model that was passed loaded, they contain the weights.
        """
        state = super().__getstate__()
        fields = dict(state["__dict__"])  # read before `_closed`: another thread may close it
        private: dict[str, object] = {"_engine": None, "_kept_engine": [], "_closed": self._closed}
        return {**state, "__dict__": fields, "__pydantic_private__": private}

    @property
    def engine(self) -> Engine:
        """The engine; loads the model on first use."""
        if self._engine is None:
            language_model = load_language_model(
                self.model,
                self.tokenizer,
                gguf_file=self.gguf_file,
                revision=self.revision,
                device=self.device,
                dtype=self.dtype,
                quantization=self.quantization,
            )
            self._engine = shared_engine(language_model, self.finetune, self.limits)
            self._kept_engine[:] = [self._engine]
        return self._engine

    def learn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Train on documents once, and return a model that answers with the trained adapter.

        As a context manager, the model releases the adapter at the end, and then refuses calls:

            with chat.learn(documents) as session:
                session.invoke("What is known about X?")
                session.invoke("And about Y?")

        A model that has learned trains on from its adapter. To keep an adapter, save it with
        `session.adapter.save(folder)`, and pass `adapter=TrainedAdapter.load(folder)` to a model or
        to a call.

        Args:
            documents: Documents, most informative first, or a query for the retriever.
            **call: Settings of the training, as those of a call: `timeout`, `learning_rate`,
                `steps_per_document`, ...; for a query also `k`, `filter` and `retriever`.

        Raises:
            ArgumentError: If an argument is unknown, has no effect on learning, or its value is not
                allowed.
            EngineOverloaded: If the engine is at capacity.
            RequestTimeout: If the time is up.
            TrainingError: If training failed, there was no document to train on, or the documents
                gain less than `min_gain`.
        """
        start = self.adapter  # another thread may close the session
        query, settings = self._learning_settings(documents, call)
        adapter = learn(self.engine, query, settings, start)
        return self.model_copy(update={"adapter": adapter})

    async def alearn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Do the same without blocking the event loop."""
        start = self.adapter
        query, settings = self._learning_settings(documents, call)
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(EXECUTOR, lambda: self.engine)
        adapter = await alearn(engine, query, settings, start)
        return self.model_copy(update={"adapter": adapter})

    def _learning_settings(
        self, documents: Sequence[Document] | str, call: Mapping[str, Any]
    ) -> tuple[str, CallSettings]:
        """Return the query for the retriever and the settings of the training."""
        check_has_effect(call, is_query=isinstance(documents, str))
        source: dict[str, object] = {"documents": () if documents is None else documents}
        if isinstance(documents, str):
            if not documents.strip():
                raise ArgumentError("the query is empty: name what the documents are for")
            source = {"retriever": call.get("retriever", self.retriever)}
            if source["retriever"] is None:
                raise ArgumentError("a query needs a retriever: pass documents, or set retriever")
        settings = self._call_settings({**call, **source}, stop=None, run=None)
        return documents if isinstance(documents, str) else "", settings

    def __exit__(self, *_: object) -> None:
        """Release the adapter of a model that has learned; it refuses further calls."""
        if self.adapter is not None:
            # In this order: a thread that finds no adapter then finds the session closed.
            self._closed = True
            self.adapter = None

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> RunnableSerializable[Any, Any]:
        """Return a model with fields that a call can configure; see `RunnableSerializable`."""
        model: Any = self
        configurable: Any = super().configurable_fields(**kwargs)  # type: ignore[misc]
        return _ConfigurableModel(default=model, fields=configurable.fields)

    def get_token_ids(self, text: str) -> list[int]:
        """Tokenize a text with the model's tokenizer."""
        return text_tokens(self.engine.language_model.tokenizer, text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the tokens of a conversation's prompt without documents; `trim_messages` does so.

        Args:
            messages: The conversation, or a part of one.
            tools: Tools, which a chat model's prompt describes.
        """
        template = self._template()
        if template is None:
            return len(self.get_token_ids(ChatPromptValue(messages=messages).to_string()))
        tokenizer = self.engine.language_model.tokenizer
        return count_tokens(tokenizer, messages, convert_tools(tools or ()), template)

    def fit_context(self, documents: Sequence[Document], prompt: PromptOf) -> FittedPrompt:
        """Return a prompt with as many of the documents as fit, as calls with `context=` do.

        Args:
            documents: Documents, most informative first.
            prompt: Returns the prompt with the texts of documents, joined by blank lines.
        """
        model = self.engine.language_model
        return fit_documents(
            [document.page_content for document in documents],
            self._rendering(prompt),
            model.tokenizer,
            room=room_for_prompt(model.context_length, self.max_tokens),
            max_length=self.finetune.max_length,
        )

    def _rendering(self, prompt: PromptOf) -> Render:
        """Return the function that renders a prompt with documents."""
        return lambda context: self._token_ids(prompt(context))

    def _template(self) -> TemplateArguments | None:
        """Return the arguments for the chat template, if the model is a chat model."""
        return None

    @abstractmethod
    def _token_ids(self, prompt: PromptValue) -> list[int]:
        """Return the token ids of a prompt."""

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: object,
    ) -> list[Any]:
        """Answer several prompts, as many at once as fill the engine's batches.

        If the engine has no room for all, some wait for the others. With `return_exceptions`, a
        failed prompt does not affect the others. Otherwise, or if the caller is interrupted, the
        others are cancelled.
        """
        model: Any = self
        kwargs = read_iterators(kwargs)
        group, room = AnswerGroup(), SharedRoom()

        def answer(prompt: Any, config: RunnableConfig) -> Any:
            """Answer one prompt, or return its error."""
            place = Place(room)
            try:
                return model.invoke(prompt, config, group=group, place=place, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise
            finally:
                place.leave()

        configs = batch_configs(config, len(inputs), self.limits.at_once)
        if len(inputs) < 2:
            return list(map(answer, inputs, configs))
        return run_batch(answer, inputs, configs, group)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: object,
    ) -> list[Any]:
        """Do the same without blocking the event loop."""
        model: Any = self
        kwargs = read_iterators(kwargs)
        configs = batch_configs(config, len(inputs), self.limits.at_once)
        capacity = asyncio.Semaphore(configs[0]["max_concurrency"] or 1 if configs else 1)
        room = AsyncSharedRoom()

        async def answer(prompt: Any, config: RunnableConfig) -> Any:
            """Answer one prompt, or return its error."""
            place = Place(room)
            async with capacity:
                try:
                    return await model.ainvoke(prompt, config, place=place, **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return error
                    raise
                finally:
                    place.leave()

        return await gather_or_cancel(map(answer, inputs, configs))

    def batch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: object,
    ) -> Iterator[tuple[int, Any]]:
        """Do as `batch` does, and yield each answer, with its index, as soon as it is complete."""
        model: Any = super()
        configs = batch_configs(config, len(inputs), self.limits.at_once)
        yield from model.batch_as_completed(inputs, configs, **read_iterators(kwargs))

    async def abatch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: object,
    ) -> AsyncIterator[tuple[int, Any]]:
        """Do the same without blocking the event loop."""
        model: Any = super()
        configs = batch_configs(config, len(inputs), self.limits.at_once)
        async for answer in model.abatch_as_completed(inputs, configs, **read_iterators(kwargs)):
            yield answer

    def _call_settings(
        self,
        call: Mapping[str, Any],
        *,
        stop: list[str] | None,
        run: BaseRunManager | None,
        keep_special_tokens: bool = False,
        conversation: bool = False,
        least_tokens: int = 1,
    ) -> CallSettings:
        """Check the arguments of a call, and add the fields.

        Raises:
            ArgumentError: If an argument is unknown or its value is not allowed.
        """
        field = self.adapter  # read before the look at `_closed`: another thread may close it
        if self._closed:
            raise ArgumentError("this session is closed: learn the documents again")
        documents = check_arguments(call)
        adapter = check_adapter(call, field)
        uses_retriever = documents is None and adapter is None
        retriever = call.get("retriever", self.retriever) if uses_retriever else None
        finetune = {name: call[name] for name in FINETUNE_SETTINGS if name in call}
        timeout, prompt_with = call.get("timeout", self.timeout), call.get("prompt_with")
        check_timeout("timeout", timeout, optional=True)
        return CallSettings(
            documents=documents,
            adapter=adapter,
            context=check_documents(call.get("context") or (), "context"),
            context_record=call.get("context_record"),
            prompt_with=None if prompt_with is None else self._rendering(prompt_with),
            retriever=None
            if retriever is None
            else abandonable(retriever_for("ttft", retriever), timeout),
            retrieval={name: call[name] for name in ("k", "filter") if name in call},
            finetune=replace(self.finetune, **finetune) if finetune else self.finetune,
            generation=self._generation_config(
                call if stop is None else {**call, "stop": stop},
                keep_special_tokens=keep_special_tokens,
                least_tokens=least_tokens,
            ),
            template=self._template(),
            conversation=conversation,
            timeout=timeout,
            started=call.get("started"),
            top_scores=top_scores(call),
            cache=self.adapter_cache,
            kept=call.get("kept"),
            reservation=call.get("reservation"),
            run=run or call.get("parent_run"),
            group=call.get("group"),
            place=call.get("place") or Place(),
        )

    def _generation_config(
        self,
        call: Mapping[str, Any],
        *,
        keep_special_tokens: bool = False,
        least_tokens: int = 1,
    ) -> GenerationConfig:
        given: Any = call.get("stop")
        stop: Any = (given,) if isinstance(given, str) else given or self.stop or ()
        chosen: Any = {name: call.get(name, getattr(self, name)) for name in GENERATION_SETTINGS}
        check_integer("max_tokens", chosen["max_tokens"], least_tokens)
        return GenerationConfig(
            stop=stop,
            keep_special_tokens=keep_special_tokens,
            **chosen,
        )

    @property
    def model_name(self) -> str:
        """The name of the model, or the class of a loaded one; LangChain's agents read it."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """The fields that distinguish one model from another; LangChain's cache uses them."""
        version, adapter = self.corpus_version, self.adapter
        return {
            "model": self.model_name,
            "loaded": None if isinstance(self.model, str) else identifier_of(self.model),
            "tokenizer": None if self.tokenizer is None else identifier_of(self.tokenizer),
            "gguf_file": self.gguf_file,
            "revision": self.revision,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "finetune": repr(self.finetune),
            **{name: getattr(self, name) for name in GENERATION_SETTINGS},
            "stop": self.stop,
            # Another retriever may be another tenant's.
            "retriever": None if self.cache is False else cache_key(self.retriever),
            "adapter": None if adapter is None else adapter.fingerprint,
            # A closed session refuses calls: no cached answer is its own.
            **({"closed": True} if self._closed else {}),
            "corpus_version": version() if callable(version) else version,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        """Add the provider and the name of the model to the metadata of a trace."""
        params: LangSmithParams = super()._get_ls_params(stop=stop, **kwargs)  # type: ignore[misc]
        params["ls_provider"] = "langchain-sift"
        params["ls_model_name"] = str(kwargs.get("model", self.model_name))
        return params


class _ConfigurableModel(Closable, RunnableConfigurableFields):  # type: ignore[type-arg]
    """A model with configurable fields, which loads the model once.

    LangChain creates a model from the fields for each call that configures one.
    """

    def _prepare(
        self, config: RunnableConfig | None = None
    ) -> tuple[Runnable[Any, Any], RunnableConfig]:
        model, config = super()._prepare(config)
        default: Any = self.default
        # The model itself stays as it is: another thread may be closing it.
        if isinstance(model, TestTimeFineTuning) and model is not default:
            model._kept_engine = default._kept_engine
            model._closed = default._closed and model.adapter is None
        return model, config

    def learn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Learn documents with what is configured; the fields stay configurable."""
        model: Any = self.prepare()[0]
        return self.model_copy(update={"default": model.learn(documents, **call)})

    async def alearn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Do the same without blocking the event loop."""
        model: Any = self.prepare()[0]
        return self.model_copy(update={"default": await model.alearn(documents, **call)})

    def __exit__(self, *error: object) -> None:
        """Close the model, as it does itself at the end of a `with` block."""
        default: Any = self.default
        default.__exit__(*error)

    def bind(self, **kwargs: object) -> Runnable[Any, Any]:
        """Return a model with arguments of its calls, of the kind that the model itself returns."""
        return self._around_this(self.default.bind, kwargs)

    def with_listeners(self, **listeners: object) -> Runnable[Any, Any]:
        """Do the same for functions to call before and after each call."""
        return self._around_this(self.default.with_listeners, listeners)

    def with_alisteners(self, **listeners: object) -> Runnable[Any, Any]:
        """Do the same for coroutine functions."""
        return self._around_this(self.default.with_alisteners, listeners)

    def with_types(self, **types: object) -> Runnable[Any, Any]:
        """Do the same for types of input and output."""
        return self._around_this(self.default.with_types, types)

    def _around_this(
        self, bind: Callable[..., Any], arguments: Mapping[str, object]
    ) -> Runnable[Any, Any]:
        """Return a binding of the model, with this configurable one in the model's place."""
        bound: Runnable[Any, Any] = bind(**arguments).model_copy(update={"bound": self})
        return bound
