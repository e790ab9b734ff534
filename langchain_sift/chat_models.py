"""`ChatTestTimeFineTuned`: a local chat model that learns from your documents for each prompt."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
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
    AIMessageChunk,
    BaseMessage,
    ToolCallChunk,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.chat_templates import call_opening, query, render
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning, told_apart
from langchain_sift.language_models.tool_calls import ToolCallReader

Tools = Sequence[dict[str, Any]]

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

    retrieval_query: Callable[[Sequence[BaseMessage]], str] = Field(default=query, exclude=True)
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
        told = [convert_to_openai_tool(tool) for tool in tools]
        if foreign := [tool.get("type") for tool in told if "function" not in tool]:
            raise ArgumentError(
                f"{foreign[0]!r} is a tool of another provider's: a local model calls functions"
            )
        chosen, must_call = _chosen(told, tool_choice)
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
        tools: Tools = (),
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> _Reading:
        tools, must_call = _chosen(tools, tool_choice)
        answer = self._answer(
            functools.partial(self._prompt_of, messages, tools, must_call=must_call),
            self.retrieval_query(messages),
            run_manager,
            stop=stop,
            keep_special_tokens=bool(tools),  # some mark the calls
            **kwargs,
        )
        return _Reading(self, answer, tools, must_call=must_call)

    def _prompt_of(
        self, messages: list[BaseMessage], tools: Tools = (), *, must_call: bool = False
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
        usual = self.retrieval_query is query
        asked = None if usual or self.cache is False else told_apart(self.retrieval_query)
        return {**super()._identifying_params, "retrieval_query": asked}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # What a cached answer is found by: LangChain would take a retriever's `repr`.
        return super()._get_llm_string(stop, **told_apart(kwargs))

    def _response_metadata(self, answer: Answer) -> dict[str, Any]:
        return {
            "model_name": self._model_name,
            "model_provider": "langchain-sift",
            "finish_reason": answer.finish_reason,
            "ttft": answer.metadata,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._named(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-chat"


class _Reading:
    """One answer while it is read: content at once, calls of tools at the end."""

    def __init__(
        self, chat: ChatTestTimeFineTuned, answer: Answer, tools: Tools, *, must_call: bool
    ) -> None:
        self.answer = answer
        self._chat = chat
        self._tools = tools
        self._must_call = must_call
        self._text = ""
        self._said = ""

    def result(self, text: str) -> ChatResult:
        """Return all of it, read from the whole text."""
        content, calls, invalid = self._reader.read(self._opening + text)
        message = AIMessage(
            content=content, tool_calls=calls, invalid_tool_calls=invalid, **self._about()
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def __iter__(self) -> Iterator[AIMessageChunk]:
        for piece in self.answer:
            yield from self._content(piece)
        yield from self._end()

    async def __aiter__(self) -> AsyncGenerator[AIMessageChunk]:
        async with aclosing(aiter(self.answer)) as pieces:
            async for piece in pieces:
                for chunk in self._content(piece):
                    yield chunk
        for chunk in self._end():
            yield chunk

    # What needs the tokenizer waits for the answer's beginning: the model is loaded then.

    @functools.cached_property
    def _reader(self) -> ToolCallReader:
        return ToolCallReader(self._tools, self._chat.engine.language_model.tokenizer)

    @functools.cached_property
    def _opening(self) -> str:
        tokenizer = self._chat.engine.language_model.tokenizer
        return call_opening(tokenizer, self._tools) if self._must_call else ""

    def _content(self, piece: str) -> Iterator[AIMessageChunk]:
        """Yield what is content for certain, and not the beginning of a call."""
        self._text += piece
        yield from self._saying(self._reader.certain(self._opening + self._text))

    def _end(self) -> Iterator[AIMessageChunk]:
        """Yield the rest of the content, the calls, and what is told of the answer."""
        content, calls, invalid = self._reader.read(self._opening + self._text)
        yield from self._saying(content)
        if calls or invalid:
            # In content blocks of version 1, text and calls are numbered together.
            numbered = enumerate([*calls, *invalid], start=1)
            chunks = [_chunk_of(call, index) for index, call in numbered]
            yield AIMessageChunk(content="", tool_call_chunks=chunks)
        yield AIMessageChunk(content="", chunk_position="last", **self._about())

    def _saying(self, content: str) -> Iterator[AIMessageChunk]:
        if new := content[len(self._said) :]:
            self._said = content
            yield AIMessageChunk(content=new)

    def _about(self) -> dict[str, Any]:
        return {
            "usage_metadata": self.answer.usage,
            "response_metadata": self._chat._response_metadata(self.answer),
        }


def _chunk_of(call: Mapping[str, Any], index: int) -> ToolCallChunk:
    args = call["args"]
    text = args if isinstance(args, str | None) else json.dumps(args, ensure_ascii=False)
    return tool_call_chunk(name=call["name"], args=text, id=call["id"], index=index)


def _chosen(tools: Tools, choice: Any) -> tuple[Tools, bool]:
    """Return which tools the model is told of, and whether it must call one."""
    if isinstance(choice, dict) and choice.get("type") in ("any", "auto", "none"):
        choice = choice["type"]
    if choice == "none":
        return [], False
    if not choice or choice == "auto":
        return tools, False
    if choice is True or choice in ("any", "required"):
        return tools, True
    name = choice
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, dict) else None
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        names = [tool["function"]["name"] for tool in tools]
        raise ArgumentError(
            f'tool_choice {choice!r} is none of the tools {names}, nor "any", "auto" or "none"'
        )
    return named, True
