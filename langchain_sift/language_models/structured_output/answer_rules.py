"""Define what an answer may and must contain: text, tool calls or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig, ReasoningMarkers
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import call_opening, render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.chat_templates.tools import Tool, choose_tools
from langchain_sift.language_models.chat_templates.turns import split_answer
from langchain_sift.language_models.structured_output.answer_formats import (
    AnswerFormat,
    read_response_format,
)
from langchain_sift.language_models.structured_output.answer_grammars import (
    check_schemas,
    format_grammar,
    is_strict,
    optional_calls_grammar,
    required_call_grammar,
    without_strict,
)
from langchain_sift.language_models.structured_output.form_reader import FormReader
from langchain_sift.language_models.structured_output.tool_calls import ToolCallReader
from langchain_sift.ttft import LanguageModel


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """The tools that an answer may or must call, or the format of its JSON."""

    tools: Sequence[Tool] = ()
    must_call: bool = False
    format: AnswerFormat | None = None

    continues: bool = False
    """If True, the answer goes on with the last message, which is the beginning of one."""

    @classmethod
    def of(cls, call: Mapping[str, Any]) -> Self:
        """Return the rules that the arguments of a call set.

        Raises:
            ArgumentError: If `tool_choice` names no tool, no decoder supports a schema, or the
                call has both tools and a format.
        """
        tools: Sequence[Tool] = call.get("tools") or ()
        must_call = False
        if tools or call.get("tool_choice"):
            tools, must_call = choose_tools(tools, call.get("tool_choice"))
        check_schemas(tools)
        answer_format = read_response_format(call.get("response_format"))
        if tools and answer_format is not None:
            raise ArgumentError(
                "response_format is not supported together with tools: leave out one of them, or "
                "pass the schema as a tool"
            )
        continues = call.get("continue_final_message", False)
        if not isinstance(continues, bool):
            raise ArgumentError(f"continue_final_message must be True or False, got {continues!r}")
        if continues and (must_call or answer_format is not None):
            raise ArgumentError(
                "continue_final_message is not supported together with a required call or a "
                "response_format, whose answers begin anew: leave out one of them"
            )
        return cls(tools, must_call, answer_format, continues)

    def uncut(self, config: GenerationConfig) -> GenerationConfig:
        """Leave out the stop strings if the whole answer is JSON or a call: they would cut it."""
        return replace(config, stop=()) if self.must_call or self.format else config

    def render(
        self,
        model: LanguageModel,
        messages: Sequence[BaseMessage],
        arguments: TemplateArguments,
    ) -> list[int]:
        """Return the token ids of the prompt, which describes the tools or the format.

        Args:
            model: The model.
            messages: The conversation.
            arguments: Further arguments for the template.

        Raises:
            PromptTooLong: If it is far longer than the model's context.
        """
        beginning = ""
        if self.continues:
            messages, beginning = split_answer(messages)
        if self.format is not None:
            messages = self.format.describe(messages)
        return render(
            model.tokenizer,
            messages,
            beginning=beginning,
            tools=without_strict(self.tools),
            must_call=self.must_call,
            arguments=arguments,
            limit=model.context_length,
        )

    def grammar(
        self, tokenizer: PreTrainedTokenizerBase, reasoning: ReasoningMarkers | None
    ) -> str | None:
        """Return the grammar of the answer; None means any text.

        Args:
            tokenizer: The model's tokenizer.
            reasoning: Markers of the reasoning that may come before the answer.
        """
        if self.format is not None:
            return format_grammar(tokenizer, self.format.schema, reasoning)
        if self.must_call:
            return required_call_grammar(tokenizer, self.tools, reasoning)
        return optional_calls_grammar(tokenizer, self.tools, reasoning)

    def call_opening(
        self, tokenizer: PreTrainedTokenizerBase, reasoning: ReasoningMarkers | None
    ) -> str:
        """Return the beginning of a required call that ends the prompt, so the answer lacks it."""
        return "".join(call_opening(tokenizer, self.tools, reasoning)) if self.must_call else ""

    def reader(self, tokenizer: PreTrainedTokenizerBase) -> ToolCallReader | FormReader:
        """Return the reader of the answer's calls: exactly those that a grammar makes."""
        if self.must_call or any(is_strict(tool) for tool in self.tools):
            return FormReader(self.tools, tokenizer)
        return ToolCallReader(self.tools, tokenizer)


ANY_ANSWER = AnswerRules()
