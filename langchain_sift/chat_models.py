"""`ChatTestTimeFineTuned`: a local chat model that learns from your documents for each prompt."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
)
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_reply import ChatAnswer
from langchain_sift.language_models.chat_templates import render
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.identity import cache_key
from langchain_sift.language_models.tools import Tool, choose_tools, convert_tools
from langchain_sift.language_models.turns import last_human_text

_METHODS = ("function_calling", "json_schema", "json_mode")


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

    Call tools, with a model whose chat template has a place for them:
        ```python
        agent = create_agent(chat, tools=[search])
        chat.with_structured_output(Answer).invoke("What is known about X?")
        ```

    Where the tokenizer has no chat
    template, as base models have none, the prompt is the texts of the messages, a blank line
    between them.
    """

    # LangChain's base would win over the mixin's, and drop a misspelt argument in silence.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = False
    """Whether `invoke` sends its answer to callbacks piece by piece; LangChain reads this."""

    retrieval_query: Callable[[Sequence[BaseMessage]], str] = Field(
        default=last_human_text, exclude=True
    )
    """What the retriever is asked for a conversation; by default its last human message."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that is told of these tools, and whose calls of them are read.

        The tokenizer's chat template tells the model; what it answers is read in the formats
        that local models write.

        Args:
            tools: Anything that LangChain takes for a tool.
            tool_choice: "any", "required" or True: the model must call one of them, for its
                answer begins as calls do. A tool's name: it must call this one, and is told of
                no other. "none": it is told of none. OpenAI's and Anthropic's dicts of these are
                taken too. Templates that show no calls, as Phi-4's, leave it free even so.
            **kwargs: Bound as well.

        Raises:
            ArgumentError: If a tool is no function, or there is none of the name chosen. When
                called: if the tokenizer's template has no place for tools.
        """
        chosen, must_call = choose_tools(convert_tools(tools), tool_choice)
        choice = {"tool_choice": "any"} if must_call else {}
        return self.bind(tools=chosen, **choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return a model whose answers are objects of this schema.

        Args:
            schema: A Pydantic class, a `TypedDict`, or a JSON schema.
            include_raw: Whether to return a dict of "raw", "parsed" and "parsing_error".
            method: "function_calling": the model must call the schema as a tool; so it does with
                "json_schema". "json_mode": its answer is read as JSON, which your prompt has to
                ask for; this needs no template with a place for tools.
            **kwargs: `strict` is accepted, and changes nothing.

        Raises:
            ArgumentError: If there is no such method.
        """
        if method not in _METHODS:
            raise ArgumentError(f"method must be one of {list(_METHODS)}, got {method!r}")
        if method != "json_mode":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        kwargs.pop("strict", None)
        if kwargs:
            raise ArgumentError(f"unsupported arguments: {list(kwargs)}")
        asked = {"kwargs": {"method": method}, "schema": schema}
        model = self.bind(ls_structured_output_format=asked)
        parser = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Answer at once."""
        reading = self._reading(messages, stop, run_manager, **kwargs)
        return reading.result("".join(reading.answer))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Do the same without blocking the event loop."""
        reading = self._reading(messages, stop, run_manager, **kwargs)
        return reading.result("".join([piece async for piece in reading.answer]))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Answer piece by piece; the last chunk carries usage and the training record."""
        for message in self._reading(messages, stop, run_manager, **kwargs):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Do the same without blocking the event loop."""
        reading = self._reading(messages, stop, run_manager, **kwargs)
        async with aclosing(aiter(reading)) as parts:
            async for message in parts:
                chunk = ChatGenerationChunk(message=message)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _reading(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChatAnswer:
        tools, must_call = choose_tools(tools, tool_choice)
        answer = self._answer(
            functools.partial(self._prompt_of, messages, tools, must_call=must_call),
            self.retrieval_query(messages),
            run_manager,
            stop=stop,
            keep_special_tokens=bool(tools),  # some mark the calls
            **kwargs,
        )
        return ChatAnswer(answer, tools, must_call=must_call, model_name=self._model_name)

    def _prompt_of(
        self, messages: list[BaseMessage], tools: Sequence[Tool] = (), *, must_call: bool = False
    ) -> list[int]:
        """Return the token ids of a conversation."""
        tokenizer = self.engine.language_model.tokenizer
        return render(tokenizer, messages, tools=tools, must_call=must_call)

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Return what is known of the model without loading it: its context."""
        config = self.model
        if isinstance(config, str):
            from transformers import AutoConfig  # noqa: PLC0415 - after the check for the extra

            config = AutoConfig.from_pretrained(
                config, revision=self.revision, local_files_only=True, trust_remote_code=False
            )
        else:
            config = config.config
        context = int(config.get_text_config().max_position_embeddings)
        return ModelProfile(
            max_input_tokens=context, text_inputs=True, text_outputs=True, image_inputs=False
        )

    @property
    def _identifying_params(self) -> dict[str, Any]:
        usual = self.retrieval_query is last_human_text
        asked = None if usual or self.cache is False else cache_key(self.retrieval_query)
        return {**super()._identifying_params, "retrieval_query": asked}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # What a cached answer is found by: LangChain would take a retriever's `repr`.
        return super()._get_llm_string(
            stop, **{name: cache_key(value) for name, value in kwargs.items()}
        )

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._named(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-chat"
