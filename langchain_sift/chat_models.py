"""`ChatTestTimeFineTuned`: a local chat model that learns from your documents for each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    convert_to_openai_messages,
    merge_message_runs,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from langchain_sift.fine_tuned import Answer, TestTimeFineTuning


class ChatTestTimeFineTuned(TestTimeFineTuning, BaseChatModel):
    """Answers each prompt after one LoRA gradient step on each document that informs it.

    For a prompt: retrieve documents, fine-tune on them in order (test-time fine-tuning,
    arXiv 2410.08020), answer, forget. The weights of the model itself are never written to.

    Setup:
        `pip install 'langchain-sift[ttft]'`

    Instantiate:
        ```python
        from langchain_sift import ChatTestTimeFineTuned, SIFTRetriever

        chat = ChatTestTimeFineTuned(
            model="org/name", retriever=SIFTRetriever(vectorstore=store, k=20)
        )
        ```

    Invoke:
        ```python
        message = chat.invoke("What is known about X?")
        message.response_metadata["ttft"]["documents"]  # what it learned from
        chat.invoke("What is known about X?", documents=[Document("X is ...")])
        ```

    Stream:
        ```python
        for chunk in chat.stream("What is known about X?"):
            print(chunk.text, end="")
        ```

    The query to the retriever is the last human message. Where the tokenizer has no chat
    template, as base models have none, the prompt is the texts of the messages, a blank line
    between them.
    """

    # LangChain's base would win over the mixin's, and drop a misspelt argument in silence.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = False
    """Whether `invoke` sends its answer to callbacks piece by piece; LangChain reads this."""

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Answer at once."""
        answer = self._answer_to(messages, stop, run_manager, **kwargs)
        message = AIMessage(
            content="".join(answer),
            usage_metadata=answer.usage,
            response_metadata=self._response_metadata(answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Answer piece by piece; the last chunk carries usage and the training record."""
        answer = self._answer_to(messages, stop, run_manager, **kwargs)
        for piece in answer:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=answer.usage,
                response_metadata=self._response_metadata(answer),
                chunk_position="last",
            )
        )

    def _answer_to(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> Answer:
        prompt = self._prompt_of(messages)
        return self._answer(prompt, _query(messages), run_manager, stop=stop, **kwargs)

    def _prompt_of(self, messages: list[BaseMessage]) -> list[int]:
        """Return the token ids of a conversation."""
        tokenizer = self.engine.language_model.tokenizer
        if not tokenizer.chat_template:
            return self.get_token_ids("\n\n".join(message.text for message in messages))
        # Many templates refuse two messages of one role in a row.
        turns = convert_to_openai_messages(merge_message_runs(messages), text_format="string")
        encoded: Any = tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(encoded["input_ids"])

    def _response_metadata(self, answer: Answer) -> dict[str, Any]:
        return {
            "model_name": self._model_name,
            "model_provider": "langchain-sift",
            "ttft": answer.metadata,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._named(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-chat"


def _query(messages: list[BaseMessage]) -> str:
    human = [message for message in messages if isinstance(message, HumanMessage)]
    return (human or messages)[-1].text
