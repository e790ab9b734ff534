"""Write numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 file" and "2 files"."""
    return f"{number} {noun}{'s' * (number != 1)}"
