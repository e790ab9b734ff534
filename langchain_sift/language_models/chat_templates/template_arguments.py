"""Check arguments for a chat template, such as `enable_thinking`."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator
from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

OF_CONVERSATIONS = (
    "tools",
    "tool_choice",
    "response_format",
    "chat_template_kwargs",
    "enable_thinking",
    "reasoning_effort",
    "continue_final_message",
)
"""Arguments of a call that only chat models have."""

# Names that the template gets from the conversation, the tools and the tokenizer.
_TAKEN = {
    *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,
    "messages",
    "raise_exception",
    "strftime_now",
}


_MOST_WARNED = 64  # clients choose the names


def check_template_arguments(value: object) -> dict[str, object]:
    """Return `chat_template_kwargs` as a dict.

    Raises:
        ArgumentError: If it is not a mapping, or has a name that the template gets from elsewhere.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ArgumentError(
            'chat_template_kwargs must map names to values, such as {"enable_thinking": False}, '
            f"got {value!r}"
        )
    if taken := sorted(_TAKEN & value.keys()):
        raise ArgumentError(
            f"chat_template_kwargs cannot set {taken[0]!r}, which the template gets from the "
            "conversation, the tools and the tokenizer"
        )
    return dict(value)


TemplateValues = Annotated[dict[str, object], AfterValidator(check_template_arguments)]
"""The type of the field `chat_template_kwargs`."""


@dataclass(frozen=True, slots=True)
class TemplateArguments:
    """Arguments for the chat template of a model that may not be loaded yet."""

    values: Mapping[str, object] = field(default_factory=dict)

    reasoning_effort: str | None = None
    """OpenAI's argument. Templates that do not know it ignore it, but "none" sets
    `enable_thinking` to False, unless `sets_thinking`."""

    sets_thinking: bool = False
    """True if the call has the argument `enable_thinking`."""

    @classmethod
    def of(
        cls,
        chat_template_kwargs: Mapping[str, object],
        *,
        enable_thinking: bool | None,
        call: Mapping[str, object] = MappingProxyType({}),
    ) -> Self:
        """Return the arguments of a call, which take precedence over the fields of the model.

        Of two fields, and of two arguments of a call, the one with a name of its own takes
        precedence over `chat_template_kwargs`.

        Raises:
            ArgumentError: If an argument of the call is not allowed.
        """
        sets_thinking = "enable_thinking" in call
        of_model = None if sets_thinking else enable_thinking
        argument = call.get("enable_thinking")
        values = {
            **chat_template_kwargs,
            **({} if of_model is None else {"enable_thinking": of_model}),
            **check_template_arguments(call.get("chat_template_kwargs")),
            **({} if argument is None else {"enable_thinking": argument}),
        }
        effort = call.get("reasoning_effort")
        return cls(values, None if effort is None else str(effort), sets_thinking)

    def for_template(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
        """Return the arguments; warn once of each that the tokenizer's template does not read."""
        values, effort = dict(self.values), self.reasoning_effort
        warned = _warned(tokenizer)
        for name in sorted(values.keys() - warned) if len(warned) < _MOST_WARNED else ():
            if not template_knows(tokenizer, name):
                warned.add(name)
                warnings.warn(
                    f"the chat template of {getattr(tokenizer, 'name_or_path', '') or 'the model'} "
                    f"ignores the argument {name!r}",
                    stacklevel=2,
                )
        if effort is not None and template_knows(tokenizer, "reasoning_effort"):
            values["reasoning_effort"] = effort
        elif (
            effort == "none"
            and not self.sets_thinking
            and template_knows(tokenizer, "enable_thinking")
        ):
            values["enable_thinking"] = False
        return values


def template_knows(tokenizer: PreTrainedTokenizerBase, name: str) -> bool:
    """Return True if the tokenizer's chat template reads an argument."""
    return bool(re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template or "")))


@once_per_tokenizer
def _warned(_: PreTrainedTokenizerBase) -> set[str]:
    """Return the names that were warned of, for more to be added."""
    return set()
