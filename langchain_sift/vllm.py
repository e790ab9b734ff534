"""Learn here, answer there: adapters that are trained by the engine and used by a vLLM server.

Written against vLLM's documented protocol (`/v1/load_lora_adapter`, `/v1/unload_lora_adapter`),
and tested against a double of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
from langchain_core.documents import Document
from langchain_core.language_models import BaseLanguageModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnablePassthrough,
)

from langchain_sift.chains import question_prompt
from langchain_sift.errors import (
    AdapterRefused,
    ArgumentError,
    GeneratorUnavailable,
    RequestTimeout,
)
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.modes import retriever_for
from langchain_sift.retrieval.scores import too_little_to_gain
from langchain_sift.ttft import Outcome, Request, TrainedAdapter

logger = logging.getLogger(__name__)

_LOAD, _UNLOAD = "load_lora_adapter", "unload_lora_adapter"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank may have
_SHOWN_CHARACTERS = 300
_GOODBYE_SECONDS = 1.0
_NOT_FOUND = 404
_REFUSES_THE_KEY = (401, 403)
_OVERLOADED_OR_GONE = (429, 502, 503, 504)


class VLLMAdapters:
    """Lends adapters to a vLLM server, each under a name of its own, and takes them back.

    Start the server so that it may be lent to, where nobody but you can reach it (whoever can
    load adapters can change answers, as vLLM's documentation warns), by a user who may read
    what you write:

        VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve org/name --enable-lora --max-lora-rank 64

    The rank must be at least `FineTuneConfig.lora_rank`; vLLM's own default is 16.

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
        """Name the server; nothing is asked of it yet.

        Args:
            base_url: What an OpenAI client takes: "http://host:port/v1".
            folder: Where the server finds the adapters: by the same path there as here.
            api_key: What the server was started with, if with one.
            timeout: Seconds that the server may take to connect, and then to answer.

        Raises:
            ArgumentError: If the address is none of HTTP, or the time is not positive.
        """
        if not _is_http(base_url):
            raise ArgumentError(f"base_url must be as http://host:port/v1, got {base_url!r}")
        if not timeout > 0:
            raise ArgumentError(f"timeout must be positive, got {timeout!r}")
        self.base_url = base_url.rstrip("/")
        self._folder = Path(folder).absolute()
        self._timeout = timeout
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._verify = httpx.create_ssl_context()  # once: it reads the certificates

    @contextmanager
    def loaded(self, adapter: TrainedAdapter) -> Iterator[str]:
        """Lend an adapter, and take it back however the block ends.

        Its files, with access for their owner only, are there as long as the server may read
        them: it may do so again before any answer.

        Yields:
            The name to ask the server by, as the model. It is never used again: the server's
            caches know answers by it.

        Raises:
            GeneratorUnavailable: If the server cannot be reached, or has no room.
            RequestTimeout: If it did not answer in time.
            AdapterRefused: If it does not take the adapter; the message says what to do.
        """
        name, path = self._place()
        try:
            adapter.save(path)
            with httpx.Client(**self._settings) as client:
                unload = functools.partial(client.post, _UNLOAD, json={"lora_name": name})
                try:
                    with self._typed():
                        response = client.post(_LOAD, json=_loading(name, path))
                except BaseException as error:
                    if _may_have_come(error):
                        with self._told(name) as told:
                            told(unload(timeout=self._goodbye))
                    raise
                try:
                    self._check(response, adapter)
                    yield name
                finally:
                    with self._told(name) as told:
                        told(unload())
        finally:
            _remove(path)

    @asynccontextmanager
    async def aloaded(self, adapter: TrainedAdapter) -> AsyncIterator[str]:
        """Do as `loaded` does, without blocking the event loop."""
        name, path = self._place()
        saving = asyncio.ensure_future(asyncio.to_thread(adapter.save, path))
        try:
            await asyncio.shield(saving)
            async with httpx.AsyncClient(**self._settings) as client:
                unload = functools.partial(client.post, _UNLOAD, json={"lora_name": name})
                try:
                    with self._typed():
                        response = await client.post(_LOAD, json=_loading(name, path))
                except BaseException as error:
                    if _may_have_come(error):
                        with self._told(name) as told:
                            told(await unload(timeout=self._goodbye))
                    raise
                try:
                    self._check(response, adapter)
                    yield name
                finally:
                    with self._told(name) as told:
                        told(await unload())
        finally:
            await asyncio.wait([saving])  # its thread cannot be stopped, and would write later
            await asyncio.to_thread(_remove, path)

    def _place(self) -> tuple[str, Path]:
        name = f"ttft-{uuid.uuid4().hex}"
        return name, self._folder / name

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "headers": self._headers,
            "timeout": self._timeout,
            "verify": self._verify,
            "trust_env": False,  # by no proxy: it is a server of one's own
        }

    @property
    def _goodbye(self) -> float:
        """Seconds for taking back what was never said to be there: it need only be sent."""
        return min(self._timeout, _GOODBYE_SECONDS)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Let httpx' errors come as ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise RequestTimeout(
                f"the vLLM server at {self.base_url} did not answer within {self._timeout} s"
            ) from error
        except httpx.HTTPError as error:
            raise GeneratorUnavailable(
                f"the vLLM server at {self.base_url} cannot be reached "
                f"({type(error).__name__}): is it running, and is this its address?"
            ) from error

    def _check(self, response: httpx.Response, adapter: TrainedAdapter) -> None:
        """Let a refusal come as the error that says what to do."""
        if response.is_success:
            return
        status = response.status_code
        answered = f"the vLLM server at {self.base_url} answered {status}"
        if status in _OVERLOADED_OR_GONE:
            raise GeneratorUnavailable(f"{answered}: try again later")
        raise AdapterRefused(
            f"{answered}: {self._reason(status, _message(response), adapter.config.lora_rank)}"
        )

    def _reason(self, status: int, said: str | None, rank: int) -> str:
        """Return why an adapter was not taken, and what would cure it."""
        if status in _REFUSES_THE_KEY:
            return "api_key is not the one that it was started with"
        if status == _NOT_FOUND and said is None:
            return (
                "it takes no adapters: start it with --enable-lora, and with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            )
        if said is not None and "rank" in said.lower():
            enough = next((one for one in _RANKS if one >= rank), rank)
            return f"{said}; start it with --max-lora-rank {enough}, or lower lora_rank"
        if status == _NOT_FOUND:
            return f"{said}; it must find {self._folder} by that path, and be let read it"
        return f"it did not take the adapter: {said}"

    @contextmanager
    def _told(self, name: str) -> Iterator[Callable[[httpx.Response], None]]:
        """Say in the log where an adapter may stay: what was answered is answered."""

        def told(response: httpx.Response) -> None:
            # Not found: it was never taken, or the server began anew.
            if not (response.is_success or response.status_code == _NOT_FOUND):
                status = response.status_code
                logger.warning("%s keeps the adapter %s: %s", self.base_url, name, status)

        try:
            yield told
        except httpx.HTTPError as error:
            kind = type(error).__name__
            logger.warning("%s may keep the adapter %s: %s", self.base_url, name, kind)


def create_vllm_chain(
    learner: TestTimeFineTuning,
    retriever: Runnable[str, list[Document]],
    llm: BaseLanguageModel[Any],
    adapters: VLLMAdapters,
    *,
    prompt: BasePromptTemplate[Any] | None = None,
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Return what `create_ttft_chain` returns in the mode "ttft", with answers from vLLM.

    For each question: retrieve, learn here, lend the adapter to the server, let it answer, take
    the adapter back. Where nothing could be learned, the server's base model answers.

    Args:
        learner: A `ChatTestTimeFineTuned` or `TestTimeFineTunedLLM` of the model that the server
            has too; its `finetune` and `timeout` count, and it gives no answers.
        retriever: Where the documents come from, most informative first.
        llm: A client of the server, such as `ChatOpenAI(base_url=adapters.base_url, ...)`: any
            language model whose calls take `model=`.
        adapters: How the server gets what was learned.
        prompt: Takes "input". By default the question alone.

    Raises:
        ArgumentError: If the prompt lacks a variable.
    """
    asked = question_prompt(prompt, context=False)

    def answer(values: dict[str, Any]) -> Runnable[Any, str]:
        """Return what answers the question that was retrieved for."""

        def pieces(_: Iterator[Any]) -> Iterator[Any]:
            text = asked.invoke({"input": values["input"]})
            adapter = _taught(_learn(learner, values["context"]))
            if adapter is None:
                yield from llm.stream(text)
                return
            with adapters.loaded(adapter) as name:
                yield from llm.stream(text, model=name)

        async def apieces(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
            text = await asked.ainvoke({"input": values["input"]})
            adapter = _taught(await _alearn(learner, values["context"]))
            if adapter is None:
                async for piece in llm.astream(text):
                    yield piece
                return
            async with adapters.aloaded(adapter) as name:
                async for piece in llm.astream(text, model=name):
                    yield piece

        answering: Runnable[Any, Any] = RunnableGenerator(pieces, apieces)
        return answering | StrOutputParser()

    chain: Runnable[dict[str, Any], dict[str, Any]] = RunnablePassthrough.assign(
        context=itemgetter("input") | retriever_for("ttft", retriever)
    ).assign(answer=RunnableLambda(answer))
    return chain.with_config(run_name="vllm_chain", max_concurrency=learner.limits.at_once)


def _learn(learner: TestTimeFineTuning, documents: Sequence[Document]) -> Outcome:
    request = _request(learner, documents)
    return learner.engine.outcome(request, timeout=learner.timeout)


async def _alearn(learner: TestTimeFineTuning, documents: Sequence[Document]) -> Outcome:
    request = await asyncio.to_thread(_request, learner, documents)
    return await learner.engine.aoutcome(request, timeout=learner.timeout)


def _request(learner: TestTimeFineTuning, documents: Sequence[Document]) -> Request:
    texts = [document.page_content for document in documents]
    recipe = learner.finetune
    skip_reason = too_little_to_gain(documents, recipe.min_gain)
    return learner.engine.request(texts, config=recipe, keep_adapter=True, skip_reason=skip_reason)


def _taught(outcome: Outcome) -> TrainedAdapter | None:
    if outcome.adapter is None:
        logger.warning("the base model answers: %s", outcome.training.fallback)
    return outcome.adapter


def _is_http(url: str) -> bool:
    try:
        return httpx.URL(url).scheme in {"http", "https"}
    except httpx.InvalidURL:
        return False


def _may_have_come(error: BaseException) -> bool:
    """Return whether a call that failed may have reached the server."""
    return not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


def _loading(name: str, path: Path) -> dict[str, str]:
    return {"lora_name": name, "lora_path": str(path)}


def _message(response: httpx.Response) -> str | None:
    """Return what vLLM says of an error; None where it was not vLLM that spoke."""
    try:
        body = response.json()
    except ValueError:
        return None
    said = body.get("error", body) if isinstance(body, dict) else None
    said = said.get("message") if isinstance(said, dict) else None
    return said[:_SHOWN_CHARACTERS] if isinstance(said, str) else None


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("the adapter in %s cannot be removed: %s", path, error)
