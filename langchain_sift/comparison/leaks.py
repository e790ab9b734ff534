"""Does the store hold what is scored?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from langchain_sift.report.shingles import shingles_of

SHINGLE = 8
"""Words in a row that are looked for."""

NEAR = 0.5
"""Share of a text's shingles from which on documents with them are a near copy of it."""


def find_leaks(scored: Mapping[str, str], documents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return which scored texts are in the store, exactly or nearly.

    A document holds a text exactly if all of the text's runs of eight words occur in it, case and
    punctuation aside; nearly, if at least half of them do. So do several documents together,
    such as the parts of one that was split. A shorter text must be all of it.

    Args:
        scored: Texts by the prompts' ids.
        documents: Ids and texts; looked at once, one after the other.

    Returns:
        For each prompt of which there is a copy, where the closest one is, in words.
    """
    shingles = {prompt: shingles_of(text, SHINGLE) for prompt, text in scored.items()}
    wanted: dict[str, list[str]] = defaultdict(list)
    for prompt, own in shingles.items():
        for shingle in own:
            wanted[shingle].append(prompt)
    found: dict[str, set[str]] = defaultdict(set)
    closest: dict[str, tuple[int, str]] = {}
    for identifier, text in documents:
        hits: Counter[str] = Counter()
        for shingle in shingles_of(text, SHINGLE):
            for prompt in wanted.get(shingle, ()):
                hits[prompt] += 1
                found[prompt].add(shingle)
        for prompt, count in hits.items():
            if count > closest.get(prompt, (0, ""))[0]:
                closest[prompt] = (count, identifier)
    return {
        prompt: _told(*closest[prompt], len(found[prompt]), of=len(own))
        for prompt, own in shingles.items()
        if prompt in closest and len(found[prompt]) >= NEAR * len(own)
    }


def _told(most: int, identifier: str, together: int, *, of: int) -> str:
    if most == of:
        return f"an exact copy in {identifier}"
    if together > most:
        return f"{together / of:.0%} of it in several documents, the largest part in {identifier}"
    return f"{most / of:.0%} of it in {identifier}"
