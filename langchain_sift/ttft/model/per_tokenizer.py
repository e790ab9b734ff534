"""Remember facts about a tokenizer for as long as it lives and stays as it is."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


def once_per_tokenizer(
    find: Callable[[PreTrainedTokenizerBase], T],
) -> Callable[[PreTrainedTokenizerBase], T]:
    """Make a function of a tokenizer remember its results.

    A result is computed again if tokens were added or the chat template was replaced.

    Args:
        find: The function. Its result must not keep the tokenizer alive.
    """
    guard = threading.Lock()
    known: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[int, str], T]] = (
        weakref.WeakKeyDictionary()
    )

    @functools.wraps(find)
    def remembered(tokenizer: PreTrainedTokenizerBase) -> T:
        """Return the known result, or find it."""
        state = (len(tokenizer), str(tokenizer.chat_template))
        with guard:
            entry = known.get(tokenizer)
        if entry is None or entry[0] != state:
            entry = (state, find(tokenizer))
            with guard:
                known[tokenizer] = entry
        return entry[1]

    return remembered
