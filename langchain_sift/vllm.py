"""Train adapters here and answer with them on a vLLM server.

Written against vLLM's documented protocol (`/v1/load_lora_adapter`, `/v1/unload_lora_adapter`),
and tested against a double of the server.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from langchain_core.documents import Document
from langchain_core.language_models import BaseLanguageModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableGenerator

from langchain_sift.checks import check_timeout
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.adapter_folders import remove_adapter, writable_folder
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.modes import retriever_for
from langchain_sift.language_models.retrieval_chains import (
    RetrievedQuestion,
    question_prompt,
    retrieval_chain,
    without_left_out,
)
from langchain_sift.language_models.server_addresses import blocking_timeout, is_http
from langchain_sift.language_models.vllm_errors import (
    check_loaded,
    may_have_arrived,
    translate_errors,
)
from langchain_sift.language_models.vllm_training import check_has_not_learned, training_request
from langchain_sift.ttft import Outcome, TrainedAdapter

logger = logging.getLogger(__name__)

_LOAD, _UNLOAD = "load_lora_adapter", "unload_lora_adapter"
# Timeout of unloading an adapter that may not be loaded: the request need only be sent.
_UNLOAD_SECONDS = 1.0


class VLLMAdapters:
    """Loads adapters into a vLLM server, each under a unique name, and unloads them.

    Start the server as follows, where only you can reach it: as vLLM's documentation warns,
    anyone who can load adapters can change answers. The server's user must be able to read the
    folder of the adapters.

        VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve org/name --enable-lora --max-lora-rank 64

    The maximum rank must be at least `FineTuneConfig.lora_rank`; vLLM's default is 16.

    Use:
        ```python
        adapters = VLLMAdapters("http://gpu:8000/v1", folder="/shared/adapters")
        with adapters.loaded(chat.engine.finetune(texts)) as name:
            answer = ChatOpenAI(base_url=adapters.base_url, model=name, ...).invoke(prompt)
        ```
    """

    def __init__(
        self,
        base_url: str,
        folder: str | Path,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Set the server's address; no request is sent yet.

        Args:
            base_url: The server's address, as OpenAI clients take it: "http://host:port/v1".
            folder: Folder for the adapters, under the same path here and on the server. It is made
                if it does not exist.
            api_key: The key that the server was started with, if any.
            timeout: Seconds until the server must connect, and then answer.

        Raises:
            ArgumentError: If the address is not an HTTP address, the folder cannot be made or
                written, or the timeout is not positive.
        """
        if not is_http(base_url):
            raise ArgumentError(f"base_url must be like http://host:port/v1, got {base_url!r}")
        check_timeout("timeout", timeout)
        self.base_url = base_url.rstrip("/")
        self._folder = writable_folder(folder)
        self._timeout = timeout
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    @functools.cached_property
    def _verify(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # once: it reads the certificates

    def __getstate__(self) -> dict[str, object]:
        """Return the settings, the key included, without the certificates."""
        return {name: value for name, value in vars(self).items() if name != "_verify"}

    @contextmanager
    def loaded(self, adapter: TrainedAdapter) -> Iterator[str]:
        """Load an adapter, and unload it however the block ends.

        The adapter's files, readable by their owner only, exist during the block: the server may
        read them again before any answer.

        Yields:
            The adapter's name, to be used as the model of requests. Names are unique, because the
            server's caches use them as keys.

        Raises:
            GeneratorUnavailable: If the server cannot be reached or is at capacity.
            RequestTimeout: If the server does not answer in time.
            AdapterRefused: If the server rejects the adapter; the message names the cure.
        """
        name, path = self._new_adapter()
        try:
            adapter.save(path)
            timeout = blocking_timeout(self.base_url, self._timeout)
            with httpx.Client(**{**self._client_settings, "timeout": timeout}) as client:
                unload = functools.partial(client.post, _UNLOAD, json={"lora_name": name})
                try:
                    with translate_errors(self.base_url, self._timeout):
                        response = client.post(_LOAD, json=_load_body(name, path))
                except BaseException as error:
                    if may_have_arrived(error):
                        with self._log_failed_unload(name) as check:
                            check(unload(timeout=self._unload_timeout))
                    raise
                try:
                    self._check(response, adapter)
                    yield name
                finally:
                    with self._log_failed_unload(name) as check:
                        check(unload())
        finally:
            remove_adapter(path)

    @asynccontextmanager
    async def aloaded(self, adapter: TrainedAdapter) -> AsyncIterator[str]:
        """Do the same without blocking the event loop."""
        name, path = self._new_adapter()
        saving = asyncio.ensure_future(asyncio.to_thread(adapter.save, path))
        try:
            await asyncio.shield(saving)
            async with httpx.AsyncClient(**self._client_settings) as client:
                unload = functools.partial(client.post, _UNLOAD, json={"lora_name": name})
                try:
                    with translate_errors(self.base_url, self._timeout):
                        response = await client.post(_LOAD, json=_load_body(name, path))
                except BaseException as error:
                    if may_have_arrived(error):
                        with self._log_failed_unload(name) as check:
                            check(await unload(timeout=self._unload_timeout))
                    raise
                try:
                    self._check(response, adapter)
                    yield name
                finally:
                    with self._log_failed_unload(name) as check:
                        check(await unload())
        finally:
            await asyncio.wait([saving])  # its thread cannot be stopped, and would write later
            await asyncio.to_thread(remove_adapter, path)

    def _new_adapter(self) -> tuple[str, Path]:
        """Return a new name and the folder of its files."""
        name = f"ttft-{uuid.uuid4().hex}"
        return name, self._folder / name

    @property
    def _client_settings(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "headers": self._headers,
            "timeout": self._timeout,
            "verify": self._verify,
            "trust_env": False,  # no proxy: the server is private
        }

    @property
    def _unload_timeout(self) -> float:
        return min(self._timeout, _UNLOAD_SECONDS)

    def _check(self, response: httpx.Response, adapter: TrainedAdapter) -> None:
        check_loaded(response, self.base_url, self._folder, adapter.config.lora_rank)

    @contextmanager
    def _log_failed_unload(self, name: str) -> Iterator[Callable[[httpx.Response], None]]:
        """Log a failure to unload an adapter; the answer is complete and must not fail."""

        def check(response: httpx.Response) -> None:
            # 404 means that the adapter was never loaded, or that the server was restarted.
            if not (response.is_success or response.status_code == 404):
                status = response.status_code
                logger.warning("%s keeps the adapter %s: %s", self.base_url, name, status)

        try:
            yield check
        except httpx.HTTPError as error:
            kind = type(error).__name__
            logger.warning("%s may keep the adapter %s: %s", self.base_url, name, kind)


def create_vllm_chain(
    model: TestTimeFineTuning,
    retriever: Runnable[str, list[Document]],
    llm: BaseLanguageModel[Any],
    adapters: VLLMAdapters,
    *,
    prompt: BasePromptTemplate[Any] | None = None,
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Create a chain as `create_ttft_chain` does in the mode "ttft", with answers from vLLM.

    For each question: retrieve, fine-tune here, load the adapter into the server, answer there,
    unload the adapter. Without an adapter, the server's base model answers.

    Args:
        model: A `ChatTestTimeFineTuned` or `TestTimeFineTunedLLM` of the model that the server
            has too; only its `finetune` and `timeout` are used.
        retriever: Returns documents, the most informative first.
        llm: A client of the server, such as `ChatOpenAI(base_url=adapters.base_url, ...)`: any
            language model whose calls take `model=`.
        adapters: Loads the adapters into the server.
        prompt: Takes "input", and any further entries. The default is the question.

    Raises:
        ArgumentError: If the prompt does not take "input", or takes "context", or the model has
            learned.
    """
    template = question_prompt(prompt, context=False)
    check_has_not_learned(model)

    def answer(question: RetrievedQuestion) -> Runnable[Any, str]:
        """Return the steps that answer a question with its documents."""

        def stream(_: Iterator[Any]) -> Iterator[Any]:
            """Train on the documents, and yield the answer with the adapter in the server."""
            value = template.invoke(without_left_out(template, question))
            request = training_request(model, question["context"], value)
            adapter = _adapter(model.engine.outcome(request, timeout=model.timeout))
            if adapter is None:
                yield from llm.stream(value)
                return
            with adapters.loaded(adapter) as name:
                yield from llm.stream(value, model=name)

        async def astream(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
            """Do as `stream`, without blocking the event loop."""
            value = await template.ainvoke(without_left_out(template, question))
            request = await asyncio.to_thread(training_request, model, question["context"], value)
            adapter = _adapter(await model.engine.aoutcome(request, timeout=model.timeout))
            if adapter is None:
                async for piece in llm.astream(value):
                    yield piece
                return
            async with adapters.aloaded(adapter) as name:
                async for piece in llm.astream(value, model=name):
                    yield piece

        answering: Runnable[Any, Any] = RunnableGenerator(stream, astream)
        return answering | StrOutputParser()

    chain = retrieval_chain(retriever_for("ttft", retriever), template, answer)
    return chain.with_config(run_name="vllm_chain", max_concurrency=model.limits.at_once)


def _adapter(outcome: Outcome) -> TrainedAdapter | None:
    if outcome.adapter is None:
        logger.warning("the base model answers: %s", outcome.training.fallback)
    return outcome.adapter


def _load_body(name: str, path: Path) -> dict[str, str]:
    return {"lora_name": name, "lora_path": str(path)}
