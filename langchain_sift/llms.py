"""`TestTimeFineTunedLLM`: a local text model that is fine-tuned for each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
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
from langchain_sift.language_models.bound_models import BindableModel
from langchain_sift.language_models.call_settings import (
    CALL_SETTINGS,
    read_iterators,
    released_on_error,
)
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.text_reply import OF_TEXTS, TextAnswer, TextPrompt, is_last
from langchain_sift.ttft.model.tokens import text_tokens
from langchain_sift.ttft.texts import well_formed


class TestTimeFineTunedLLM(TestTimeFineTuning, BindableModel[str], BaseLLM):
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

    `generation_info["ttft"]` of a generation is the record of the training. With `logprobs=True`,
    and `top_logprobs` for alternatives, `generation_info["logprobs"]` has the tokens; with
    `echo=True` the answer begins with the prompt. `token_ids` gives the tokens of the prompt.
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
                    following.answer.start()
                generations.append([answer.generation(answer.answer)])
        finally:
            for answer in answers:
                answer.answer.cancel()
        return LLMResult(generations=generations, llm_output={"model_name": self.model_name})

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
                return [answer.generation([piece async for piece in answer.answer])]

        generations = await gather_or_cancel(map(generate, prompts))
        return LLMResult(generations=list(generations), llm_output={"model_name": self.model_name})

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[GenerationChunk]:
        """Answer in chunks; the last carries the record of the training."""
        for chunk in self._answer(prompt, stop, run_manager, kwargs):
            if run_manager is not None and not is_last(chunk):
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[GenerationChunk]:
        """Do the same without blocking the event loop."""
        answer = self._answer(prompt, stop, run_manager, kwargs)
        async with aclosing(aiter(answer)) as chunks:
            async for chunk in chunks:
                if run_manager is not None and not is_last(chunk):
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer the prompts; see `BaseLLM.generate`."""
        call = read_iterators(kwargs)
        return BaseLLM.generate(self._model_for(call), prompts, stop, callbacks, **call)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do the same without blocking the event loop."""
        call = read_iterators(kwargs)
        return await BaseLLM.agenerate(self._model_for(call), prompts, stop, callbacks, **call)

    def _model_for(self, call: Mapping[str, object]) -> TestTimeFineTunedLLM:
        """Return the model, without a cache if the call has settings.

        LangChain's cache key for a text model includes the fields, but not the call's settings.
        """
        if self.cache and any(name in (*CALL_SETTINGS, *OF_TEXTS) for name in call):
            return self.model_copy(update={"cache": False})
        return self

    def _answer(
        self,
        prompt: str,
        stop: list[str] | None,
        run: BaseRunManager | None,
        call: Mapping[str, object],
    ) -> TextAnswer:
        """Return the answer to a prompt; nothing is done before it is iterated over."""
        with released_on_error(call):
            text = TextPrompt.of(prompt, call)
            own = {name: value for name, value in call.items() if name not in OF_TEXTS}
            least = 0 if text.echo else 1
            settings = self._call_settings(own, stop=stop, run=run, least_tokens=least)
        is_scored = settings.top_scores is not None
        settings = replace(settings, score_prompt=text.echo and is_scored)
        engine = self._engine or (lambda: self.engine)
        answer = Answer(engine, text.render, well_formed(prompt), settings)
        return TextAnswer(answer, text, is_scored=is_scored)

    def _token_ids(self, prompt: PromptValue) -> list[int]:
        model = self.engine.language_model
        return text_tokens(model.tokenizer, prompt.to_string(), limit=model.context_length)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones.

        Raises:
            ArgumentError: If a token is not in the model's vocabulary.
        """
        model = self.engine.language_model
        model.check_token_ids(token_ids)
        return str(model.tokenizer.decode([*token_ids], skip_special_tokens=True))

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-llm"
