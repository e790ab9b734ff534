"""Keep the arguments that are bound to a model when it learns, or tools or a schema are bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any, Generic, Self, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_sift.language_models.sessions import (
    Closable,
    bound_to_learning,
    settings_of_learning,
)
from langchain_sift.language_models.structured_output.parsers import structured_output

Output = TypeVar("Output", str, AIMessage)

_OF_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
"""Arguments that tools replace."""

_OF_ANSWERS = _OF_TOOLS | {"response_format", "ls_structured_output_format"}
"""Arguments that a schema replaces."""


class BoundModel(Closable, RunnableBinding[LanguageModelInput, Output]):
    """A model with arguments or a configuration of its calls.

    LangChain's own binding passes these calls to the model and forgets what is bound, such as a
    tenant's `filter`.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name under which LangChain describes it: that of its own binding."""
        return RunnableBinding.lc_id()

    def learn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Learn documents with what is bound, which stays bound; see `learn` of the model."""
        bound = bound_to_learning(self.kwargs, is_query=isinstance(documents, str))
        return self._learned(self._configured().learn(documents, **{**bound, **call}))

    async def alearn(self, documents: Sequence[Document] | str, **call: object) -> Self:
        """Do the same without blocking the event loop."""
        bound = bound_to_learning(self.kwargs, is_query=isinstance(documents, str))
        return self._learned(await self._configured().alearn(documents, **{**bound, **call}))

    def _configured(self) -> Any:
        """Return the model, with the values that the configuration gives its fields."""
        model = self.bound
        if not isinstance(model, DynamicRunnable):
            return model
        return model.with_config(merge_configs(model.config, self.config))

    def _learned(self, model: Any) -> Self:
        """Return a learned model with what is bound, which its calls may leave without effect."""
        inherited = {"inherited": settings_of_learning(self.kwargs)}
        return self.model_copy(update={"bound": model, "kwargs": {**self.kwargs, **inherited}})

    def __exit__(self, *error: object) -> None:
        """Close the model, as it does itself at the end of a `with` block."""
        model: Any = self.bound
        model.__exit__(*error)

    def with_alisteners(self, **listeners: object) -> Runnable[LanguageModelInput, Output]:
        """Return a model that calls these coroutine functions before and after its calls."""
        bind: Callable[..., Any] = super().with_alisteners
        factories = [*bind(**listeners).config_factories, *self.config_factories]
        return self.model_copy(update={"config_factories": factories})


class BoundChatModel(BoundModel[AIMessage]):
    """A chat model with arguments or a configuration of its calls, and tools or a schema."""

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

    def _without(self, names: Set[str]) -> Self:
        kept = {name: value for name, value in self.kwargs.items() if name not in names}
        return self.model_copy(update={"kwargs": kept})


class BindableModel(Generic[Output]):
    """A model that keeps what is bound to it."""

    def _unbound(self) -> Any:
        """Return the model with nothing bound to it."""
        return BoundModel(bound=cast("Any", self))

    def bind(self, **kwargs: object) -> Runnable[LanguageModelInput, Output]:
        """Return a model with arguments of its calls."""
        bound: Runnable[LanguageModelInput, Output] = self._unbound().bind(**kwargs)
        return bound

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: object
    ) -> Runnable[LanguageModelInput, Output]:
        """Return a model with a configuration of its calls."""
        bound: Runnable[LanguageModelInput, Output] = self._unbound().with_config(config, **kwargs)
        return bound

    def with_listeners(self, **listeners: object) -> Runnable[LanguageModelInput, Output]:
        """Return a model that calls these functions before and after its calls."""
        bound: Runnable[LanguageModelInput, Output] = self._unbound().with_listeners(**listeners)
        return bound

    def with_alisteners(self, **listeners: object) -> Runnable[LanguageModelInput, Output]:
        """Return a model that calls these coroutine functions before and after its calls."""
        bound: Runnable[LanguageModelInput, Output] = self._unbound().with_alisteners(**listeners)
        return bound

    def with_types(self, **types: object) -> Runnable[LanguageModelInput, Output]:
        """Return a model with these types of input and output."""
        bound: Runnable[LanguageModelInput, Output] = self._unbound().with_types(**types)
        return bound


class BindableChatModel(BindableModel[AIMessage], BaseChatModel):
    """A chat model that keeps what is bound to it, also beside tools and a schema."""

    # The type that LangChain returns is private.
    def bind(  # type: ignore[override]
        self, **kwargs: object
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a model with arguments of its calls."""
        return super().bind(**kwargs)

    def _unbound(self) -> Any:
        return BoundChatModel(bound=self)
