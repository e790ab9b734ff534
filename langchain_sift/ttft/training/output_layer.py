"""Describe the output layer of a model: a linear layer, and what becomes of its outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

# Maximum size of the logits of one block in bytes, and maximum number of its rows in bfloat16.
# float32, whose products are slower, has twice as many rows. Each block reads all weights twice;
# with this many rows, that takes little time compared with the products, at any width.
_BLOCK_BYTES = 5 << 26
_MOST_ROWS = 256
# Maximum number of logits of a block on an accelerator, where they exist in float32, too.
_BLOCK_ON_ACCELERATOR = 1 << 26
_ROWS = 16  # a block's number of rows is a multiple of this

_LARGEST = 100.0  # of the logits of the probe, far above any cap that text can reach


@dataclass(frozen=True, slots=True, eq=False)
class OutputLayer:
    """A linear layer whose outputs are scaled, and then capped, to be the logits."""

    linear: nn.Linear

    scale: float = 1.0
    """Factor of all logits, as in Granite and Cohere."""

    cap: float | None = None
    """Bound of the logits: c tanh(logits / c), as in Gemma 2. None means no bound."""

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of the last hidden states."""
        return self.logits(self.linear(states))

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits that outputs of the linear layer become."""
        logits = outputs if self.scale == 1.0 else outputs * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def block_rows(self, rows: int) -> int:
        """Return the number of rows whose logits are computed at once, of this many.

        It follows from the sizes alone: losses are the same, bit for bit, in each run.
        """
        weight = self.linear.weight
        per_row = weight.dtype.itemsize * self.linear.out_features
        if weight.device.type == "cpu":
            most = min(_MOST_ROWS * weight.dtype.itemsize // 2, _BLOCK_BYTES // per_row)
        else:
            most = _BLOCK_ON_ACCELERATOR // self.linear.out_features
        blocks = max(1, -(-rows // max(_ROWS, most)))
        return _ROWS * -(-rows // (blocks * _ROWS))


def linear_head(model: PreTrainedModel) -> OutputLayer | None:
    """Return the output layer if the logits are its outputs on the last hidden states.

    A forward pass in which its outputs are large shows how the architecture scales and caps them.
    None means that it does something else with them, or that the layer is quantized.
    """
    linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
        return None
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def enlarge(_: nn.Module, args: Any, outputs: torch.Tensor) -> torch.Tensor:
        smallest = torch.finfo(outputs.dtype).tiny
        large = outputs * (_LARGEST / outputs.abs().amax().clamp(min=smallest))
        calls.append((args[0], large))
        return large

    probe = torch.arange(4, device=model.device)[None]
    with torch.inference_mode():
        states = model.base_model(input_ids=probe, use_cache=False)[0]
        handle = linear.register_forward_hook(enlarge)
        try:
            logits = model(input_ids=probe, use_cache=False).logits.float()
        finally:
            handle.remove()
    if len(calls) != 1 or not torch.equal(calls[0][0], states):
        return None
    tolerance = 8 * torch.finfo(states.dtype).eps
    for scale, cap in _candidates(model):
        layer = OutputLayer(linear, scale, cap)
        found = layer.logits(calls[0][1]).float()
        error = (found - logits).abs().amax() if found.shape == logits.shape else torch.inf
        if error <= tolerance * found.abs().amax():
            return layer
    return None


def _candidates(model: PreTrainedModel) -> Iterator[tuple[float, float | None]]:
    """Yield the scales and caps that the settings of a model may mean, the usual first."""
    settings: dict[str, object] = model.config.get_text_config().to_dict()
    numbers = [
        float(value)
        for name, value in settings.items()
        if ("logit" in name or "lm_head" in name)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value > 0
    ]
    scales = [1.0, *numbers, *(1.0 / number for number in numbers)]
    return itertools.product(scales, [None, *numbers])
