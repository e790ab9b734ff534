"""Say how many prompts leak."""

from __future__ import annotations

from collections.abc import Mapping

LEARNED = "the model has learned this question"
"""The description of a prompt whose question an adapter has learned. Others name a document."""


def joined(stored: Mapping[str, str], learned: Mapping[str, str]) -> dict[str, str]:
    """Return the leaks of both kinds; a prompt that has both has both descriptions."""
    both = {key: f"{copy}; {LEARNED}" for key, copy in stored.items() if key in learned}
    return {**stored, **learned, **both}


def leak_notice(leaks: Mapping[str, str], prompts: int, *, excluded: bool) -> str:
    """Return how many prompts leak, where, and whether they were measured.

    Args:
        leaks: Descriptions of the leaks by the ids of the prompts; not empty.
        prompts: Number of prompts, with those that leak.
        excluded: True if the prompts that leak were not measured.
    """
    learned = sum(leak.endswith(LEARNED) for leak in leaks.values())
    stored = sum(leak != LEARNED for leak in leaks.values())
    parts = []
    if stored or not learned:
        parts.append(f"the store contains the scored text of {stored} of {prompts} prompts")
    if learned:
        parts.append(f"the model has learned the questions of {learned} of {prompts} prompts")
    return f"{', and '.join(parts)}{'; they are excluded' if excluded else ''}."
