"""The divergence from a teacher equals a dense computation in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from langchain_sift.ttft.training import output_layer
from langchain_sift.ttft.training.loss import _RowLosses
from langchain_sift.ttft.training.output_layer import OutputLayer
from langchain_sift.ttft.training.targets import make_targets
from langchain_sift.ttft.training.top_logits import COUNT, TopLogits, divergence

CPU = torch.device("cpu")


def outcomes(logits: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of the kept tokens, and of all others together."""
    p = logits.double().softmax(dim=-1)
    chosen = p.gather(-1, kept)
    return torch.cat([chosen, (1 - chosen.sum(dim=-1, keepdim=True)).clamp(min=0)], dim=-1)


def dense(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return the divergence over the teacher's likeliest tokens and the rest, in float64."""
    kept = teacher.topk(min(COUNT, teacher.shape[-1])).indices
    p, q = outcomes(teacher, kept), outcomes(student, kept)
    return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()), 0).sum(
        -1
    )


@pytest.mark.parametrize("vocabulary", [40, COUNT, 500])
def test_value_and_gradient_are_those_of_a_dense_computation(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    teacher = 3 * torch.randn(6, vocabulary, generator=generator)
    student = (2 * torch.randn(6, vocabulary, generator=generator)).requires_grad_()
    weights = torch.rand(6, 1, generator=generator)
    expected = dense(teacher, student)
    (expected * weights[:, 0]).sum().backward()
    logits = student.detach().clone()
    nats = divergence(logits, TopLogits.of(teacher), weights)
    torch.testing.assert_close(nats, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, student.grad, rtol=1e-4, atol=1e-6)
    full = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert bool((nats <= full + 1e-4).all())
    if vocabulary <= COUNT:
        torch.testing.assert_close(nats, full, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite_and_nan_is_not_hidden() -> None:
    teacher = torch.tensor([[0.0, -torch.inf, 50.0]]).repeat(1, 60)
    student = torch.full((1, 180), -torch.inf)
    student[0, ::3], student[0, 2::3] = 1e4, -1e4
    logits = student.clone()
    assert bool(torch.isfinite(divergence(logits, TopLogits.of(teacher), torch.ones(1, 1))).all())
    assert bool(torch.isfinite(logits).all())
    same = divergence(teacher.clone(), TopLogits.of(teacher), torch.ones(1, 1))
    torch.testing.assert_close(same, torch.zeros(1), atol=1e-5, rtol=0)
    logits[0, 7] = torch.nan
    assert bool(divergence(logits, TopLogits.of(teacher), torch.ones(1, 1)).isnan())


def test_a_batch_may_mix_rows_with_a_teacher_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "_MOST_ROWS", 4)  # several blocks
    generator = torch.Generator().manual_seed(0)
    rows = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]
    counted = [None, [1, 2], [2, 3]]
    head = nn.Linear(8, 300, bias=False).requires_grad_(requires_grad=False)
    layer = OutputLayer(head, scale=0.5, cap=20.0)
    teacher = 4 * torch.randn(4, 300, generator=generator)
    states = torch.randn(3, 4, 8, generator=generator).mul(3)
    ours, theirs = states.clone().requires_grad_(), states.clone().requires_grad_()
    teachers = [None, TopLogits.of(teacher[:2]), TopLogits.of(teacher[2:])]
    targets = make_targets(rows, counted=counted, teachers=teachers, mean=True, device=CPU)
    losses = _RowLosses.apply(ours, layer, targets)
    logits = layer(theirs)
    own = torch.nn.functional.cross_entropy(logits[0], torch.tensor(rows[0][1:]))
    taught = [dense(teacher[:2], logits[1, :2]).mean(), dense(teacher[2:], logits[2, 1:3]).mean()]
    expected = torch.stack([own, *[loss.float() for loss in taught]])
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
