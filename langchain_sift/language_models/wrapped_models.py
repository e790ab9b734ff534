"""Look into what LangChain's wrappers hold: `bind`, `with_config`, `with_retry`, `|`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, JsonOutputToolsParser
from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.fallbacks import RunnableWithFallbacks

from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.context import FittedPrompt
from langchain_sift.language_models.fine_tuned import PromptOf, TestTimeFineTuning

_NO_CALL = (None, False, "auto", "none")
"""Values of `tool_choice` with which a model may answer in text."""

_OBJECT_PARSERS = (JsonOutputParser, JsonOutputToolsParser)


@dataclass(frozen=True, slots=True)
class WrappedModel:
    """A fine-tuned model, and what its wrappers bind to a call."""

    model: TestTimeFineTuning

    adapter: object = None
    """The adapter that is bound. None means that of the model."""

    max_tokens: int | None = None
    """The maximum number of tokens that is bound. None means that of the model."""

    @property
    def has_learned(self) -> bool:
        """True if it answers with an adapter that was trained before."""
        return self.adapter is not None or self.model.adapter is not None

    def fit_context(self, documents: Sequence[Document], prompt: PromptOf) -> FittedPrompt:
        """Return what `TestTimeFineTuning.fit_context` does, with the room that a call leaves."""
        model = self.model
        if self.max_tokens is not None:
            model = model.model_copy(update={"max_tokens": self.max_tokens})
        return model.fit_context(documents, prompt)


def fine_tuned_in(llm: Runnable[Any, Any]) -> WrappedModel | None:
    """Return the fine-tuned model in a model; None for a model of another kind.

    Raises:
        ArgumentError: If there are fallbacks or alternatives, of which one would retrieve and train
            by itself, or answer with what it has learned.
    """
    adapter = max_tokens = None
    while isinstance(llm, RunnableBindingBase | RunnableConfigurableFields | RunnableSequence):
        if isinstance(llm, RunnableConfigurableFields):
            llm = llm.default
        elif isinstance(llm, RunnableSequence):  # gives its first step the arguments of a call
            llm = llm.first
        else:
            adapter = llm.kwargs.get("adapter") if adapter is None else adapter
            max_tokens = llm.kwargs.get("max_tokens") if max_tokens is None else max_tokens
            llm = llm.bound
    if isinstance(llm, TestTimeFineTuning):
        return WrappedModel(llm, adapter, max_tokens)
    for part in _alternatives(llm):
        found = fine_tuned_in(part)
        if found is not None and (found.model.retriever is not None or found.has_learned):
            raise ArgumentError(
                "a model with fallbacks or alternatives must not hold one with a retriever or an "
                "adapter of its own: make a chain of each model, and give one chain the other as "
                "its fallback or alternative"
            )
    return None


def answers_in_text(llm: Runnable[Any, Any]) -> bool:
    """Return False for a model that is known to answer with tool calls or objects.

    Such are those of `bind_tools` with a `tool_choice` that requires a call, and of
    `with_structured_output`, unless a later step takes these.
    """
    bound: dict[str, object] = {}
    found = llm
    while True:
        if isinstance(found, RunnableBindingBase):
            bound, found = {**found.kwargs, **bound}, found.bound
        elif isinstance(found, RunnableSequence):  # gives its first step the arguments of a call
            bound, found = {}, found.last
        elif isinstance(found, RunnableConfigurableFields):
            found = found.default
        elif isinstance(found, RunnableWithFallbacks):
            found = found.runnable
        else:
            break
    # LangChain's parsers of JSON and of calls name no type.
    must_call = bool(bound.get("tools")) and bound.get("tool_choice") not in _NO_CALL
    return not (must_call or isinstance(found, _OBJECT_PARSERS) or _is_object_type(llm))


def _is_object_type(llm: Runnable[Any, Any]) -> bool:
    """Return True if the answers have a type, and it is neither text nor a message."""
    try:
        kind: Any = llm.OutputType
    except TypeError:  # as of a parser that names no type
        return False
    origin = get_origin(kind)
    if origin is None and kind not in (Any, object) and isinstance(kind, type):
        return not issubclass(kind, str | BaseMessage)
    return origin in {dict, list, tuple}


def _alternatives(llm: Runnable[Any, Any]) -> Iterator[Runnable[Any, Any]]:
    """Yield the models of which one answers a call."""
    if isinstance(llm, RunnableWithFallbacks):
        yield from (llm.runnable, *llm.fallbacks)
    if isinstance(llm, RunnableConfigurableAlternatives):
        yield llm.default
        yield from (part for part in llm.alternatives.values() if isinstance(part, Runnable))
