"""Losses and gradients equal PyTorch's cross-entropy in float32."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from langchain_sift.ttft.training import loss as module
from langchain_sift.ttft.training import output_layer
from langchain_sift.ttft.training.loss import (
    _RowLosses,
    negative_log_likelihoods,
    row_losses,
)
from langchain_sift.ttft.training.output_layer import OutputLayer, linear_head
from langchain_sift.ttft.training.targets import make_targets

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
    monkeypatch.setattr(output_layer, "_BLOCK_BYTES", 97 * 128)  # several blocks
    monkeypatch.setattr(module, "_CHUNK", 97 * 3)  # of several chunks
    generator = torch.Generator().manual_seed(len(lengths))
    rows = [torch.randint(0, 97, (n,), generator=generator).tolist() for n in lengths]
    width = 8 if with_head else 97
    shape = (len(rows), max(lengths) - 1, width)
    source = torch.randn(shape, generator=generator).mul(2).to(dtype)
    head = nn.Linear(8, 97, dtype=dtype).requires_grad_(requires_grad=False) if with_head else None
    ours, theirs = source.clone().requires_grad_(), source.clone().requires_grad_()
    layer = None if head is None else OutputLayer(head)
    losses = _RowLosses.apply(ours, layer, make_targets(rows, mean=True, device=CPU))
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
    targets = make_targets([row], counted=[range(3, 6)], mean=False, device=CPU)
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


MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2}


def make_model(architecture: str, **more: object) -> PreTrainedModel:
    config = AutoConfig.for_model(architecture, **SIZES, **more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("architecture", "more", "scale", "cap"),
    [
        ("llama", {}, 1.0, None),
        ("gemma2", {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 50.0}, 1.0, 5.0),
        ("gemma2", {"final_logit_softcapping": 64.0, "attn_logit_softcapping": 32.0}, 1.0, 64.0),
        ("granite", {"logits_scaling": 8.0}, 0.125, None),
        ("cohere", {"logit_scale": 0.0625}, 0.0625, None),
        (
            "falcon_h1",
            {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 2},
            0.3,
            None,
        ),
    ],
)
@pytest.mark.parametrize("size", [1e-3, 50.0])
def test_logits_that_are_scaled_or_capped_have_transformers_losses_and_gradients(
    architecture: str, more: dict[str, object], scale: float, cap: float | None, size: float
) -> None:
    """Detect scale and cap, however small or large the logits of the text are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model(architecture, **more)
        model.get_output_embeddings().weight = nn.Parameter(size * torch.randn(64, 32))
    head = linear_head(model)
    assert head is not None
    assert (head.scale, head.cap) == (pytest.approx(scale), cap)
    rows = [[1, 5, 9, 3], [7, 2]]
    model.zero_grad()
    losses = row_losses(model, head, make_targets(rows, mean=True, device=CPU))
    losses.sum().backward()
    weights = [w for name, w in model.named_parameters() if "layers.0" in name]
    ours = [w.grad for w in weights]
    model.zero_grad()
    for row, loss in zip(rows, losses, strict=True):
        ids = torch.tensor([row])
        expected = model(input_ids=ids, labels=ids).loss
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for own, weight in zip(ours, weights, strict=True):
        peer = torch.zeros_like(weight) if weight.grad is None else weight.grad
        found = torch.zeros_like(weight) if own is None else own
        rounding = 1e-5 * (1.0 + float(peer.abs().max()))
        torch.testing.assert_close(found, peer, rtol=1e-3, atol=rounding)


class Twisted(LlamaForCausalLM):
    """Adds something to the logits that no setting tells of."""

    def forward(self, *args: object, **kwargs: object) -> Any:
        found = super().forward(*args, **kwargs)
        found.logits = found.logits + torch.linspace(-3, 3, found.logits.shape[-1])
        return found


def test_logits_of_another_form_are_left_to_the_model() -> None:
    model = Twisted(AutoConfig.for_model("llama", **SIZES)).eval()
    assert linear_head(model) is None
    row = [1, 5, 9, 3]
    (loss,) = row_losses(model, None, make_targets([row], mean=True, device=CPU)).tolist()
    logits = model(input_ids=torch.tensor([row])).logits[0]
    assert loss == pytest.approx(F.cross_entropy(logits[:-1], torch.tensor(row[1:])).item())


def test_blocks_are_even_and_few_enough_logits() -> None:
    for vocabulary, dtype in itertools.product((64, 49_152, 262_144), (torch.float32, torch.half)):
        with torch.device("meta"):
            layer = nn.Linear(8, vocabulary, dtype=dtype)
        layer.weight = nn.Parameter(torch.zeros(1, dtype=dtype).expand(vocabulary, 8))
        for rows in (1, 511, 4096):
            size = OutputLayer(layer).block_rows(rows)
            blocks = -(-rows // size)
            assert (
                size * vocabulary * dtype.itemsize <= 5 * 2**26 + 16 * vocabulary * dtype.itemsize
            )
            assert size <= -(-rows // blocks) + 16


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
