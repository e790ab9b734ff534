"""Does the store hold what is scored?"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

SHINGLE = 8
"""Words in a row that are looked for."""

NEAR = 0.5
"""Share of a text's shingles from which on a document with them is a near copy of it."""

_WORD = re.compile(r"\w+")


def find_leaks(scored: Mapping[str, str], documents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return which scored texts are in the store, exactly or nearly.

    A document holds a text exactly if all of the text's runs of eight words occur in it, case and
    punctuation aside; nearly, if at least half of them do. A shorter text must be all of it.

    Args:
        scored: Texts by the prompts' ids.
        documents: Ids and texts; looked at once, one after the other.

    Returns:
        For each prompt of which there is a copy, where the closest one is, in words.
    """
    shingles = {prompt: _shingles(text) for prompt, text in scored.items()}
    wanted: dict[bytes, list[str]] = defaultdict(list)
    for prompt, own in shingles.items():
        for shingle in own:
            wanted[shingle].append(prompt)
    closest: dict[str, tuple[float, str]] = {}
    for identifier, text in documents:
        hits = Counter(prompt for shingle in _shingles(text) for prompt in wanted.get(shingle, ()))
        for prompt, count in hits.items():
            share = count / len(shingles[prompt])
            if share >= NEAR and share > closest.get(prompt, (0.0, ""))[0]:
                closest[prompt] = (share, identifier)
    return {
        prompt: (
            f"an exact copy in {closest[prompt][1]}"
            if closest[prompt][0] == 1.0
            else f"{closest[prompt][0]:.0%} of it in {closest[prompt][1]}"
        )
        for prompt in scored
        if prompt in closest
    }


def _shingles(text: str) -> set[bytes]:
    """Return hashes of all runs of words; of a shorter text, of all of it."""
    words = _WORD.findall(text.lower())
    length = min(SHINGLE, len(words))
    if not length:
        return set()
    return {
        hashlib.blake2b(
            " ".join(words[start : start + length]).encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        for start in range(len(words) - length + 1)
    }
