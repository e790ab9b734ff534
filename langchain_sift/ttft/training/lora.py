"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) for several prompts over one model.

    h_i = W x_i + (alpha / r) B_i A_i x_i     W frozen and shared, A_i: r x in, B_i: out x r

Row i of a batch goes through the adapter of slot i: one product with W for the whole batch, and
one batched product with all A_i and all B_i. No row can reach another's adapter, for there is
no module whose state says which adapter is meant.

`share_weights` makes a second set of modules over the same storage, so that adapters can be
put into it without the original model noticing: no hook, no flag and no module of it changes.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError


class LowRankLinear(nn.Module):
    """A frozen linear layer and the low-rank updates of the slots in use."""

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
        # B lies transposed: its gradient is then a product of rows, which is several times as fast.
        self.shapes = ((rank, inputs), (rank, outputs))
        self.slots: tuple[torch.Tensor, ...] | None = None
        """A, B transposed and the places of their gradients, of the slots in use; or none."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return W x, and the updates' part where slots are in use."""
        frozen: torch.Tensor = self.base(inputs)
        if self.slots is None:
            return frozen
        # With one slot, any shape is one row: a batch of texts through one adapter.
        rows = len(self.slots[0])
        if rows > 1 and len(inputs) != rows:
            raise RuntimeError(
                "this architecture mixes the rows of a batch: its prompts go one by one"
            )
        updated: torch.Tensor = _LowRankUpdate.apply(  # type: ignore[no-untyped-call]
            inputs.reshape(rows, -1, inputs.shape[-1]),
            frozen.reshape(rows, -1, frozen.shape[-1]),
            *self.slots,
            self.scale,
        )
        return updated.view(frozen.shape)

    @property
    def weight(self) -> torch.Tensor:
        """Refuse to be used by weight alone, past the adapter, as some architectures use layers.

        Raises:
            ArgumentError: Always.
        """
        raise ArgumentError(
            "this architecture uses the weights of an adapted layer without the layer: name in "
            "target_modules those layers that it calls, such as its attention's"
        )


class _LowRankUpdate(torch.autograd.Function):
    """`frozen + scale B A x` for each row; gradients of A and B are added to their places.

    Those are where the optimizer reads them, in float32. A row's gradient depends on this row
    alone.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        inputs: torch.Tensor,
        frozen: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        down_gradient: torch.Tensor,
        up_gradient: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        low = torch.bmm(inputs, down.mT).mul_(scale)
        ctx.save_for_backward(inputs, low)
        ctx.layer = (down, up, down_gradient, up_gradient, scale)
        return torch.baddbmm(frozen, low, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, low = ctx.saved_tensors
        down, up, down_gradient, up_gradient, scale = ctx.layer
        low_gradient = torch.bmm(gradient, up.mT).mul_(scale)
        _add_product(up_gradient, low.mT, gradient)
        _add_product(down_gradient, low_gradient.mT, inputs)
        of_inputs = torch.bmm(low_gradient, down) if ctx.needs_input_grad[0] else None
        return of_inputs, gradient, None, None, None, None, None


def _add_product(place: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if place.dtype == left.dtype:
        torch.baddbmm(place, left, right, out=place)
    else:
        place.add_(torch.bmm(left, right))


class Slots:
    """The adapters of several prompts, their gradients and optimizer states: one row a slot.

    A slot at rest is all zeros, and a model with such slots is the base model exactly. Flat
    rows make reset and verification one operation each, and the optimizer's step one kernel.
    """

    def __init__(self, layers: list[LowRankLinear], model: PreTrainedModel) -> None:
        """Allocate one slot for the layers of a model; `reserve` makes it more."""
        self._layers = layers
        self.shapes = tuple(shape for layer in layers for shape in layer.shapes)
        """Of A and of B transposed, of each layer."""
        self._dtype = model.dtype
        self._device = model.device
        self.size = sum(math.prod(shape) for shape in self.shapes)
        """Weights of one slot."""
        self.count = 0
        self.reserve(1)

    def reserve(self, count: int) -> None:
        """Have at least this many slots; those in use must be reset before."""
        if count <= self.count:
            return
        self.count = 0  # should memory not suffice, there is nothing half-made
        shape = (count, self.size)
        with torch.inference_mode(mode=False):  # else the adapters could never be trained
            self.weights = torch.zeros(shape, dtype=torch.float32, device=self._device)
            self.gradients = torch.zeros_like(self.weights)
            # What the model computes with; the weights themselves are float32 whatever it is.
            self._rounded = self.weights.to(self._dtype)
            self._moments = torch.stack([self.gradients, self.gradients])
            self._optimizer = self._make_optimizer()
        self._in_use: dict[tuple[int, int], list[tuple[torch.Tensor, ...]]] = {}
        self.count = count

    def _matrices(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes]
        for part, shape in zip(torch.split(flat, sizes, dim=1), self.shapes, strict=True):
            yield part.unflatten(1, shape)  # type: ignore[no-untyped-call]

    def _make_optimizer(self) -> torch.optim.AdamW:
        on_cpu = self._device.type == "cpu"
        rows = [nn.Parameter(row) for row in self.weights]
        # The learning rate is the request's; a tensor where a recorded step must read it.
        rates: list[Any] = [0.0 if on_cpu else self.weights.new_zeros(()) for _ in rows]
        optimizer = torch.optim.AdamW(
            [{"params": [row], "lr": rate} for row, rate in zip(rows, rates, strict=True)],
            eps=1e-8,
            weight_decay=0.0,
            fused=True,
            capturable=not on_cpu,
        )
        for slot, row in enumerate(rows):
            optimizer.state[row] = {
                "step": self.weights.new_zeros(()),
                "exp_avg": self._moments[0, slot],
                "exp_avg_sq": self._moments[1, slot],
            }
        return optimizer

    def begin(self, slot: int, *, seed: int, learning_rate: float) -> None:
        """Give a slot at rest its initial weights (Kaiming's uniform A, as in PEFT; B = 0)."""
        self.load(slot, self._initial(seed))
        group = self._optimizer.param_groups[slot]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate

    # A private generator: torch's global one is shared by all threads of a process.
    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives and dies with the engine's one adapter
    def _initial(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for layer in self._layers:
            (rank, inputs), (_, outputs) = layer.shapes
            bound = 1.0 / math.sqrt(inputs)
            # The process's default dtype may be another while some thread loads a model.
            down = torch.empty(rank * inputs, dtype=torch.float32)
            parts.append(down.uniform_(-bound, bound, generator=generator))
            parts.append(torch.zeros(outputs * rank, dtype=torch.float32))
        return torch.cat(parts).to(self._device)

    def load(self, slot: int, weights: torch.Tensor) -> None:
        """Give a slot the weights, shape (size,)."""
        self.weights[slot].copy_(weights)
        self._round(slot)

    def _round(self, slot: int) -> None:
        if self._rounded is not self.weights:
            self._rounded[slot].copy_(self.weights[slot])

    def use(self, first: int, last: int) -> None:
        """Send the rows of a batch through the slots `first`, ..., `last - 1`, in this order."""
        if (first, last) not in self._in_use:
            self._in_use[first, last] = self._layers_views(first, last)
        for layer, views in zip(self._layers, self._in_use[first, last], strict=True):
            layer.slots = views

    def _layers_views(self, first: int, last: int) -> list[tuple[torch.Tensor, ...]]:
        with torch.inference_mode(mode=False), torch.no_grad():
            weights = self._matrices(self._rounded[first:last])
            gradients = self._matrices(self.gradients[first:last])
            # Autograd records what requires a gradient; these get theirs written by hand.
            pairs = zip(weights, weights, gradients, gradients, strict=True)
            return [
                (down.detach().requires_grad_(), up.detach().requires_grad_(), *places)
                for down, up, *places in pairs
            ]

    @property
    def in_use(self) -> bool:
        """Whether batches go through slots, or the model is the base model."""
        return self._layers[0].slots is not None

    def clear_gradients(self, first: int, last: int) -> None:
        """Set the gradients of the slots `first`, ..., `last - 1` to zero, for a pass to add to."""
        self.gradients[first:last].zero_()

    def rest(self) -> None:
        """Use no slot: the model is the base model."""
        for layer in self._layers:
            layer.slots = None

    def step(self, limits: Mapping[int, float | None]) -> None:
        """Take one AdamW step in each of these slots, with the gradients that lie there.

        Args:
            limits: For each slot the length that its gradient is scaled down to; None: never.
        """
        for slot, longest in limits.items():
            if longest is not None:
                gradient = self.gradients[slot]
                # Unlike clip_grad_norm_: a gradient within the limit stays as it is.
                scale = (longest / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
                gradient.mul_(scale)
        for slot, group in enumerate(self._optimizer.param_groups):
            group["params"][0].grad = self.gradients[slot] if slot in limits else None
        self._optimizer.step()
        for slot in limits:
            self._round(slot)

    def reset(self, slot: int) -> None:
        """Bring a slot to rest: zeros, and nothing of the optimizer's state."""
        self.weights[slot].zero_()
        self.gradients[slot].zero_()
        self._moments[:, slot].zero_()
        self._round(slot)
        (row,) = self._optimizer.param_groups[slot]["params"]
        self._optimizer.state[row]["step"].zero_()

    def is_at_rest(self, slot: int) -> bool:
        """Return whether nothing is left of the slot's last request, bit for bit."""
        (row,) = self._optimizer.param_groups[slot]["params"]
        left = (
            self.weights[slot],
            self._rounded[slot],
            self.gradients[slot],
            *self._moments[:, slot],
        )
        return not any(bool(part.any()) for part in left) and not self._optimizer.state[row]["step"]

    def update_norm(self, slot: int) -> float:
        """Return the Frobenius norm of all the slot's updates (alpha / r) B A together.

        From |B A|^2 = <B^T B, A A^T>: products of r x r, never of out x in.
        """
        total = self.weights.new_zeros(())
        pairs = self._matrices(self.weights)
        for layer, down, up in zip(self._layers, pairs, pairs, strict=True):
            gram = torch.sum((up[slot] @ up[slot].mT) * (down[slot] @ down[slot].mT))
            total += layer.scale**2 * gram
        return math.sqrt(max(0.0, float(total))) if math.isfinite(float(total)) else math.inf

    def base_norm(self) -> float:
        """Return the Frobenius norm of all the weights that the updates are added to."""
        return math.sqrt(sum(self._squared_norm(layer) for layer in self._layers))

    def _squared_norm(self, layer: LowRankLinear) -> float:
        weight: torch.Tensor = layer.base.weight  # type: ignore[assignment]
        if not weight.is_floating_point():
            # A quantized layer: what it makes of the unit vectors is its weights.
            units = torch.eye(layer.shapes[0][1], dtype=self._dtype, device=weight.device)
            with torch.inference_mode():
                weight = layer.base(units) - layer.base(torch.zeros_like(units[:1]))
        return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)) ** 2

    def is_finite(self, slot: int) -> bool:
        """Return whether all weights of a slot are numbers."""
        return bool(torch.isfinite(self.weights[slot]).all())

    def scale_update(self, slot: int, factor: float) -> None:
        """Multiply the slot's updates by a factor."""
        for up in list(self._matrices(self.weights))[1::2]:
            up[slot].mul_(factor)
        self._round(slot)


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the modules over the same weights, frozen and in evaluation mode.

    Raises:
        ArgumentError: If the layers are spread over several devices, or 4-bit weights are packed
            in a form that has no gradient.
    """
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise ArgumentError(
            f"the model's weights are spread over {sorted(devices)}: the adapters need all of "
            "them on one device, so load the model onto one, quantized if it must be smaller"
        )
    shared: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False)
        for p in model.parameters()
        if p.is_floating_point()
    }
    for module in model.modules():
        shared.update(_shared_quantized(module))
    clone = copy.deepcopy(model, memo=shared)
    for module in clone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Else its first use packs the weights that it shares.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - unknown to PyTorch
    clone.eval()  # type: ignore[no-untyped-call]
    return clone


def _shared_quantized(module: Any) -> dict[int, object]:
    """Return, by what it stands for, a layer's own view of the same quantized weights.

    Layers of bitsandbytes write to their parameter and its state when they are used: each must
    have its own of both, over storage that is the same.
    """
    weight: Any = getattr(module, "weight", None)
    if getattr(weight, "quant_state", None) is not None:  # 4-bit
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            raise ArgumentError(
                "the model's 4-bit weights are packed for inference on this CPU, since it was "
                "used: pass its name, or the model before its first use"
            )
        own, state = copy.copy(weight), copy.copy(weight.quant_state)
        own.quant_state, own.module = state, None
        return {id(weight): own, id(weight.quant_state): state}
    if hasattr(module, "init_8bit_state") and weight.dtype == torch.int8:
        scales = module.state.SCB if weight.SCB is None else weight.SCB
        own = type(weight)(weight.data, requires_grad=False, CB=weight.data, SCB=scales)
        state = copy.copy(module.state)
        state.CB = state.SCB = None  # taken from the parameter at the first use
        return {id(weight): own, id(module.state): state}
    return {}


def add_slots(model: PreTrainedModel, config: FineTuneConfig) -> tuple[Slots, tuple[str, ...]]:
    """Wrap the linear layers of `model`, in place; return their slots, and their names.

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
