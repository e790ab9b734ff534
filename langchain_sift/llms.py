"""`TestTimeFineTunedLLM`: text in, text out, for chains of strings and base models."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.batches import all_or_none
from langchain_sift.language_models.fine_tuned import (
    CALL_SETTINGS,
    TestTimeFineTuning,
)


class TestTimeFineTunedLLM(TestTimeFineTuning, BaseLLM):
    """Continues each prompt after one LoRA gradient step on each document that informs it.

    The same as `ChatTestTimeFineTuned`, for text: the prompt is given to the model as it is,
    without a chat template, and the answer does not repeat it.

    Setup:
        `pip install 'langchain-sift[ttft]'`

    Use:
        ```python
        from langchain_sift import SIFTRetriever, TestTimeFineTunedLLM

        llm = TestTimeFineTunedLLM(
            model="org/name", retriever=SIFTRetriever(vectorstore=store, k=20)
        )
        chain = prompt | llm | StrOutputParser()
        ```

    `generation_info["ttft"]` of a generation tells what it learned from.
    """

    __test__ = False

    # LangChain's base would win over the mixin's, and drop a misspelt argument in silence.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer the prompts, together where the engine can, each from the base model."""
        answers = [self._answer_to(prompt, stop, run_manager, **kwargs) for prompt in prompts]
        generations = []
        try:
            for place, answer in enumerate(answers):
                for ahead in answers[place : place + self.limits.at_once]:
                    ahead.start()
                generations.append([self._generated("".join(answer), answer)])
        finally:
            for answer in answers:
                answer.cancel()
        return LLMResult(generations=generations, llm_output={"model_name": self._model_name})

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do the same without blocking the event loop."""
        room = asyncio.Semaphore(self.limits.at_once)

        async def generated(prompt: str) -> list[Generation]:
            answer = self._answer_to(prompt, stop, run_manager, **kwargs)
            async with room:
                return [self._generated("".join([piece async for piece in answer]), answer)]

        generations = await all_or_none(map(generated, prompts))
        return LLMResult(generations=list(generations), llm_output={"model_name": self._model_name})

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        """Answer piece by piece; the last chunk carries the training record."""
        answer = self._answer_to(prompt, stop, run_manager, **kwargs)
        for piece in answer:
            chunk = GenerationChunk(text=piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=self._information(answer))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        """Do the same without blocking the event loop."""
        answer = self._answer_to(prompt, stop, run_manager, **kwargs)
        async with aclosing(aiter(answer)) as pieces:
            async for piece in pieces:
                chunk = GenerationChunk(text=piece)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=self._information(answer))

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer the prompts; see `BaseLLM.generate`."""
        return BaseLLM.generate(self._for_call(kwargs), prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do the same without blocking the event loop."""
        return await BaseLLM.agenerate(self._for_call(kwargs), prompts, stop, callbacks, **kwargs)

    def _for_call(self, call: Mapping[str, Any]) -> TestTimeFineTunedLLM:
        """Return the model that may look into the cache for a call with these settings.

        LangChain finds a cached text by the model's settings alone: with others for this call,
        it would find the answer to another question.
        """
        own = any(name in CALL_SETTINGS for name in call)
        return self.model_copy(update={"cache": False}) if own and self.cache else self

    def _answer_to(
        self,
        prompt: str,
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> Answer:
        token_ids = functools.partial(self.get_token_ids, prompt)
        return self._answer(token_ids, prompt, run_manager, stop=stop, **kwargs)

    def _generated(self, text: str, answer: Answer) -> Generation:
        return Generation(text=text, generation_info=self._information(answer))

    def _information(self, answer: Answer) -> dict[str, Any]:
        return {
            "finish_reason": answer.finish_reason,
            "ttft": answer.metadata,
            "usage": answer.usage,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._named(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-llm"
