"""The negative log-likelihood is transformers' loss, summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.ttft.training.loss import linear_head
from langchain_sift.ttft.training.scoring import negative_log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = [5, 9, 40, 41, 7, 8, 100, 21]


def test_it_is_transformers_loss_over_each_target(tiny_model: PreTrainedModel) -> None:
    pairs = [(TOKENS[:cut], TOKENS[cut:]) for cut in (1, 3, 7)] + [(TOKENS[:2], TOKENS[2:4])]
    expected = []
    for context, target in pairs:
        ids = torch.tensor([[*context, *target]])
        labels = ids.clone()
        labels[:, : len(context)] = -100
        with torch.no_grad():
            expected.append(tiny_model(input_ids=ids, labels=labels).loss.item() * len(target))
    found = negative_log_likelihoods(tiny_model, linear_head(tiny_model), pairs)
    assert found == pytest.approx(expected, rel=1e-5)
    assert negative_log_likelihoods(tiny_model, None, pairs) == pytest.approx(expected, rel=1e-5)


def test_parts_add_up(tiny_model: PreTrainedModel) -> None:
    pairs = [(TOKENS[:2], TOKENS[2:]), (TOKENS[:2], TOKENS[2:5]), (TOKENS[:5], TOKENS[5:])]
    whole, *parts = negative_log_likelihoods(tiny_model, None, pairs)
    assert whole == pytest.approx(sum(parts), rel=1e-5)
