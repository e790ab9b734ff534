"""Keep the arguments that are bound to a chat model when tools or a schema are bound as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any, Self, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig

from langchain_sift.language_models.structured_output.parsers import structured_output

_Bind = Callable[..., Runnable[LanguageModelInput, AIMessage]]

_OF_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
"""Arguments that tools replace."""

_OF_ANSWERS = _OF_TOOLS | {"response_format", "ls_structured_output_format"}
"""Arguments that a schema replaces."""


class BoundChatModel(RunnableBinding[LanguageModelInput, AIMessage]):
    """A chat model with arguments or a configuration of its calls.

    LangChain's own binding passes these calls to the model and forgets what is bound, such as a
    tenant's `filter`.
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
        return self._without(_OF_TOOLS).bind(**model.bind_tools(tools, **kwargs).kwargs)

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: str = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a model whose answers are objects; see that method of the chat model."""
        model = self._without(_OF_ANSWERS)
        return structured_output(model, schema, method, include_raw=include_raw, **kwargs)

    def with_alisteners(self, **listeners: object) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that calls these coroutine functions before and after its calls."""
        bind: Callable[..., Any] = super().with_alisteners
        factories = [*bind(**listeners).config_factories, *self.config_factories]
        return self.model_copy(update={"config_factories": factories})

    def _without(self, names: Set[str]) -> Self:
        kept = {name: value for name, value in self.kwargs.items() if name not in names}
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

    def with_listeners(self, **listeners: object) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that calls these functions before and after its calls."""
        bind: _Bind = BoundChatModel(bound=self).with_listeners
        return bind(**listeners)

    def with_alisteners(self, **listeners: object) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model that calls these coroutine functions before and after its calls."""
        bind: _Bind = BoundChatModel(bound=self).with_alisteners
        return bind(**listeners)

    def with_types(self, **types: object) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model with these types of input and output."""
        bind: _Bind = BoundChatModel(bound=self).with_types
        return bind(**types)
