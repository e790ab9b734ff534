"""Find the layers that read the same inputs: their low-rank products with them are then one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from langchain_sift.ttft.training.lora import is_plain

Places = Sequence[str]
"""The names of one layer: one, unless it is in several places of the model."""


def group_by_inputs(model: PreTrainedModel, layers: Sequence[Places]) -> list[list[Places]]:
    """Group neighbours among the layers that are called with the same tensor.

    The projections of queries, keys and values are such layers, and the two that enter a gated MLP.
    A forward pass of a few tokens shows them, whatever the architecture.

    Args:
        model: Any causal language model.
        layers: The layers that get adapters.

    Returns:
        The layers in their order, those of a group together. A layer that is called more than once,
        or not at all, or computes more than a product, is alone.
    """
    read = _inputs(model, [places[0] for places in layers])
    groups: list[list[Places]] = []
    for places in layers:
        last = read.get(groups[-1][-1][0]) if groups else None
        own = read.get(places[0])
        if last is not None and own is not None and last[0] is own[0] and last[1].equal(own[1]):
            groups[-1].append(places)
        else:
            groups.append([places])
    return groups


def _inputs(
    model: PreTrainedModel, names: Sequence[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the tensor that each plain layer is called with, once, and its values then."""
    calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def note(name: str, args: tuple[torch.Tensor, ...]) -> None:
        # The tensor may change before another layer reads it.
        calls.setdefault(name, []).extend((inputs, inputs.clone()) for inputs in args)

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(lambda _, args, name=name: note(name, args))
        for name in names
        if name in modules and is_plain(modules[name])
    ]
    try:
        with torch.inference_mode():
            model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: inputs[0] for name, inputs in calls.items() if len(inputs) == 1}
