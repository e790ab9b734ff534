"""Split the rows of a batch into passes over the model."""

from __future__ import annotations

import math
from collections.abc import Sequence


def split_into_passes(
    lengths: Sequence[int], *, overhead: int, switch: float = math.inf
) -> list[tuple[int, int]]:
    """Split a row of documents into passes with the least computation, padding included.

    A pass is a run of neighbours, padded to the longest of them. Dynamic programming over the
    end of the last pass.

    Args:
        lengths: Number of tokens of each slot's document. 0 means no document, in no pass.
        overhead: Cost of one more pass, in tokens.
        switch: A document of at most this length shares no pass with a longer one.

    Returns:
        First slot of each pass, and the slot after its last.
    """
    # best[i]: the lowest cost of the first i slots, and the start of their last pass.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for last in range(1, len(lengths) + 1):
        if lengths[last - 1] == 0:
            best.append((best[last - 1][0], last))
            continue
        choices = []
        longest = 0
        for first in range(last - 1, -1, -1):
            if lengths[first] == 0 or (lengths[first] > switch) != (lengths[last - 1] > switch):
                break
            longest = max(longest, lengths[first])
            choices.append((best[first][0] + overhead + longest * (last - first), first))
        best.append(min(choices))
    passes = []
    end = len(lengths)
    while end > 0:
        start = best[end][1]
        if start == end:
            end -= 1
        else:
            passes.append((start, end))
            end = start
    return passes[::-1]
