"""Keep the arguments that are bound to a chat model when tools or a schema are bound as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig

from langchain_sift.language_models.structured_output.parsers import structured_output

_OF_ANSWERS = {"tools", "tool_choice", "response_format", "ls_structured_output_format"}
"""Arguments that tools or a schema replace."""


class BoundChatModel(RunnableBinding[LanguageModelInput, AIMessage]):
    """A chat model with arguments or a configuration of its calls.

    LangChain's own binding would call these methods of the model alone: a tenant's `filter` that is
    bound to the model would be lost.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name under which LangChain describes it: that of its own binding."""
        return RunnableBinding.lc_id()

    def bind_tools(
        self, tools: Sequence[Any], **kwargs: object
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that may call these tools; see `bind_tools` of the chat model."""
        model: Any = self.bound
        return self._without_tools().bind(**model.bind_tools(tools, **kwargs).kwargs)

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: str = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a model whose answers are objects; see that method of the chat model."""
        model = self._without_tools()
        return structured_output(model, schema, method, include_raw=include_raw, **kwargs)

    def _without_tools(self) -> Self:
        kept = {name: value for name, value in self.kwargs.items() if name not in _OF_ANSWERS}
        return self.model_copy(update={"kwargs": kept})


class BindableChatModel(BaseChatModel):
    """A chat model that keeps what is bound to it."""

    # The type that LangChain returns is private.
    def bind(  # type: ignore[override]
        self, **kwargs: object
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model with arguments of its calls."""
        return BoundChatModel(bound=self, kwargs=kwargs, config={})

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: object
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model with a configuration of its calls."""
        settings = cast("RunnableConfig", {**(config or {}), **kwargs})
        return BoundChatModel(bound=self, config=settings, kwargs={})
