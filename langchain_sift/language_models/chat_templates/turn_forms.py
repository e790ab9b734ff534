"""Adapt a conversation to what chat templates refuse or silently drop."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator

from langchain_sift.language_models.chat_templates.turns import Turn, merge_turns


def adapted_forms(turns: list[Turn]) -> Iterator[list[Turn]]:
    """Yield the conversation unchanged, then with ever more adaptations, then without tools."""
    tried: list[list[Turn]] = []
    for start in (turns, results_as_text(calls_as_text(turns))):
        for count in range(len(_ADAPTATIONS) + 1):
            for adaptations in itertools.combinations(_ADAPTATIONS, count):
                form = functools.reduce(lambda form, adapt: adapt(form), adaptations, start)
                if form not in tried:
                    tried.append(form)
                    yield form


def calls_as_text(turns: list[Turn]) -> list[Turn]:
    """Write calls into the content: a template without calls would render an empty turn."""
    adapted = []
    for turn in turns:
        new = turn.copy()
        if "tool_calls" in turn:
            calls = json.dumps([call["function"] for call in new.pop("tool_calls")], default=str)
            new["content"] = "\n".join(filter(None, [turn["content"], calls]))
        adapted.append(new)
    return adapted


def results_as_text(turns: list[Turn]) -> list[Turn]:
    """Write the results of tools into human turns, for templates without tools."""
    adapted: list[Turn] = []
    for turn in turns:
        if turn["role"] == "tool":
            content = f"Result of {turn.get('name', 'the function')}: {turn['content']}"
            adapted.append({"role": "user", "content": content})
        else:
            adapted.append(turn)
    return merge_turns(adapted)


def _with_short_ids(turns: list[Turn]) -> list[Turn]:
    """Give calls ids of nine letters and digits: Mistral's templates refuse all others."""

    def short(identifier: str) -> str:
        """Return the id, or a short one that depends on it alone."""
        fits = re.fullmatch("[A-Za-z0-9]{9}", identifier)
        return identifier if fits else hashlib.sha256(identifier.encode()).hexdigest()[:9]

    adapted = []
    for turn in turns:
        new = turn.copy()
        if "tool_calls" in turn:
            new["tool_calls"] = [{**call, "id": short(call["id"])} for call in turn["tool_calls"]]
        if "tool_call_id" in turn:
            new["tool_call_id"] = short(turn["tool_call_id"])
        adapted.append(new)
    return adapted


def _one_call_per_turn(turns: list[Turn]) -> list[Turn]:
    """Follow each call by its result: Llama 3.1's template refuses two calls in one turn."""
    adapted: list[Turn] = []
    for turn in turns:
        calls = turn.get("tool_calls", [])
        position = len(adapted)
        if turn["role"] == "tool":
            for index, earlier in enumerate(adapted):
                ids = [call["id"] for call in earlier.get("tool_calls", ())]
                position = index + 1 if turn.get("tool_call_id") in ids else position
        others: list[Turn] = [{**turn, "content": "", "tool_calls": [call]} for call in calls[1:]]
        first: Turn = {**turn, "tool_calls": calls[:1]} if others else turn
        adapted[position:position] = [first, *others]
    return adapted


def _without_system(turns: list[Turn], *, keep: int = 0) -> list[Turn]:
    """Prepend all but the first `keep` system texts to the human turn that follows them."""
    adapted: list[Turn] = []
    pending: list[str] = []
    for index, turn in enumerate(turns):
        if turn["role"] == "system" and index >= keep:
            pending.append(turn["content"])
        elif turn["role"] == "user" and pending:
            adapted.append({**turn, "content": "\n\n".join([*pending, turn["content"]])})
            pending = []
        else:
            adapted.append(turn)
    if pending:
        adapted.append({"role": "user", "content": "\n\n".join(pending)})
    return merge_turns(adapted)


# In order of how much they change the prompt, the least first.
_ADAPTATIONS: tuple[Callable[[list[Turn]], list[Turn]], ...] = (
    _with_short_ids,
    _one_call_per_turn,
    functools.partial(_without_system, keep=1),
    _without_system,
)
