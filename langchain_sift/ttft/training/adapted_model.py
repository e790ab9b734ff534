"""Copy a model over the same weights, and put LoRA layers with slots into the copy."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.quantization import quantized_copies
from langchain_sift.ttft.training.lora import LowRankLinear, Slots


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
    clone.eval()  # type: ignore[no-untyped-call]
    return clone


def add_slots(model: PreTrainedModel, config: FineTuneConfig) -> tuple[Slots, tuple[str, ...]]:
    """Wrap the target layers of `model` in place; return their slots and names.

    Raises:
        ArgumentError: If `config.target_modules` names no linear layer of the model.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    scale = config.lora_alpha / config.lora_rank
    layers = {}
    for name, module in list(model.named_modules()):
        features = _features(module)
        if features is None or module is output or not _is_target(name, config.target_modules):
            continue
        layers[name] = LowRankLinear(module, features, config.lora_rank, scale)
        model.set_submodule(name, layers[name])
    if not layers:
        raise ArgumentError(
            f"target_modules {config.target_modules!r} names no linear layer of "
            f'{type(model).__name__}: use "all-linear" or the last parts of its layers\' names'
        )
    return Slots(list(layers.values()), model), tuple(layers)


def _features(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def _is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    return targets == "all-linear" or name.rpartition(".")[2] in targets


def base_norm(model: PreTrainedModel) -> float:
    """Return the Frobenius norm of all the weights that the updates are added to."""
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    return math.sqrt(sum(_squared_norm(layer, model.dtype) for layer in layers))


def _squared_norm(layer: LowRankLinear, dtype: torch.dtype) -> float:
    weight: torch.Tensor = layer.base.weight  # type: ignore[assignment]
    if not weight.is_floating_point():
        # A quantized layer: its outputs on the unit vectors are its weights.
        units = torch.eye(layer.shapes[0][1], dtype=dtype, device=weight.device)
        with torch.inference_mode():
            weight = layer.base(units) - layer.base(torch.zeros_like(units[:1]))
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)) ** 2
