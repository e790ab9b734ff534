"""Find the prompts whose scored text the store holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.tasks import PROTOCOLS
from langchain_sift.errors import ArgumentError
from langchain_sift.report.shingles import shingles_of

SHINGLE = 8
"""Number of words in a shingle, a run of words."""

NEAR = 0.5
"""Fraction of a text's shingles from which on documents count as a near copy."""


def scored_texts(prompts: Sequence[Prompt], protocols: Sequence[str]) -> dict[str, str]:
    """Return the shortest scored text of each prompt, by its id; the question for an answer.

    An answer of a few words occurs in many documents, and should. A prompt of which nothing is
    scored has the text "".
    """
    scored = {}
    for prompt in prompts:
        texts = []
        for name in protocols:
            try:
                task = PROTOCOLS[name](prompt)
            except ArgumentError:  # reported in the rows of the prompt
                continue
            if task.generates or task.target:
                texts.append(prompt.text if task.generates else str(task.target))
        scored[prompt.id] = min(texts, key=len, default="")
    return scored


def find_leaks(scored: Mapping[str, str], documents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the scored texts that the store holds, exactly or nearly.

    A document is an exact copy if it holds all of the text's runs of eight words, except for case
    and punctuation. It is a near copy if it holds at least half of them; so are several documents
    together, such as the parts of one that was split. A shorter text counts as one run.

    Args:
        scored: Texts by the ids of the prompts.
        documents: Ids and texts; read once.

    Returns:
        A description of the closest copy, for each prompt that has one.
    """
    shingles = {prompt: shingles_of(text, SHINGLE) for prompt, text in scored.items()}
    prompts_of: dict[str, list[str]] = defaultdict(list)
    for prompt, runs in shingles.items():
        for shingle in runs:
            prompts_of[shingle].append(prompt)
    covered: dict[str, set[str]] = defaultdict(set)
    closest: dict[str, tuple[int, str]] = {}
    for identifier, text in documents:
        hits: Counter[str] = Counter()
        for shingle in shingles_of(text, SHINGLE):
            for prompt in prompts_of.get(shingle, ()):
                hits[prompt] += 1
                covered[prompt].add(shingle)
        for prompt, count in hits.items():
            if count > closest.get(prompt, (0, ""))[0]:
                closest[prompt] = (count, identifier)
    return {
        prompt: _description(*closest[prompt], len(covered[prompt]), of=len(runs))
        for prompt, runs in shingles.items()
        if prompt in closest and len(covered[prompt]) >= NEAR * len(runs)
    }


def without_leaks(prompts: Sequence[Prompt], leaks: Mapping[str, str]) -> list[Prompt]:
    """Return the prompts that do not leak.

    Raises:
        ArgumentError: If all leak.
    """
    kept = [prompt for prompt in prompts if prompt.id not in leaks]
    if not kept:
        raise ArgumentError(
            f"the store holds the scored text of all {len(leaks)} prompts, or the model has "
            "learned them: none is left"
        )
    return kept


def _description(most: int, identifier: str, together: int, *, of: int) -> str:
    if most == of:
        return f"an exact copy in {identifier}"
    if together > most:
        return f"{together / of:.0%} of it in several documents, the largest part in {identifier}"
    return f"{most / of:.0%} of it in {identifier}"
