"""Copy a model over the same weights, and put LoRA layers with slots into the copy."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.quantization import quantized_copies
from langchain_sift.ttft.training.experts import LowRankExperts
from langchain_sift.ttft.training.lora import LowRankLinear, LowRankUpdate
from langchain_sift.ttft.training.shared_inputs import Places, group_by_inputs, watch
from langchain_sift.ttft.training.slots import Slots
from langchain_sift.ttft.training.target_layers import (
    TargetLayers,
    find_target_layers,
    linear_shape,
    patterns,
)

_RANK_FOR_ANY = 64
"""A rank that any model may have: in small ones, with smaller matrices, it costs little."""


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the modules over the same weights, frozen and in evaluation mode.

    The copy can get adapters without any change of the original: of its hooks, flags or modules.

    Raises:
        ArgumentError: If the layers are on several devices, or 4-bit weights are packed into a
            form without gradient.
    """
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise ArgumentError(
            f"the model's weights are on {sorted(devices)}, and adapters need all of them on one "
            "device: load the model onto one device, quantized if it is too large"
        )
    shared: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False)
        for p in model.parameters()
        if p.is_floating_point()
    }
    for module in model.modules():
        shared.update(quantized_copies(module))
    clone = copy.deepcopy(model, memo=shared)
    for module in clone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Otherwise its first use repacks the weights that it shares.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - unknown to PyTorch
    head = clone.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, nn.Module):
        head.register_forward_pre_hook(_contiguous)
    clone.eval()  # type: ignore[no-untyped-call]
    return clone


def _contiguous(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Copy inputs that are a slice of all positions.

    Otherwise PyTorch copies the weights in place of the inputs, once for each row of the batch.
    """
    return tuple(part.contiguous() for part in inputs)


def add_slots(model: PreTrainedModel, config: FineTuneConfig) -> tuple[Slots, TargetLayers]:
    """Wrap the target layers of `model` in place; return their slots and names.

    Warns of weights that should get an adapter and cannot.

    Raises:
        ArgumentError: As `layers_to_adapt`, or if the rank is larger than any layer has a use for.
    """
    targets, groups = layers_to_adapt(model, config.target_modules)
    if targets.left_out:
        warnings.warn(
            f"weights of {type(model).__name__} that cannot get an adapter stay as they are in "
            f"fine-tuning: {', '.join(patterns(targets.left_out))}",
            stacklevel=2,
        )
    linear = {name for name, _ in model.named_modules()}
    updates = [
        _adapt_linear(model, group, config)
        if group[0][0] in linear
        else _adapt_experts(model, group[0][0], config)
        for group in groups
    ]
    _check_rank(config.lora_rank, updates)
    return Slots(updates, model), targets


def _check_rank(rank: int, updates: Sequence[LowRankUpdate]) -> None:
    """Reject a rank with which all updates have more weights than the matrices they are added to.

    A rank as large as the smaller side of a matrix expresses any update.
    """
    pairs = [pair for update in updates for pair in update.layers]
    full = max(min(a[-1], b[-1]) * (rank // a[-2]) for a, b in pairs)
    if rank > max(full, _RANK_FOR_ANY):
        raise ArgumentError(
            f"lora_rank is {rank}, but updates of rank {full} already express all that the layers "
            f"of this model can learn: lower it to at most {full}; 16 is the default"
        )


def layers_to_adapt(
    model: PreTrainedModel, target_modules: str | tuple[str, ...]
) -> tuple[TargetLayers, list[list[Places]]]:
    """Return the layers that get adapters, and the same in groups that read the same inputs.

    Layers whose weights the model reads without calling them are left out.

    Args:
        model: Modules that nothing else uses meanwhile.
        target_modules: As `FineTuneConfig.target_modules`.

    Raises:
        ArgumentError: If `target_modules` names no layer of the model, or by name a layer that
            cannot get an adapter.
    """
    targets = find_target_layers(model, target_modules)
    watched = watch(model, targets.places)
    read = [name for name, layer in watched.items() if layer.is_read]
    left = targets.without(read)
    if read and (isinstance(target_modules, tuple) or not left.places):
        raise ArgumentError(
            f"target_modules is {target_modules!r}, but {type(model).__name__} reads the weights "
            f"of {', '.join(patterns(read))} without calling these layers, so that they cannot get "
            "an adapter: name other layers"
        )
    return left, group_by_inputs(left.places, watched)


def _adapt_linear(
    model: PreTrainedModel, group: Sequence[Sequence[str]], config: FineTuneConfig
) -> LowRankUpdate:
    """Wrap linear layers that read the same inputs; each may have several places in the model."""
    bases = [model.get_submodule(places[0]) for places in group]
    shapes = [shape for shape in map(linear_shape, bases) if shape is not None]
    rank = config.lora_rank
    outputs = [outputs for _, outputs in shapes]
    update = LowRankUpdate(shapes[0][0], outputs, rank, config.lora_alpha / rank)
    for number, places in enumerate(group):
        wrapped = LowRankLinear(bases, number, update)
        for place in places:
            model.set_submodule(place, wrapped)
    return update


def _adapt_experts(model: PreTrainedModel, name: str, config: FineTuneConfig) -> LowRankUpdate:
    place, _, projection = name.rpartition(".")
    module = model.get_submodule(place)
    if not isinstance(module, LowRankExperts):
        module = LowRankExperts(module)
        model.set_submodule(place, module)
    rank = expert_rank(model, config.lora_rank)
    return module.adapt(projection, rank, config.lora_alpha / rank)


def expert_rank(model: PreTrainedModel, rank: int) -> int:
    """Return the rank of each expert's update: the rank divided by the number of a token's experts.

    As many weights of adapters then act on a token as if all its experts were one layer, as in
    "LoRA Without Regret" (Schulman et al., 2025).
    """
    config = model.config.get_text_config()
    active = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_topk", None)
    return max(1, rank // active) if isinstance(active, int) else rank


def adapter_shape(config: FineTuneConfig) -> tuple[object, ...]:
    """Return the settings that determine the slots. Each request has its own other settings."""
    return (
        config.lora_rank,
        config.lora_alpha,
        config.target_modules,
        config.gradient_checkpointing,
    )


def check_shape(config: FineTuneConfig, own: FineTuneConfig) -> None:
    """Reject settings that need other slots than an engine has, whose settings are `own`.

    Raises:
        ArgumentError: If they do.
    """
    if adapter_shape(config) != adapter_shape(own):
        raise ArgumentError(
            "an engine trains adapters of one shape: lora_rank, lora_alpha, target_modules and "
            f"gradient_checkpointing must be {adapter_shape(own)}, got {adapter_shape(config)}"
        )


def base_norm(model: PreTrainedModel) -> float:
    """Return the Frobenius norm of all the weights that the updates are added to."""
    total = 0.0
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            total += _squared_norm(_weight_of(module, model.dtype))
        elif isinstance(module, LowRankExperts):
            total += sum(_squared_norm(weight) for weight in module.adapted_weights())
    return math.sqrt(total)


def _squared_norm(weight: torch.Tensor) -> float:
    # A float64 weight can be summed in no smaller type.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return float(torch.linalg.vector_norm(weight.detach(), dtype=dtype)) ** 2


def _weight_of(layer: LowRankLinear, dtype: torch.dtype) -> torch.Tensor:
    weight: torch.Tensor = layer.base.weight  # type: ignore[assignment]
    if not weight.is_floating_point():
        # A quantized layer: its outputs on the unit vectors are its weights.
        units = torch.eye(layer.update.layers[0][0][-1], dtype=dtype, device=weight.device)
        with torch.inference_mode():
            weight = layer.base(units) - layer.base(torch.zeros_like(units[:1]))
    return weight
