"""Cut texts into runs of words, to compare texts for copies."""

from __future__ import annotations

from langchain_sift.report.words import words_of


def shingles_of(text: str, length: int) -> frozenset[str]:
    """Return all runs of words of a text.

    Args:
        text: The text.
        length: Number of words in a run; a shorter text is a single run.
    """
    words = words_of(text)
    length = min(length, len(words))
    if not length:
        return frozenset()
    starts = range(len(words) - length + 1)
    return frozenset(" ".join(words[start : start + length]) for start in starts)
