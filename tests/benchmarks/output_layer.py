"""Time the loss of 512 tokens and its gradient beside plain cross-entropy, at real vocabularies.

    python tests/benchmarks/output_layer.py --out tests/benchmarks/results/output_layer.json

The default blocks, blocks of fixed sizes, and `cross_entropy(linear(h, W).float(), y)` run in turn,
several times; the fastest counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from record import fastest, write
from torch import nn

from langchain_sift.ttft.training.loss import Targets, _RowLosses
from langchain_sift.ttft.training.output_layer import OutputLayer

SIZES = {
    "SmolLM2-135M": (49_152, 576),
    "Qwen2.5-0.5B": (151_936, 896),
    "Gemma 3 270M": (262_144, 640),
}
TOKENS = 512
BLOCKS = (16, 64, 128, 256, 512)


class FixedBlocks(OutputLayer):
    """The output layer with blocks of one size."""

    size = 0

    def block_rows(self, rows: int) -> int:
        return min(rows, self.size)


def plain(linear: nn.Linear, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    own = states.detach().requires_grad_()
    F.cross_entropy(F.linear(own, linear.weight).float(), tokens).backward()
    assert own.grad is not None
    return own.grad


def ours(layer: OutputLayer, states: torch.Tensor, targets: Targets) -> torch.Tensor:
    own = states.detach().requires_grad_()
    _RowLosses.apply(own[None], layer, targets).sum().backward()
    assert own.grad is not None
    return own.grad


def fixed(linear: nn.Linear, size: int) -> OutputLayer:
    layer = FixedBlocks(linear)
    object.__setattr__(layer, "size", size)
    return layer


def measure(vocabulary: int, width: int, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(width, vocabulary, bias=False, dtype=dtype, device="meta")
    weight = torch.empty(vocabulary, width, dtype=dtype).normal_(0.0, 0.02, generator=generator)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    states = torch.randn(TOKENS, width, generator=generator).to(dtype)
    token_ids = torch.randint(vocabulary, (1, TOKENS + 1), generator=generator)
    targets = Targets(token_ids, torch.full((1, TOKENS), 1.0 / TOKENS), None)
    layer = OutputLayer(linear)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain cross-entropy": functools.partial(plain, linear, states, token_ids[0, 1:]),
    }
    for size in BLOCKS:
        ways[f"{size} rows"] = functools.partial(ours, fixed(linear, size), states, targets)
    # Last: plain cross-entropy leaves the caches and the allocator in another state.
    ways["default"] = functools.partial(ours, layer, states, targets)
    expected, found = ways["plain cross-entropy"](), ways["default"]()
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    seconds = fastest(ways, rounds)
    best = min(value for name, value in seconds.items() if name.endswith("rows"))
    return {
        "default_rows": layer.block_rows(TOKENS),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "default against the best fixed size": round(seconds["default"] / best, 3),
        "default against plain cross-entropy": round(
            seconds["default"] / seconds["plain cross-entropy"], 3
        ),
        "relative difference of the gradients": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results: dict[str, Any] = {"tokens": TOKENS, "threads": torch.get_num_threads()}
    for name in asked.models:
        vocabulary, width = SIZES[name]
        for dtype in ("float32", "bfloat16"):
            found = measure(vocabulary, width, getattr(torch, dtype), asked.rounds)
            results[f"{name}: {vocabulary} x {width}, {dtype}"] = found
            sys.stdout.write(f"{name} {dtype} {json.dumps(found)}\n")
            sys.stdout.flush()
    if asked.out is not None:
        write(asked.out, results)


if __name__ == "__main__":
    main()
