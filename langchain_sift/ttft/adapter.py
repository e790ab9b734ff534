"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) beside weights that nobody writes to.

    h = W x + (alpha / r) B A x        W frozen, A: r x in, B: out x r, B = 0 at first

`share_weights` makes a second set of modules over the same storage, so that adapters can be
put into it without the original model noticing: no hook, no flag and no module of it changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError


class LowRankLinear(nn.Module):
    """A frozen linear layer and its low-rank update."""

    def __init__(self, base: nn.Module, features: tuple[int, int], rank: int, scale: float) -> None:
        """Wrap a layer.

        Args:
            base: An `nn.Linear`, a quantized subclass of it, or GPT-2's `Conv1D`.
            features: Of its input and of its output.
            rank: r.
            scale: alpha / r.
        """
        super().__init__()
        inputs, outputs = features
        self.base = base
        self.scale = scale
        self.enabled = False
        self.down = nn.Parameter(torch.empty(0))  # A, shape (r, in)
        self.up = nn.Parameter(torch.empty(0))  # B, shape (out, r)
        self.shapes = ((rank, inputs), (outputs, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return W x, and the update's part where the adapter is enabled."""
        frozen: torch.Tensor = self.base(inputs)
        if not self.enabled:
            return frozen
        # The adapter's weights are float32 whatever the base is; only its product is rounded.
        low = F.linear(inputs, self.down.to(inputs.dtype)) * self.scale
        return frozen + F.linear(low, self.up.to(inputs.dtype))


class Adapter:
    """All low-rank weights of one model, in one flat float32 buffer.

    One buffer makes the reset a copy, the optimizer's step one kernel, and the proof that
    nothing is left of the last request a comparison.
    """

    def __init__(self, layers: list[LowRankLinear], device: torch.device, seed: int) -> None:
        """Allocate the weights of the layers and set them to their initial values."""
        self._layers = layers
        shapes = [shape for layer in layers for shape in layer.shapes]
        count = sum(math.prod(shape) for shape in shapes)
        self.weights = nn.Parameter(torch.zeros(count, device=device))
        self.weights.grad = torch.zeros_like(self.weights)
        generator = torch.Generator().manual_seed(seed)
        views = self._views(self.weights.data, shapes)
        gradients = self._views(self.weights.grad, shapes)
        for layer in layers:
            layer.down = _parameter(next(views), next(gradients))
            layer.up = _parameter(next(views), next(gradients))
            # Kaiming's uniform initialisation, as in the reference code of LoRA and in PEFT.
            bound = 1.0 / math.sqrt(layer.down.shape[1])
            initial = torch.empty(layer.down.shape).uniform_(-bound, bound, generator=generator)
            layer.down.data.copy_(initial)
        self._initial = self.weights.detach().clone()

    @staticmethod
    def _views(flat: torch.Tensor, shapes: list[tuple[int, int]]) -> Iterator[torch.Tensor]:
        sizes = [math.prod(shape) for shape in shapes]
        for part, shape in zip(torch.split(flat, sizes), shapes, strict=True):
            yield part.view(shape)

    def reset(self) -> None:
        """Forget everything: initial weights, no gradient, switched off."""
        self.weights.data.copy_(self._initial)
        self.clear_gradient()
        self.enable(enabled=False)

    def is_pristine(self) -> bool:
        """Return whether the weights are bit for bit the initial ones."""
        return torch.equal(self.weights.data, self._initial)

    def clear_gradient(self) -> None:
        """Set the gradient to zero, in place: the layers' gradients are views of it."""
        if self.weights.grad is not None:
            self.weights.grad.zero_()

    def enable(self, *, enabled: bool) -> None:
        """Switch the update on or off; off, the model is the base model exactly."""
        for layer in self._layers:
            layer.enabled = enabled


def _parameter(weights: torch.Tensor, gradient: torch.Tensor) -> nn.Parameter:
    parameter = nn.Parameter(weights)
    parameter.grad = gradient
    return parameter


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the modules over the same weights, frozen and in evaluation mode."""
    shared: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) if p.requires_grad else p
        for p in model.parameters()
    }
    clone = copy.deepcopy(model, memo=shared)
    clone.eval()  # type: ignore[no-untyped-call]
    return clone


def add_adapter(model: PreTrainedModel, config: FineTuneConfig) -> Adapter:
    """Wrap the linear layers of `model`, in place, and return their adapter.

    Raises:
        ArgumentError: If `config.target_modules` names no linear layer of the model.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    scale = config.lora_alpha / config.lora_rank
    layers = []
    for name, module in list(model.named_modules()):
        features = _features(module)
        if features is None or module is output or not _is_target(name, config.target_modules):
            continue
        layer = LowRankLinear(module, features, config.lora_rank, scale)
        model.set_submodule(name, layer)
        layers.append(layer)
    if not layers:
        msg = (
            f"target_modules {config.target_modules!r} names no linear layer of "
            f'{type(model).__name__}: use "all-linear" or the last parts of its layers\' names'
        )
        raise ArgumentError(msg)
    return Adapter(layers, model.device, config.seed)


def _features(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def _is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    return targets == "all-linear" or name.rpartition(".")[2] in targets
