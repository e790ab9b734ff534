"""Score single tokens: their log-probabilities, and the likeliest tokens in their places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from langchain_sift.ttft.requests import PromptScores, TokenScore
from langchain_sift.ttft.training.output_layer import OutputLayer

_ROWS = 64  # positions whose logits exist at once


def token_score(
    logits: torch.Tensor, token_id: int, top: int, *, is_end: bool = False
) -> TokenScore:
    """Return the score of a token.

    Args:
        logits: Scores of all tokens in its place, shape (vocabulary,).
        token_id: The token.
        top: Number of likeliest tokens to list.
        is_end: True if the token ends the answer.
    """
    (score,) = _scores(logits[None], [token_id], top)
    return TokenScore(score.token_id, score.log_p, score.top, is_end)


def prompt_scores(
    model: PreTrainedModel, head: OutputLayer | None, token_ids: Sequence[int], top: int
) -> PromptScores:
    """Return the scores of all tokens of a text but the first.

    Args:
        model: Any causal language model.
        head: The result of `linear_head(model)`.
        token_ids: The text.
        top: Number of likeliest tokens to list for each.
    """
    ids = torch.tensor([list(token_ids)], device=model.device)
    scores: list[TokenScore] = []
    with torch.inference_mode():
        source: torch.Tensor = (
            model(input_ids=ids, use_cache=False).logits
            if head is None
            else model.base_model(input_ids=ids, use_cache=False)[0]
        )[0, :-1]
        for start in range(0, len(source), _ROWS):
            rows = source[start : start + _ROWS]
            following = token_ids[1 + start : 1 + start + _ROWS]
            scores += _scores(rows if head is None else head(rows), following, top)
    return PromptScores(tuple(scores))


def _scores(logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[TokenScore]:
    """Return the score of one token for each row of logits, shape (n, vocabulary)."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    chosen = log_p.gather(1, torch.tensor([[token] for token in token_ids], device=log_p.device))
    best = log_p.topk(min(top, log_p.shape[1]), dim=-1)
    return [
        TokenScore(token, value, tuple(zip(ids, values, strict=True)))
        for token, (value,), ids, values in zip(
            token_ids, chosen.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
