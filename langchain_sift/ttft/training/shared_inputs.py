"""Watch how a model uses the layers that get adapters, in a forward pass of a few tokens.

The low-rank products of layers that read the same inputs are one. A layer whose weights are read
cannot get an adapter: its update is added when the layer is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from langchain_sift.ttft.training.lora import is_plain

Places = Sequence[str]
"""The names of one layer: one, unless it is in several places of the model."""


class Watched(nn.Module):
    """Calls a layer, and notes how the model uses it."""

    def __init__(self, layer: nn.Module) -> None:
        """Wrap a layer."""
        super().__init__()
        self.layer = layer
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        """The inputs of each call, and their values then: they may change afterwards."""
        self.is_read = False
        """True if the model has read a weight of the layer without calling it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Call the layer."""
        self.calls.append((inputs, inputs.clone()))
        outputs: torch.Tensor = self.layer(inputs)
        return outputs

    def __getattr__(self, name: str) -> Any:
        """Return what the model asks of the layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            self.is_read |= name in self.layer._parameters
            return getattr(self.layer, name)


def watch(model: PreTrainedModel, layers: Sequence[Places]) -> dict[str, Watched]:
    """Return how the model has used each linear layer in a pass, by its first name.

    Args:
        model: Any causal language model. Nothing else may use its modules meanwhile.
        layers: The layers that get adapters. Experts among them are not watched.
    """
    modules = dict(model.named_modules())
    linear = [places for places in layers if places[0] in modules]
    watched = {places[0]: Watched(modules[places[0]]) for places in linear}
    try:
        for places in linear:
            _put(model, places, watched[places[0]])
        with torch.inference_mode():
            model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
    finally:
        for places in linear:
            _put(model, places, modules[places[0]])
    return watched


def group_by_inputs(layers: Sequence[Places], watched: Mapping[str, Watched]) -> list[list[Places]]:
    """Group neighbours among the layers that are called with the same tensor.

    The projections of queries, keys and values are such layers, and the two that enter a gated MLP.

    Args:
        layers: The layers that get adapters.
        watched: The result of `watch`.

    Returns:
        The layers in their order, those of a group together. A layer that is called more than once,
        or not at all, or computes more than a product, is alone.
    """
    read = {
        name: one.calls[0]
        for name, one in watched.items()
        if len(one.calls) == 1 and is_plain(one.layer)
    }
    groups: list[list[Places]] = []
    for places in layers:
        last = read.get(groups[-1][-1][0]) if groups else None
        own = read.get(places[0])
        if last is not None and own is not None and last[0] is own[0] and last[1].equal(own[1]):
            groups[-1].append(places)
        else:
            groups.append([places])
    return groups


def _put(model: nn.Module, places: Places, layer: nn.Module) -> None:
    for place in places:
        model.set_submodule(place, layer)
