"""Find the markers around a model's reasoning, from its chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import ReasoningMarkers
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer
from langchain_sift.ttft.model.turn_ends import THOUGHT, answer_with_reasoning

# Markers to look for if the template does not render reasoning: many leave out earlier reasoning.
_KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
_LAST_MARKER = re.compile(r"(?:<[^<>]+>|\[[^\[\]]+\]|◁[^◁▷]+▷)\Z")
_TAIL = 32  # tokens that may hold the opening marker at the end of a prompt


@once_per_tokenizer
def reasoning_markers(tokenizer: PreTrainedTokenizerBase) -> ReasoningMarkers:
    """Return the markers of a tokenizer's chat template; by default `<think>` and `</think>`."""
    prompt, answer = answer_with_reasoning(tokenizer)
    before, found, after = answer.partition(THOUGHT)
    begun = _LAST_MARKER.search(prompt.rstrip())  # if the prompt itself begins the reasoning
    opening = before.strip() or (begun[0] if begun else "")
    closing = after.strip().partition("\n")[0].strip()
    if found and opening and closing:
        return ReasoningMarkers(opening, closing)
    for names in (str(tokenizer.chat_template or ""), tokenizer.added_tokens_encoder):
        for opening, closing in _KNOWN:
            if closing in names:
                return ReasoningMarkers(opening, closing)
    return ReasoningMarkers(*_KNOWN[0])


def markers_after(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> ReasoningMarkers:
    """Return the markers for the answer to a prompt, which may have begun the reasoning.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Token ids.
    """
    markers = reasoning_markers(tokenizer)
    tail = str(tokenizer.decode([*prompt[-_TAIL:]], clean_up_tokenization_spaces=False))
    return replace(markers, begun=tail.rstrip().endswith(markers.opening))


def markers_in(text: str) -> ReasoningMarkers | None:
    """Return the markers of the reasoning that an answer of any model begins with, or None.

    Where the prompt has begun the reasoning, the answer has only its end.
    """
    for opening, closing in _KNOWN:
        if text.lstrip().startswith(opening) or (closing in text and opening not in text):
            return ReasoningMarkers(opening, closing)
    return None


def after_reasoning(
    markers: ReasoningMarkers | None, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]
) -> list[int]:
    """Return a prompt that is followed by content: reasoning that it has begun is closed.

    Args:
        markers: The markers of reasoning. None means none.
        tokenizer: The model's tokenizer.
        prompt: Token ids of the prompt.
    """
    if markers is None or not markers.begun:
        return list(prompt)
    closing: Any = tokenizer(f"{markers.closing}\n\n", add_special_tokens=False, verbose=False)
    return [*prompt, *closing["input_ids"]]


def before_content(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> list[int]:
    """Return a prompt that content follows at once: reasoning is closed, and left empty.

    Templates of models that may reason or not, such as Qwen 3, write empty reasoning so.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Token ids of a prompt by its chat template. Without one, it stays as it is.
    """
    template = str(tokenizer.chat_template or "")
    if not template:
        return list(prompt)
    markers = markers_after(tokenizer, prompt)
    if markers.begun:
        return after_reasoning(markers, tokenizer, prompt)
    tail = str(tokenizer.decode([*prompt[-_TAIL:]], clean_up_tokenization_spaces=False))
    is_closed = tail.rstrip().endswith(markers.closing)
    if is_closed or markers.opening not in template or not may_reason(tokenizer, markers):
        return list(prompt)
    empty = f"{markers.opening}\n\n{markers.closing}\n\n"
    encoded: Any = tokenizer(empty, add_special_tokens=False, verbose=False)
    return [*prompt, *encoded["input_ids"]]


def may_reason(tokenizer: PreTrainedTokenizerBase, markers: ReasoningMarkers | None) -> bool:
    """Return True if the answer may begin with reasoning: the prompt or a token can open it.

    Args:
        tokenizer: The model's tokenizer.
        markers: As of `markers_after`. None means that reasoning is not separated.
    """
    return markers is not None and (
        markers.begun or markers.opening in tokenizer.added_tokens_encoder
    )
