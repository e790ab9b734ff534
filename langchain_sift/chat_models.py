"""`ChatTestTimeFineTuned`: a local chat model that is fine-tuned for each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from langchain_sift.language_models.answer import Answer
from langchain_sift.language_models.bound_models import BindableChatModel
from langchain_sift.language_models.call_settings import released_on_error
from langchain_sift.language_models.chat_reply import ChatAnswer
from langchain_sift.language_models.chat_templates.template_arguments import (
    OF_CONVERSATIONS,
    TemplateArguments,
    TemplateValues,
)
from langchain_sift.language_models.chat_templates.tools import choose_tools, convert_tools
from langchain_sift.language_models.chat_templates.turns import last_human_text
from langchain_sift.language_models.context import add_context
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning
from langchain_sift.language_models.follow_ups import Query, QueryOf, check_query, query_for
from langchain_sift.language_models.identity import cache_key
from langchain_sift.language_models.profiles import model_profile
from langchain_sift.language_models.runs import RunPassingChatModel
from langchain_sift.language_models.structured_output.answer_grammars import check_schemas
from langchain_sift.language_models.structured_output.answer_rules import ANY_ANSWER, AnswerRules
from langchain_sift.language_models.structured_output.parsers import structured_output
from langchain_sift.ttft import LanguageModel


class ChatTestTimeFineTuned(TestTimeFineTuning, RunPassingChatModel, BindableChatModel):
    """Answers each prompt after one LoRA gradient step on each relevant document.

    For each prompt, the model retrieves documents, is fine-tuned on them in order (test-time
    fine-tuning, arXiv 2410.08020) and answers. The adapter is then discarded; the model's own
    weights are never modified.

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
        message.response_metadata["ttft"]["documents"]  # the documents that it was trained on
        chat.invoke("What is known about X?", documents=[Document("X is ...")])
        ```

    Put documents into the prompt, as many as fit, with or without training on them. Pass the most
    informative first; the prompt has it last, next to the question:
        ```python
        message = chat.invoke("What is known about X?", context=found, documents=[])
        message.response_metadata["ttft"]["context_left_out"]  # documents without room
        ```

    Stream:
        ```python
        for chunk in chat.stream("What is known about X?"):
            print(chunk.text, end="")
        ```

    Call tools, with a model whose chat template supports them:
        ```python
        agent = create_agent(chat, tools=[search])
        chat.with_structured_output(Answer).invoke("What is known about X?")
        ```

    If the tokenizer has no chat template, as those of base models, the prompt is the texts of the
    messages, separated by blank lines.
    """

    # LangChain's base class would win over the mixin's, and silently ignore a misspelt argument.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = False
    """If True, `invoke` sends its answer to the callbacks in chunks."""

    chat_template_kwargs: TemplateValues = Field(default_factory=dict)
    """Arguments for the chat template, such as {"enable_thinking": False}. Those that the template
    does not read are ignored, with a warning."""

    enable_thinking: bool | None = None
    """If False, a model leaves out its reasoning if it can; this is the template's argument."""

    retrieval_query: Annotated[QueryOf | str, BeforeValidator(check_query)] = Field(
        default=last_human_text, exclude=True
    )
    """Returns the query for the retriever. "last" is the last human message, the default; "turns"
    the last three together; with "rewrite" the model itself makes a follow-up stand alone."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that may call these tools.

        The tokenizer's chat template describes the tools to the model, or a system text if the
        template has no place for them. Calls are read in the formats of the common local models.

        Args:
            tools: Tools of any kind that LangChain accepts.
            tool_choice: With "any", "required" or True, the answer is a call of a tool whose
                arguments follow its schema. With the name of a tool it is a call of this tool,
                and the others are not offered. With "none" no tool is offered. The dicts of
                OpenAI and Anthropic for these are accepted.
            strict: If True, the arguments of every call follow the tool's schema, with any chat
                template or none. The model may still answer with text; where the text begins a
                call, in a form of the common local models, it goes on as a valid one. Other text
                is content, whatever it looks like. None means that each tool says so itself.
            **kwargs: Other arguments to bind.

        Raises:
            ArgumentError: If a tool is not a function, `tool_choice` names no tool, or no decoder
                supports the schema of a strict tool.
        """
        chosen, must_call = choose_tools(convert_tools(tools, strict=strict), tool_choice)
        check_schemas(chosen)
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
            include_raw: If True, return a dict of "raw", "parsed" and "parsing_error".
            method: With "function_calling", the answer is a call of the schema as a tool; with
                "json_schema", JSON that follows the schema. Both describe the schema to the
                model, with any chat template or none. With "json_mode" your prompt must ask for
                the JSON.
            **kwargs: `strict`. With "function_calling", False allows any arguments if no decoder
                supports the schema. The other methods follow the schema in any case.

        The answer follows the schema whatever the model would say, and ends within `max_tokens`.
        A `max_tokens` far below the shortest object is refused. One a little below it may cut the
        object (`finish_reason` "length"). `max_tokens` includes the reasoning before the object.

        Raises:
            ArgumentError: If the method or an argument is unknown, or no decoder supports the
                schema; the message names the keyword.
        """
        return structured_output(self, schema, method, include_raw=include_raw, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several conversations, as many at once as fill the engine's batches."""
        capacity = asyncio.Semaphore(self.limits.at_once)  # LangChain sets no limit
        return await super().agenerate(messages, stop, callbacks, capacity=capacity, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        reply = self._reply(messages, stop, run_manager, kwargs)
        return reply.result(reply.answer)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        reply = self._reply(messages, stop, run_manager, kwargs)
        return reply.result([piece async for piece in reply.answer])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        """Answer in chunks; the last carries the usage and the record of the training."""
        for message in self._reply(messages, stop, run_manager, kwargs):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Do the same without blocking the event loop."""
        reply = self._reply(messages, stop, run_manager, kwargs)
        async with aclosing(aiter(reply)) as parts:
            async for message in parts:
                chunk = ChatGenerationChunk(message=message)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _reply(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: BaseRunManager | None,
        call: Mapping[str, Any],
    ) -> ChatAnswer:
        """Return the reply to a conversation; nothing is done before it is iterated over."""
        with released_on_error(call):
            rules = AnswerRules.of(call)
            settings = self._call_settings(
                {name: value for name, value in call.items() if name not in OF_CONVERSATIONS},
                stop=stop,
                run=run_manager,
                keep_special_tokens=bool(rules.tools),  # they may mark calls
                conversation=True,
            )
            arguments = TemplateArguments.of(
                self.chat_template_kwargs, enable_thinking=self.enable_thinking, call=call
            )
            settings = replace(settings, template=arguments)
            query = self.query_for(messages) if settings.retriever is not None else ""

        def render_with(model: LanguageModel, context: str) -> list[int]:
            """Return the token ids of the prompt with a context."""
            return rules.render(model, add_context(messages, context), arguments)

        engine = self._engine or (lambda: self.engine)
        answer = Answer(engine, render_with, query, settings, rules)
        return ChatAnswer(answer, model_name=self.model_name)

    def query_for(self, messages: Sequence[BaseMessage]) -> Query:
        """Return the query for the retriever, or a question that is to be rewritten."""
        return query_for(messages, self.retrieval_query)

    def _token_ids(self, prompt: PromptValue) -> list[int]:
        model = self.engine.language_model
        return ANY_ANSWER.render(model, prompt.to_messages(), self._template())

    def _template(self) -> TemplateArguments:
        return TemplateArguments.of(self.chat_template_kwargs, enable_thinking=self.enable_thinking)

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Return the length of the context, without loading the model."""
        return model_profile(self.model, self.revision, self.gguf_file)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        is_default = self.retrieval_query is last_human_text
        query = None if is_default or self.cache is False else cache_key(self.retrieval_query)
        return {
            **super()._identifying_params,
            "retrieval_query": query,
            "chat_template_kwargs": self.chat_template_kwargs,
            "enable_thinking": self.enable_thinking,
        }

    @property
    def _llm_type(self) -> str:
        return "langchain-sift-chat"
