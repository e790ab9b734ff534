"""Losses and gradients equal PyTorch's cross-entropy in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from langchain_sift.ttft.training import loss as module
from langchain_sift.ttft.training.loss import (
    _RowLosses,
    linear_head,
    make_targets,
    negative_log_likelihoods,
    row_losses,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(2,), (40, 40), (3, 90, 17)])
def test_the_loss_is_the_cross_entropy_of_each_row(
    *,
    lengths: tuple[int, ...],
    dtype: torch.dtype,
    with_head: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(module._BLOCK, "cpu", 97 * 32)  # several blocks
    generator = torch.Generator().manual_seed(len(lengths))
    rows = [torch.randint(0, 97, (n,), generator=generator).tolist() for n in lengths]
    width = 8 if with_head else 97
    shape = (len(rows), max(lengths) - 1, width)
    source = torch.randn(shape, generator=generator).mul(2).to(dtype)
    head = nn.Linear(8, 97, dtype=dtype).requires_grad_(requires_grad=False) if with_head else None
    ours, theirs = source.clone().requires_grad_(), source.clone().requires_grad_()
    losses = _RowLosses.apply(ours, head, make_targets(rows, mean=True, device=CPU))
    logits = theirs if head is None else head(theirs)
    expected = torch.stack(
        [
            F.cross_entropy(logits[i, : len(row) - 1].float(), torch.tensor(row[1:]))
            for i, row in enumerate(rows)
        ]
    )
    torch.testing.assert_close(losses, expected)
    scale = torch.arange(1.0, len(rows) + 1)
    (scale * losses).sum().backward()
    (scale * expected).sum().backward()
    tolerance = {"rtol": 2e-2, "atol": 1e-4} if dtype is torch.bfloat16 else {}
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)


def test_the_loss_sums_over_the_targets_only() -> None:
    logits = torch.randn(1, 5, 11)
    row = [1, 2, 3, 4, 5, 6]
    targets = make_targets([row], first=[3], mean=False, device=CPU)
    expected = F.cross_entropy(logits[0, 2:], torch.tensor(row[3:]), reduction="sum")
    torch.testing.assert_close(_RowLosses.apply(logits, None, targets)[0], expected)


def test_padding_to_a_length_changes_nothing() -> None:
    logits = torch.randn(2, 15, 11)
    rows = [[1, 2, 3, 4], [5, 6, 7]]
    short = _RowLosses.apply(logits[:, :3], None, make_targets(rows, mean=True, device=CPU))
    padded = make_targets(rows, mean=True, length=16, device=CPU)
    torch.testing.assert_close(_RowLosses.apply(logits, None, padded), short)


def test_extreme_logits_stay_finite_and_nan_is_not_hidden() -> None:
    targets = make_targets([[0, 0, 0]], mean=True, device=CPU)
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], requires_grad=True)
    loss = _RowLosses.apply(logits, None, targets)
    assert loss.item() == pytest.approx(1e4)
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isnan(_RowLosses.apply(torch.full((1, 2, 2), torch.nan), None, targets)).all()


def test_a_row_with_nan_does_not_change_the_others() -> None:
    logits = torch.randn(3, 4, 7)
    logits[1] = torch.nan
    logits.requires_grad_()
    losses = _RowLosses.apply(
        logits, None, make_targets([[1, 2, 3, 4, 5]] * 3, mean=True, device=CPU)
    )
    losses.sum().backward()
    assert torch.isfinite(losses).tolist() == [True, False, True]
    assert torch.isfinite(logits.grad[[0, 2]]).all()


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def make_model(architecture: str, **more: object) -> PreTrainedModel:
    config = AutoConfig.for_model(architecture, **SIZES, **more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("architecture", "more", "plain"),
    [
        ("llama", {}, True),
        ("gemma2", {"final_logit_softcapping": 5.0}, False),
        ("granite", {"logits_scaling": 8.0}, False),
    ],
)
def test_logits_that_are_not_linear_in_the_states_are_detected(
    architecture: str, more: dict[str, object], *, plain: bool
) -> None:
    model = make_model(architecture, **more)
    head = linear_head(model)
    assert (head is not None) is plain
    rows = [[1, 5, 9, 3], [7, 2]]
    losses = row_losses(model, head, make_targets(rows, mean=True, device=CPU))
    for row, loss in zip(rows, losses.tolist(), strict=True):
        ids = torch.tensor([row])
        assert loss == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)


TOKENS = [5, 9, 40, 41, 7, 8, 100, 21]


def test_the_negative_log_likelihood_is_transformers_loss_summed_over_each_target(
    tiny_model: PreTrainedModel,
) -> None:
    pairs = [(TOKENS[:cut], TOKENS[cut:]) for cut in (1, 3, 7)] + [(TOKENS[:2], TOKENS[2:4])]
    expected = []
    for context, target in pairs:
        ids = torch.tensor([[*context, *target]])
        labels = ids.clone()
        labels[:, : len(context)] = -100
        with torch.no_grad():
            expected.append(tiny_model(input_ids=ids, labels=labels).loss.item() * len(target))
    nats = negative_log_likelihoods(tiny_model, linear_head(tiny_model), pairs)
    assert nats == pytest.approx(expected, rel=1e-5)
    assert negative_log_likelihoods(tiny_model, None, pairs) == pytest.approx(expected, rel=1e-5)


def test_the_negative_log_likelihoods_of_parts_add_up(tiny_model: PreTrainedModel) -> None:
    pairs = [(TOKENS[:2], TOKENS[2:]), (TOKENS[:2], TOKENS[2:5]), (TOKENS[:5], TOKENS[5:])]
    whole, *parts = negative_log_likelihoods(tiny_model, None, pairs)
    assert whole == pytest.approx(sum(parts), rel=1e-5)
