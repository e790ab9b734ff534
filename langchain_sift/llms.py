"""`TestTimeFineTunedLLM`: text in, text out, for chains of strings and base models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from langchain_sift.fine_tuned import Answer, TestTimeFineTuning


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
        """Answer one prompt after another, each from the base model."""
        generations = []
        for prompt in prompts:
            token_ids = self.get_token_ids(prompt)
            answer = self._answer(token_ids, prompt, run_manager, stop=stop, **kwargs)
            generations.append(
                [Generation(text="".join(answer), generation_info=self._information(answer))]
            )
        return LLMResult(generations=generations, llm_output={"model_name": self._model_name})

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        """Answer piece by piece; the last chunk carries the training record."""
        token_ids = self.get_token_ids(prompt)
        answer = self._answer(token_ids, prompt, run_manager, stop=stop, **kwargs)
        for piece in answer:
            chunk = GenerationChunk(text=piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=self._information(answer))

    def _information(self, answer: Answer) -> dict[str, Any]:
        return {"ttft": answer.metadata, "usage": answer.usage}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._named(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-llm"
