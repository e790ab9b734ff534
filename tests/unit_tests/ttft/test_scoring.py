"""The negative log-likelihood is transformers' loss, summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.ttft.scoring import negative_log_likelihood

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = [5, 9, 40, 41, 7, 8, 100, 21]


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_it_is_transformers_loss_over_the_target(tiny_model: PreTrainedModel, cut: int) -> None:
    ids = torch.tensor([TOKENS])
    labels = ids.clone()
    labels[:, :cut] = -100
    with torch.no_grad():
        expected = tiny_model(input_ids=ids, labels=labels).loss.item() * (len(TOKENS) - cut)
    found = negative_log_likelihood(tiny_model, TOKENS[:cut], TOKENS[cut:])
    assert found == pytest.approx(expected, rel=1e-5)


def test_parts_add_up(tiny_model: PreTrainedModel) -> None:
    whole = negative_log_likelihood(tiny_model, TOKENS[:2], TOKENS[2:])
    parts = negative_log_likelihood(tiny_model, TOKENS[:2], TOKENS[2:5])
    parts += negative_log_likelihood(tiny_model, TOKENS[:5], TOKENS[5:])
    assert whole == pytest.approx(parts, rel=1e-5)
