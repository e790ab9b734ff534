"""Generate with transformers' `generate`, for models whose cache is of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from langchain_sift.ttft.answering.rows import AnswerRow


def generate_with_transformers(
    model: PreTrainedModel,
    rows: Sequence[AnswerRow],
    prompts: Sequence[Sequence[int]],
    end_tokens: frozenset[int],
) -> None:
    """Generate all answers; the loop, the cache and the masks are those of transformers.

    Args:
        model: Any causal language model. Its `generation_config` comes from `model_settings`.
        rows: The answers.
        prompts: The token ids of each.
        end_tokens: Tokens that end an answer.
    """
    longest = max(map(len, prompts))
    # Padded on the left, so that each row's next token follows its prompt.
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    settings: Any = model.generation_config
    config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(row.left for row in rows),
        do_sample=False,
        eos_token_id=sorted(end_tokens) or None,
        bos_token_id=settings.bos_token_id,
        pad_token_id=settings.pad_token_id if settings.pad_token_id is not None else 0,
    )
    model.generate(  # type: ignore[operator]
        torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([_Choice(rows)]),
        stopping_criteria=StoppingCriteriaList([_RowsDone(rows)]),
    )


class _Choice(LogitsProcessor):
    """Makes the token that a row chooses the likeliest."""

    def __init__(self, rows: Sequence[AnswerRow]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        for row, logits in zip(self._rows, scores, strict=True):
            row.logits = logits if row.is_scored else None
        if all(row.is_greedy for row in self._rows):
            return scores
        scores = scores.clone()
        for number, row in enumerate(self._rows):
            if not row.is_greedy:
                token = row.choose(scores[number])
                scores[number] = -torch.inf
                scores[number, token] = 0.0
        return scores


class _RowsDone(StoppingCriteria):
    """Passes each row its new token, and returns which rows are done."""

    def __init__(self, rows: Sequence[AnswerRow]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: object) -> torch.Tensor:
        del scores
        for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not row.done:
                row.add(token_id)
        return torch.tensor([row.done for row in self._rows], device=input_ids.device)
