"""What the chat model and the text model share: retrieve, fine-tune, answer, give back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import CallbackManager, CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models import LangSmithParams
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.extras import require
from langchain_sift.retrievers import SIFTRetriever

require("ttft", "torch", "transformers")

from langchain_sift.ttft import (  # noqa: E402
    Engine,
    TrainingRecord,
    load_language_model,
    shared_engine,
)

_CALL_SETTINGS = ("documents", "max_tokens", "temperature", "stop")


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

    max_tokens: int = 256
    """Largest number of tokens of an answer; fewer where the model's context ends first."""

    temperature: float = 0.0
    """0 always takes the likeliest token."""

    stop: list[str] | None = None
    """An answer ends before the first of these strings."""

    max_wait: float = 600.0
    """Seconds that a request waits for the requests before it; then `BusyError`."""

    device: str | None = None
    """Where to load a named model to: by default "cuda" where there is one, else "cpu"."""

    dtype: str | None = None
    """Of a named model's weights: by default bfloat16 on an accelerator and where this CPU is
    faster with it, else float32."""

    cache: BaseCache | bool | None = False
    """Off: an answer depends on what the store held when it was asked."""

    _engine: Engine | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_settings(self) -> TestTimeFineTuning:
        self._generation({})
        return self

    @property
    def engine(self) -> Engine:
        """The engine that answers; loads the model on first use."""
        if self._engine is None:
            language_model = load_language_model(
                self.model, self.tokenizer, device=self.device, dtype=self.dtype
            )
            self._engine = shared_engine(language_model, self.finetune)
        return self._engine

    @property
    def _model_name(self) -> str:
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What distinguishes one configured model from another."""
        return {
            "model": self._model_name,
            "finetune": repr(self.finetune),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stop": self.stop,
        }

    def _named(self, params: LangSmithParams, call: Mapping[str, Any]) -> LangSmithParams:
        """Return what a trace tells of the model, with its provider and name."""
        params["ls_provider"] = "langchain-sift"
        params["ls_model_name"] = str(call.get("model", self._model_name))
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Return the text's tokens in the model's own tokenizer."""
        tokenizer = self.engine.language_model.tokenizer
        token_ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        return token_ids

    def _generation(self, call: Mapping[str, Any]) -> GenerationConfig:
        for name in call:
            if name not in _CALL_SETTINGS:
                msg = f"{name!r} is no setting of a call: use one of {list(_CALL_SETTINGS)}"
                raise ArgumentError(msg)
        stop = call.get("stop") or self.stop or ()
        if isinstance(stop, str):
            stop = (stop,)
        return GenerationConfig(
            max_tokens=call.get("max_tokens", self.max_tokens),
            temperature=call.get("temperature", self.temperature),
            stop=tuple(stop),
        )

    def _answer(
        self,
        prompt: Sequence[int],
        query: str,
        run_manager: CallbackManagerForLLMRun | None,
        *,
        stop: list[str] | None,
        **call: Any,
    ) -> Answer:
        """Retrieve the documents of one prompt and return its answer, to be iterated over."""
        config = self._generation(call if stop is None else {**call, "stop": stop})
        self.engine.check_prompt(prompt)
        began = time.perf_counter()
        documents = call.get("documents")
        if documents is None:
            documents = self._retrieve(query, run_manager)
        seconds = time.perf_counter() - began
        return Answer(
            self.engine,
            prompt,
            documents,
            config,
            seconds_retrieval=seconds,
            max_wait=self.max_wait,
        )

    def _retrieve(self, query: str, run_manager: CallbackManagerForLLMRun | None) -> list[Document]:
        if self.retriever is None:
            return []
        config: RunnableConfig = {}
        if run_manager is not None:
            # A model's run has no get_child: without this, the retrieval would be no part of it.
            config["callbacks"] = CallbackManager(
                handlers=run_manager.inheritable_handlers,
                inheritable_handlers=run_manager.inheritable_handlers,
                parent_run_id=run_manager.run_id,
            )
        if isinstance(self.retriever, SIFTRetriever):
            # A repeat is one more gradient step on what matters most (arXiv 2410.08020).
            return self.retriever.invoke(query, config, replace=True)
        return self.retriever.invoke(query, config)


class Answer:
    """One request: iterate over it for the text; afterwards it knows what happened."""

    def __init__(
        self,
        engine: Engine,
        prompt: Sequence[int],
        documents: Sequence[Document],
        config: GenerationConfig,
        *,
        seconds_retrieval: float,
        max_wait: float,
    ) -> None:
        """Prepare the request; nothing is trained before the first piece is asked for."""
        self._engine = engine
        self._prompt = prompt
        self._documents = documents
        room = engine.language_model.context_length - len(prompt)
        self._config = GenerationConfig(
            min(config.max_tokens, room), config.temperature, config.stop
        )
        self._max_wait = max_wait
        self._training = TrainingRecord()
        self._seconds_retrieval = seconds_retrieval
        self._seconds_generation = 0.0
        self._output_tokens = 0

    def __iter__(self) -> Iterator[str]:
        """Train, then yield the text in pieces; the model is reset when the iteration ends."""
        closed = threading.Event()
        texts = [document.page_content for document in self._documents]
        try:
            with self._engine.finetune(
                texts, should_stop=closed.is_set, max_wait=self._max_wait
            ) as model:
                self._training = model.training
                began = time.perf_counter()
                stream = model.generate(self._prompt, self._config, should_stop=closed.is_set)
                yield from stream
                self._output_tokens = stream.tokens
                self._seconds_generation = time.perf_counter() - began
        finally:
            closed.set()

    @property
    def usage(self) -> UsageMetadata:
        """Tokens of the prompt and of the answer; those trained on are counted apart."""
        return UsageMetadata(
            input_tokens=len(self._prompt),
            output_tokens=self._output_tokens,
            total_tokens=len(self._prompt) + self._output_tokens,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What was learned from, as plain values: `response_metadata["ttft"]`."""
        training = self._training
        ids = [document.id for document in self._documents]
        return {
            "documents": [ids[index] for index in training.trained],
            "skipped": [ids[index] for index in training.skipped],
            "truncated": [ids[index] for index in training.truncated],
            "steps": training.steps,
            "tokens": training.tokens,
            "losses": list(training.losses),
            "fallback": training.fallback,
            "seconds": {
                "retrieval": self._seconds_retrieval,
                "training": training.seconds,
                "generation": self._seconds_generation,
            },
        }
