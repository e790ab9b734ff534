"""Put the tokens that a model is to predict into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from langchain_sift.ttft.training.top_logits import TopLogits


@dataclass(frozen=True, slots=True)
class Targets:
    """The tokens of a batch, b rows of t token ids, and their weights in the loss."""

    token_ids: torch.Tensor
    """Shape (b, t), padded on the right, where a causal model does not attend."""

    weights: torch.Tensor
    """Shape (b, t - 1): the weight of position i's loss, which is on token i + 1."""

    counted: torch.Tensor | None
    """Flat indices of the positions with nonzero weight. None means all positions."""

    teacher: TopLogits | None = None
    """The next token by a teacher, in place of the row's own."""

    taught: torch.Tensor | None = None
    """Indices of the teacher's positions among those that are counted."""


def make_targets(
    rows: Sequence[Sequence[int]],
    *,
    counted: Sequence[Sequence[int] | None] | None = None,
    teachers: Sequence[TopLogits | None] | None = None,
    mean: bool,
    length: int | None = None,
    device: torch.device,
) -> Targets:
    """Make one batch of the rows.

    Args:
        rows: Token ids, at least two per row.
        counted: Indices of the tokens of each row that count, never 0. None, for one row or for
            all, means all tokens but the first.
        teachers: For each row, the teacher at the positions of the tokens that count. None, for one
            row or for all, means that the loss is on the tokens themselves.
        mean: If True, a row's loss is the mean over its tokens, otherwise their sum.
        length: t, at least the longest row's length. None means exactly that length.
        device: The device of the model.
    """
    length = length or max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    # Not the default dtype of the process: another thread may change it while it loads a model.
    weights = torch.zeros(len(rows), length - 1, dtype=torch.float32)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = torch.tensor(row)
        chosen = counted[number] if counted else None
        indices = range(1, len(row)) if chosen is None else chosen
        weights[number, torch.tensor(indices) - 1] = 1.0 / len(indices) if mean else 1.0
    positions = None if bool((weights != 0).all()) else weights.flatten().nonzero()[:, 0]
    teacher, taught = _taught(weights, positions, teachers or ())
    return Targets(
        token_ids.to(device),
        weights.to(device),
        positions if positions is None else positions.to(device),
        teacher,
        taught if taught is None else taught.to(device),
    )


def _taught(
    weights: torch.Tensor, counted: torch.Tensor | None, teachers: Sequence[TopLogits | None]
) -> tuple[TopLogits | None, torch.Tensor | None]:
    """Return the teachers of all rows, and the indices of their positions among the counted."""
    parts = [teacher for teacher in teachers if teacher is not None]
    if not parts:
        return None, None
    of_rows = [weights[row].nonzero()[:, 0] + row * weights.shape[1] for row in range(len(weights))]
    pairs = zip(of_rows, teachers, strict=True)
    flat = torch.cat([positions for positions, teacher in pairs if teacher is not None])
    return TopLogits.joined(parts), flat if counted is None else torch.searchsorted(counted, flat)
