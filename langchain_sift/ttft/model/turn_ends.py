"""Find the control tokens that end an answer, from the chat template alone.

Many fine-tuned checkpoints have a template whose end of turn their `eos_token_id` does not list.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.ttft.model.control_tokens import control_tokens
from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

THOUGHT = "sift-thought"
_QUESTION, _ANSWER = "sift-question", "sift-answer"
_FIRST: Mapping[str, str] = {"role": "user", "content": "Hello"}
_SECOND: Mapping[str, str] = {"role": "user", "content": _QUESTION}
_REPLY: Mapping[str, str] = {"role": "assistant", "content": _ANSWER}
# The keys under which templates look for reasoning.
_REASONED = {**_REPLY, "reasoning_content": THOUGHT, "reasoning": THOUGHT, "thinking": THOUGHT}


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """The end of an answer, as a chat template writes it."""

    token_ids: frozenset[int] = frozenset()
    """Control tokens between an answer and the next question: those that end a turn, and those
    that begin one. Tokens that the template also writes within an answer are left out."""

    strings: tuple[str, ...] = ()
    """The line after an answer, if the template writes no control token there. It begins with the
    line break before it, if there is one."""


@once_per_tokenizer
def turn_ends(tokenizer: PreTrainedTokenizerBase) -> TurnEnds:
    """Return the ends of answers; none without a template."""
    control = control_tokens(tokenizer)
    between = _between(tokenizer)
    names = control.names_in(between)
    if not names:
        line = between.strip().partition("\n")[0].strip()
        # With the line break: an answer may contain the words, such as "User:", within a line.
        begin = "\n" if "\n" in between[: between.find(line)] else ""
        return TurnEnds(strings=(begin + line,) if line else ())
    within = set(control.names_in(answer_with_reasoning(tokenizer)[1]))
    return TurnEnds(frozenset(control.ids[name] for name in names if name not in within))


@once_per_tokenizer
def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the first control token after an answer, by default that of the end of a text."""
    ends = turn_ends(tokenizer).token_ids
    control = control_tokens(tokenizer)
    written = (control.ids[name] for name in control.names_in(_between(tokenizer)))
    return next((token_id for token_id in written if token_id in ends), tokenizer.eos_token_id)


@once_per_tokenizer
def before_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the white space that the template writes between a prompt and its answer."""
    prompt = rendered(tokenizer, [_FIRST], add_generation_prompt=True)
    whole = rendered(tokenizer, [_FIRST, _REPLY])
    between = whole.removeprefix(prompt).partition(_ANSWER)[0]
    return between if whole.startswith(prompt) and between.isspace() else ""


def answer_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer.

    A chat model's end of turn may be known to its tokenizer or its template alone.
    """
    listed = getattr(model.generation_config, "eos_token_id", None)
    ends = {listed} if isinstance(listed, int) else {*(listed or ())}
    known = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return frozenset(ends).union(known, turn_ends(tokenizer).token_ids)


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Render turns by the template; return "" if there is none or it refuses them."""
    if not tokenizer.chat_template:
        return ""
    conversation: Any = [dict(turn) for turn in turns]
    try:
        return str(
            tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except Exception:  # noqa: BLE001 - templates raise errors of any kind
        return ""


def _between(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text between an answer and the next question, or after an answer."""
    for turns in ([_FIRST, _REPLY, _SECOND], [_FIRST, _REPLY]):
        _, found, after = rendered(tokenizer, turns).partition(_ANSWER)
        if found:
            return after.partition(_QUESTION)[0]
    return ""


def answer_with_reasoning(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Render an answer with the reasoning `THOUGHT`.

    Returns:
        The prompt that asks for the answer, as far as the answer continues it; and the rest, up
        to the content of the answer.
    """
    prompt = rendered(tokenizer, [_FIRST], add_generation_prompt=True)
    whole = rendered(tokenizer, [_FIRST, _REASONED])
    pairs = itertools.zip_longest(prompt, whole)
    common = next((n for n, (left, right) in enumerate(pairs) if left != right), len(whole))
    return whole[:common], whole[common:].partition(_ANSWER)[0]
