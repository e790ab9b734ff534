"""`TestTimeFineTunedLLM`: a local text model that is fine-tuned for each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue
from pydantic import ConfigDict

from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.batches import gather_or_cancel
from langchain_sift.language_models.call_settings import CALL_SETTINGS, released_on_error
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.modes import prompt_with_context
from langchain_sift.ttft.model.tokens import text_tokens
from langchain_sift.ttft.texts import well_formed


class TestTimeFineTunedLLM(TestTimeFineTuning, BaseLLM):
    """Continues each prompt after one LoRA gradient step on each relevant document.

    It does as `ChatTestTimeFineTuned` does, but for text: the prompt is used without a chat
    template, and the answer does not repeat it.

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

    `generation_info["ttft"]` of a generation is the record of the training.
    """

    __test__ = False  # pytest would collect any class whose name begins with Test

    # LangChain's base class would win over the mixin's, and silently ignore a misspelt argument.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> LLMResult:
        """Answer the prompts, in batches of the engine; each starts from the base model."""
        answers = [self._answer(prompt, stop, run_manager, kwargs) for prompt in prompts]
        generations = []
        try:
            for index, answer in enumerate(answers):
                for following in answers[index : index + self.limits.at_once]:
                    following.start()
                generations.append([_generation("".join(answer), answer)])
        finally:
            for answer in answers:
                answer.cancel()
        return LLMResult(generations=generations, llm_output={"model_name": self._model_name})

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> LLMResult:
        """Do the same without blocking the event loop."""
        capacity = asyncio.Semaphore(self.limits.at_once)

        async def generate(prompt: str) -> list[Generation]:
            """Answer one prompt."""
            answer = self._answer(prompt, stop, run_manager, kwargs)
            async with capacity:
                return [_generation("".join([piece async for piece in answer]), answer)]

        generations = await gather_or_cancel(map(generate, prompts))
        return LLMResult(generations=list(generations), llm_output={"model_name": self._model_name})

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[GenerationChunk]:
        """Answer in chunks; the last carries the record of the training."""
        answer = self._answer(prompt, stop, run_manager, kwargs)
        for piece in answer:
            chunk = GenerationChunk(text=piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=_generation_info(answer))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[GenerationChunk]:
        """Do the same without blocking the event loop."""
        answer = self._answer(prompt, stop, run_manager, kwargs)
        async with aclosing(aiter(answer)) as pieces:
            async for piece in pieces:
                chunk = GenerationChunk(text=piece)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=_generation_info(answer))

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer the prompts; see `BaseLLM.generate`."""
        return BaseLLM.generate(self._model_for(kwargs), prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do the same without blocking the event loop."""
        return await BaseLLM.agenerate(self._model_for(kwargs), prompts, stop, callbacks, **kwargs)

    def _model_for(self, call: Mapping[str, object]) -> TestTimeFineTunedLLM:
        """Return the model, without a cache if the call has settings.

        LangChain's cache key for a text model includes the fields, but not the call's settings.
        """
        if self.cache and any(name in CALL_SETTINGS for name in call):
            return self.model_copy(update={"cache": False})
        return self

    def _answer(
        self,
        prompt: str,
        stop: list[str] | None,
        run: BaseRunManager | None,
        call: Mapping[str, object],
    ) -> Answer:
        """Return the answer to a prompt; nothing is done before it is iterated over."""
        with released_on_error(call):
            settings = self._call_settings(call, stop=stop, run=run)

        def render(tokenizer: Any, context: str) -> list[int]:
            """Return the token ids of the prompt with a context."""
            return text_tokens(tokenizer, prompt_with_context(prompt, context))

        engine = self._engine or (lambda: self.engine)
        return Answer(engine, render, well_formed(prompt), settings)

    def _token_ids(self, prompt: PromptValue) -> list[int]:
        return text_tokens(self.engine.language_model.tokenizer, prompt.to_string())

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-llm"


def _generation(text: str, answer: Answer) -> Generation:
    return Generation(text=text, generation_info=_generation_info(answer))


def _generation_info(answer: Answer) -> dict[str, object]:
    return {"finish_reason": answer.finish_reason, "ttft": answer.metadata, "usage": answer.usage}
