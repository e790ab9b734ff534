"""Compare a model with a teacher, of whose next token only the likeliest are kept.

The loss is the Kullback-Leibler divergence from the teacher to the model over `COUNT` tokens and
one more outcome, all other tokens together. By the data processing inequality it is a lower bound
of the divergence over the whole vocabulary. Renormalizing the likeliest tokens instead would let
the model move any probability to the others at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COUNT = 128
"""Number of the teacher's likeliest tokens. On-policy distillation of 2026 (SDPO, arXiv
2601.20802) keeps 100."""


@dataclass(frozen=True, slots=True, eq=False)
class TopLogits:
    """The next token by a teacher, at n positions."""

    token_ids: torch.Tensor
    """Its likeliest tokens, shape (n, k)."""

    log_p: torch.Tensor
    """Logarithms of their probabilities, shape (n, k), float32."""

    log_rest: torch.Tensor
    """Logarithm of the probability of all others, shape (n, 1), float32."""

    @classmethod
    def of(cls, logits: torch.Tensor) -> TopLogits:
        """Keep the likeliest tokens of logits, shape (n, vocabulary)."""
        logits = logits.float()
        top = logits.topk(min(COUNT, logits.shape[-1]))
        total = logits.logsumexp(dim=-1, keepdim=True)
        others = logits.scatter(1, top.indices, -torch.inf)
        log_rest = others.logsumexp(dim=-1, keepdim=True) - total
        return cls(top.indices, _finite(top.values - total), _finite(log_rest))

    @classmethod
    def joined(cls, parts: list[TopLogits]) -> TopLogits:
        """Return the positions of all parts."""
        return cls(
            torch.cat([part.token_ids for part in parts]),
            torch.cat([part.log_p for part in parts]),
            torch.cat([part.log_rest for part in parts]),
        )

    def __getitem__(self, positions: slice | torch.Tensor) -> TopLogits:
        """Return some of the positions."""
        return TopLogits(self.token_ids[positions], self.log_p[positions], self.log_rest[positions])

    def __len__(self) -> int:
        """Return n."""
        return len(self.token_ids)


def divergence(logits: torch.Tensor, teacher: TopLogits, weights: torch.Tensor) -> torch.Tensor:
    """Return each row's divergence in nats, shape (n,), and replace the logits by its gradient.

    Args:
        logits: Shape (n, vocabulary), float32.
        teacher: The n positions of the teacher.
        weights: Factors of the gradient, shape (n, 1).
    """
    top = logits.gather(1, teacher.token_ids)
    logits.scatter_(1, teacher.token_ids, -torch.inf)
    largest = torch.maximum(top.amax(dim=1, keepdim=True), logits.amax(dim=1, keepdim=True))
    others = logits.sub_(largest).exp_()
    smallest = torch.finfo(logits.dtype).tiny
    rest = others.sum(dim=1, keepdim=True).clamp(min=smallest)
    top = top - largest
    total = rest + top.exp().sum(dim=1, keepdim=True)
    log_p, log_rest = _finite(top - total.log()), rest.log() - total.log()
    p, p_rest = teacher.log_p.exp(), teacher.log_rest.exp()
    nats = (p * (teacher.log_p - log_p)).sum(dim=1)
    nats += (p_rest * (teacher.log_rest - log_rest))[:, 0]
    # d nats / d logits = softmax - target; the target of the others has their own proportions.
    others.mul_(weights * (1 / total - p_rest / rest))
    others.scatter_(1, teacher.token_ids, weights * (log_p.exp() - p))
    return nats


def _finite(logarithms: torch.Tensor) -> torch.Tensor:
    """Return logarithms of which none is minus infinity, so that 0 log 0 is 0."""
    return logarithms.clamp(min=torch.finfo(logarithms.dtype).min / 2)
