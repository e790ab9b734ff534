"""The loss and its gradient are PyTorch's cross-entropy in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from langchain_sift.ttft.loss import next_token_loss


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_cross_entropy(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = (5 * torch.randn(count, 97, generator=generator)).to(dtype)
    targets = torch.randint(0, 97, (count,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = next_token_loss(ours, targets), F.cross_entropy(theirs.float(), targets)
    torch.testing.assert_close(loss, expected)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_extreme_logits_stay_finite_and_nan_is_not_hidden() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = next_token_loss(logits, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(1e4)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isnan(next_token_loss(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0])))
