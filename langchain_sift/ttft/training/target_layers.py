"""Choose the layers of a model that get adapters: linear layers, and the projections of experts.

Text trains the adapters, so only layers that text reaches get any: on a multimodal model those of
its language model. The output layer gets none, nor do the routers of a mixture of experts, which
choose the experts of each token.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from langchain_sift.checks import TARGET_PRESETS, last_layers
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.training.tasks import TrainingRecord

# Parts of the names of layers that mix the tokens of a text; the others treat each token alone.
_MIXERS = re.compile(r"attn|attention|mixer|mamba|ssm|conv|recurrent|temporal_block")
_ROUTERS = re.compile(r"(^|\.)router(\.|$)|expert_gate$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class TargetLayers:
    """The layers of a model that get adapters, and weights that should but cannot."""

    places: tuple[tuple[str, ...], ...]
    """The names of each layer: one, unless the layer is in several places of the model. The name
    of a projection of experts is that of its weights, "model.layers.0.mlp.experts.down_proj"."""

    left_out: tuple[str, ...]
    """Names of weights that get no adapter, because only the code of their module knows how it
    computes with them: experts and other weights of three dimensions, linear layers that are not
    PyTorch's, such as packed ones, and linear layers that the model reads without calling them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each layer."""
        return tuple(places[0] for places in self.places)

    def without(self, names: Iterable[str]) -> TargetLayers:
        """Return the layers without those of these first names, whose weights are left out."""
        dropped = set(names)
        places = tuple(places for places in self.places if places[0] not in dropped)
        read = tuple(f"{name}.weight" for name in self.names if name in dropped)
        return TargetLayers(places, self.left_out + read)

    def add_to(self, record: TrainingRecord, *, weights: int) -> TrainingRecord:
        """Return the record of a training with the layers, and the adapter's number of weights."""
        if not record.steps:
            return record
        layers, left_out = patterns(self.names), patterns(self.left_out)
        return replace(record, layers=layers, left_out=left_out, weights=weights)


def find_target_layers(model: PreTrainedModel, targets: str | tuple[str, ...]) -> TargetLayers:
    """Return the layers that `FineTuneConfig.target_modules` stands for.

    Raises:
        ArgumentError: If it names no layer of the model.
    """
    modules = dict(_text_modules(model))
    layers = _layers(modules)
    selects = _selection(modules, targets)
    chosen = tuple(names for names in layers if any(map(selects, names)))
    if not chosen:
        raise ArgumentError(_no_layer(type(model).__name__, targets, layers, modules))
    if isinstance(targets, tuple):
        _warn_of_unknown(targets, chosen)
    return TargetLayers(chosen, tuple(filter(selects, _without_adapter(modules))))


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs of a linear layer; None for another module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def expert_projections(module: Any) -> tuple[str, ...]:
    """Return the names of the weights into and out of experts, or nothing for another module.

    transformers marks the modules that hold the weights of all experts of a layer in two
    parameters of three dimensions, and compute with them in one way.
    """
    if not hasattr(module, "is_transposed") or not hasattr(module, "_apply_gate"):
        return ()
    names = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
    usable = (
        isinstance(weights, nn.Parameter) and weights.ndim == 3 and weights.is_floating_point()
        for weights in (getattr(module, name, None) for name in names)
    )
    return names if all(usable) else ()


def patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names with "*" for the number of a layer, each once."""
    return tuple(dict.fromkeys(_NUMBER.sub("*", name) for name in names))


def _text_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that text goes through, without the output layer."""
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    if not any(linear_shape(part) for part in decoder.modules() if part is not output):
        decoder = model  # what this architecture calls its decoder is another part
    root = next((name for name, module in model.named_modules() if module is decoder), "")
    others = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and "text" not in module.input_modalities
    )
    for name, module in model.named_modules(remove_duplicate=False):
        path = f"{name}."
        if module is not output and path.startswith(root) and not path.startswith(others):
            yield name, module


def _layers(modules: dict[str, nn.Module]) -> list[tuple[str, ...]]:
    """Return the names of each layer that can get an adapter."""
    names: dict[tuple[int, str], list[str]] = {}
    for name, module in modules.items():
        if linear_shape(module) is not None:
            names.setdefault((id(module), ""), []).append(name)
        for weights in expert_projections(module):
            names.setdefault((id(module), weights), []).append(f"{name}.{weights}")
    return [tuple(group) for group in names.values()]


def _without_adapter(modules: dict[str, nn.Module]) -> Iterator[str]:
    for name, module in modules.items():
        if isinstance(module, _ConvNd) or linear_shape(module) is not None:
            continue
        able = expert_projections(module)
        is_linear = hasattr(module, "in_features") and hasattr(module, "out_features")
        for weights, values in module.named_parameters(recurse=False):
            of_experts = "expert" in name and values.ndim == 2 and "bias" not in weights
            if weights not in able and (
                values.ndim > 2 or of_experts or (is_linear and values.ndim == 2)
            ):
                yield f"{name}.{weights}"


def _selection(
    modules: dict[str, nn.Module], targets: str | tuple[str, ...]
) -> Callable[[str], bool]:
    """Return the test of a layer's name that `target_modules` stands for."""
    if isinstance(targets, tuple):
        return lambda name: any(_is_called(name, target) for target in targets)
    routers = {name for name in modules if _is_router(name, modules)}
    stack, size = _layer_stack(modules)
    last = last_layers(targets)
    if last is not None and last > size:
        raise ArgumentError(f"target_modules is {targets!r}, but the model has {size} layers")

    def selects(name: str) -> bool:
        """Return True if the layer of this name gets an adapter."""
        if name in routers or targets == "all-linear":
            return name not in routers
        if not name.startswith(stack):
            return False
        number, _, rest = name.removeprefix(stack).partition(".")
        if last is not None:
            return int(number) >= size - last
        return bool(_MIXERS.search(rest)) == (targets == "attention")

    return selects


def _is_called(name: str, target: str) -> bool:
    """Return True if a target is the end of a layer's name, or of that of its experts."""
    module = name.rpartition(".")[0] if "expert" in target else ""
    return any(f".{path}".endswith(f".{target}") for path in (name, module))


def _is_router(name: str, modules: dict[str, nn.Module]) -> bool:
    """Return True for a router of experts, and for what is in it."""
    if _ROUTERS.search(name):
        return True
    parent, _, last = name.rpartition(".")
    siblings = dict(modules[parent].named_children()) if parent in modules else {}
    if last == "gate" and any("expert" in sibling for sibling in siblings):
        return True
    return bool(parent) and _is_router(parent, modules)


def _layer_stack(modules: dict[str, nn.Module]) -> tuple[str, int]:
    """Return the beginning of the names of the decoder layers, and their number.

    They are the longest list of modules that is not part of another list.
    """
    lists = {
        name: len(module)
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList) and not re.search(r"\.\d+\.", f".{name}.")
    }
    if not lists:
        return "", 0
    longest = max(lists, key=lists.__getitem__)
    return f"{longest}.", lists[longest]


def _no_layer(
    model: str,
    targets: object,
    layers: Iterable[tuple[str, ...]],
    modules: Mapping[str, nn.Module],
) -> str:
    available = sorted({name.rpartition(".")[2] for (name, *_) in layers})
    if not available:
        own = (m for m in modules.values() if next(m.parameters(recurse=False), None) is not None)
        types = sorted({type(module).__name__ for module in own})
        return (
            f"{model} has no layer that can get an adapter: its weights are in modules of the "
            f"types {', '.join(types)}, none of which is a linear layer of PyTorch; if they are "
            "quantized, load the unquantized model"
        )
    wanted = targets if isinstance(targets, tuple) else ()
    alike = [m for t in wanted for m in get_close_matches(t, [*available, *TARGET_PRESETS], n=1)]
    hint = f"; did you mean {alike[0]!r}" if alike else ""
    return (
        f"target_modules {targets!r} names no layer of {model} that can get an adapter{hint}. Its "
        f"layers are named {', '.join(available)}"
    )


def _warn_of_unknown(targets: tuple[str, ...], chosen: Iterable[tuple[str, ...]]) -> None:
    names = [name for group in chosen for name in group]
    for target in targets:
        if not any(_is_called(name, target) for name in names):
            warnings.warn(f"target_modules: no layer is named {target!r}", stacklevel=3)
