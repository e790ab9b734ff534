"""Turn a prompt into a task: the query, the context and the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from langchain_sift.checks import strings
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError
from langchain_sift.report.intervals import MIN_CLUSTERS_RESAMPLED
from langchain_sift.report.metrics import (
    ACCURACY,
    ACCURACY_BY_LENGTH,
    ANSWER_METRICS,
    RETRIEVAL_METRICS,
)
from langchain_sift.report.summaries import PERCENT_OF_BASE
from langchain_sift.report.words import word_ends


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt under one protocol."""

    query: str
    """The text to retrieve documents with."""

    context: str
    """The text before the scored text, the same for every method."""

    target: str | None
    """The scored text. None means that no text is scored."""

    generates: bool = False
    """If True, an answer is generated."""

    choices: tuple[str, ...] = ()
    """Choices to score after the context."""


def document_task(prompt: Prompt) -> Task:
    """Retrieve with the document and score it (arXiv 2410.08020, section 6)."""
    return Task(query=prompt.text, context="", target=prompt.text)


def continuation_task(prompt: Prompt) -> Task:
    """Retrieve with the first half and score the second half after it, so that nothing leaks.

    The text is cut between two words, in a script without spaces between two characters.

    Raises:
        ArgumentError: If the text cannot be halved between two words.
    """
    text = prompt.text
    middle = len(text) // 2
    cuts = word_ends(text)
    if not cuts:
        raise ArgumentError("the text is a single word: a continuation needs at least two")
    cut = min(cuts, key=lambda index: abs(index - middle))
    return Task(query=text[:cut], context=text[:cut], target=text[cut:])


def question_task(prompt: Prompt) -> Task:
    """Retrieve with the question, generate an answer, and score the reference answer."""
    return Task(
        query=prompt.text,
        context=f"Question: {prompt.text.strip()}\nAnswer:",
        target=f" {prompt.answers[0]}" if prompt.answers else None,
        generates=True,
        choices=tuple(f" {choice}" for choice in prompt.choices),
    )


def retrieval_task(prompt: Prompt) -> Task:
    """Retrieve with the prompt, and score the retrieved documents; needs no model."""
    return Task(query=prompt.text, context="", target=None)


RETRIEVAL = "retrieval"
"""The protocol that scores documents; the others score what a language model makes of them."""

PROTOCOLS: Mapping[str, Callable[[Prompt], Task]] = MappingProxyType(
    {
        "document": document_task,
        "continuation": continuation_task,
        "qa": question_task,
        RETRIEVAL: retrieval_task,
    }
)

METRICS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "document": (PERCENT_OF_BASE,),
        "continuation": (PERCENT_OF_BASE,),
        "qa": (*ANSWER_METRICS, ACCURACY, ACCURACY_BY_LENGTH, PERCENT_OF_BASE),
        RETRIEVAL: RETRIEVAL_METRICS,
    }
)
"""The names of the metrics of each protocol."""


def unscored_note(prompts: Sequence[Prompt], protocols: Sequence[str]) -> tuple[str, ...]:
    """Return a note on references that are not used, or are missing; none if all is well."""
    if not {"qa", RETRIEVAL} & {*protocols} and any(prompt.reference for prompt in prompts):
        return (
            "The prompts have answers, which are not used: their texts are scored. The protocol qa "
            "scores the answers (--protocol qa).",
        )
    unscored = sum(not prompt.reference for prompt in prompts)
    if "qa" not in protocols or not unscored:
        return ()
    return (
        f"{unscored} of {len(prompts)} prompts have neither an answer nor a correct choice: the "
        "protocol qa compares their answers with nothing.",
    )


def alike_notes(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Return notes on prompts that count as one observation: repeats, and those of few sources.

    Args:
        prompts: As `as_prompts` returns them.
    """
    alike = {
        (prompt.text.strip(), prompt.choices, prompt.source or prompt.id) for prompt in prompts
    }
    notes = []
    if repeats := len(prompts) - len(alike):
        notes.append(
            f"{repeats} of {len(prompts)} prompts repeat an earlier one: equal prompts count as "
            "one observation."
        )
    sources = len({source for _, _, source in alike})
    if sources < min(len(alike), MIN_CLUSTERS_RESAMPLED):
        notes.append(
            f'The {len(prompts)} prompts are from {sources} source{"s" * (sources > 1)} ("source", '
            'or the "title" of a passage), each of which counts as one observation: leave the '
            "field out if it does not name the text that a prompt is about."
        )
    return tuple(notes)


def parse_protocols(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of protocols, each once.

    Raises:
        ArgumentError: If they are no sequence of names, there is none, or one does not exist.
    """
    given = strings("protocols", names)
    if not given:
        raise ArgumentError(
            f"there is no protocol to compare under: use some of {', '.join(PROTOCOLS)}"
        )
    for name in given:
        if name not in PROTOCOLS:
            raise ArgumentError(
                f"there is no protocol {name!r}: use some of {', '.join(PROTOCOLS)}"
            )
    return tuple(dict.fromkeys(given))
