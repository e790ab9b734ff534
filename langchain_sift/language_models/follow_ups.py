"""Make the query of a retrieval from a conversation, for questions such as "And when?"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.conversations import for_conversation
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.chat_templates.turns import last_human_text, text_of
from langchain_sift.language_models.preparing import EXECUTOR
from langchain_sift.ttft import Engine, GenerationTask, Request, Ticket
from langchain_sift.ttft.reasoning import ReasoningText
from langchain_sift.ttft.texts import well_formed

QueryOf = Callable[[Sequence[BaseMessage]], str]

_TURNS = 3
_MESSAGES, _CHARACTERS = 6, 1000  # of the conversation that the model reads
_TOKENS = 64
_INSTRUCTION = (
    "{conversation}\n\nRewrite the last question of the user so that it can be understood without "
    "the conversation: replace words such as it, there or then by what they stand for. Answer with "
    "the question alone."
)


def recent_human_text(messages: Sequence[BaseMessage]) -> str:
    """Return the texts of the last three human messages, in order, one in each line."""
    texts = [text_of(message) for message in messages if isinstance(message, HumanMessage)]
    return "\n".join([text for text in texts if text][-_TURNS:]) or last_human_text(messages)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A question that the base model rewrites, so that it stands alone."""

    messages: Sequence[BaseMessage]

    def ask(self, engine: Engine, timeout: float | None, started: float) -> str:
        """Return the rewritten question; the recent ones if the model has no answer.

        Args:
            engine: The engine, in which the caller has a reservation: this takes no further room.
            timeout: Seconds for the whole call. None means no limit.
            started: Their beginning, by `time.perf_counter`.
        """
        ticket = self._submit(engine, self._request(engine), timeout, started)
        return self._read([event for event in ticket if isinstance(event, str)])

    async def aask(self, engine: Engine, timeout: float | None, started: float) -> str:
        """Do the same without blocking the event loop."""
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(EXECUTOR, self._request, engine)
        ticket = self._submit(engine, request, timeout, started)
        return self._read([event async for event in ticket if isinstance(event, str)])

    def _submit(
        self, engine: Engine, request: Request, timeout: float | None, started: float
    ) -> Ticket:
        within = engine.admission.within()
        return engine.submit(request, reservation=within, timeout=timeout, started=started)

    def _request(self, engine: Engine) -> Request:
        tokenizer = engine.language_model.tokenizer
        room = engine.language_model.context_length - _TOKENS
        prompt = self._prompt(tokenizer)[-room:]
        config = for_conversation(GenerationConfig(max_tokens=_TOKENS), tokenizer, prompt)
        return engine.request((), GenerationTask(prompt, config))

    def _prompt(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        lines = [
            f"{'Assistant' if isinstance(message, AIMessage) else 'User'}: "
            f"{text_of(message)[:_CHARACTERS]}"
            for message in self.messages
            if isinstance(message, AIMessage | HumanMessage) and message.text
        ]
        text = _INSTRUCTION.format(conversation="\n".join(lines[-_MESSAGES:]))
        arguments = TemplateArguments(reasoning_effort="none")
        return render(tokenizer, [HumanMessage(text)], arguments=arguments)

    def _read(self, pieces: Sequence[str]) -> str:
        text = "".join(piece for piece in pieces if not isinstance(piece, ReasoningText))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return well_formed(lines[0]) if lines else recent_human_text(self.messages)


Query = str | Rewrite


def query_for(messages: Sequence[BaseMessage], query_of: QueryOf | str) -> Query:
    """Return the query for a conversation.

    Args:
        messages: The conversation.
        query_of: A function of the conversation, or "rewrite". A first question is not rewritten.
    """
    if callable(query_of):
        return well_formed(query_of(messages))
    humans = [message for message in messages if isinstance(message, HumanMessage)]
    return Rewrite(messages) if len(humans) > 1 else well_formed(last_human_text(messages))


def ask(query: Query, engine: Engine, timeout: float | None, started: float) -> str:
    """Return the text of a query; see `Rewrite.ask`."""
    return query if isinstance(query, str) else query.ask(engine, timeout, started)


async def aask(
    query: Query, engine: Engine, timeout: float | None, started: float | None = None
) -> str:
    """Do the same without blocking the event loop; the time starts now if `started` is None."""
    began = time.perf_counter() if started is None else started
    return query if isinstance(query, str) else await query.aask(engine, timeout, began)


_NAMED: dict[str, QueryOf | str] = {
    "last": last_human_text,
    "turns": recent_human_text,
    "rewrite": "rewrite",
}


def check_query(value: object) -> object:
    """Return the function of a name: "last" or "turns"; "rewrite" is none.

    Raises:
        ArgumentError: If the value is neither a function nor one of these names.
    """
    if callable(value):
        return value
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]
    raise ArgumentError(f"retrieval_query must be a function or one of {[*_NAMED]}, got {value!r}")
