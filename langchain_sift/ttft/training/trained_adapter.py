"""Save and load trained adapters in PEFT's format."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.training.tasks import TrainingRecord

_WEIGHTS = "adapter_model.safetensors"
OWN_FILE = "langchain_sift.json"
"""The file with what PEFT does not keep, and a checksum of the weights."""
_PREFIX = "base_model.model."
_NAMES_OF_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")

# Errors from reading files that are not as `save` wrote them.
_READ_ERRORS = (
    OSError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    safetensors.SafetensorError,
)

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, eq=False, repr=False)
class TrainedAdapter:
    """The low-rank weights trained on one prompt's documents, independent of any slot.

    They belong to the weights of the base model. Another model with layers of the same names and
    shapes is not noticed.
    """

    weights: torch.Tensor
    """A and B transposed of each layer, one after the other: float32, on the CPU, shape (size,)."""

    layers: tuple[str, ...]
    """Names of the layers with an adapter; of experts, those of their weights."""

    shapes: tuple[tuple[int, ...], ...]
    """Shapes of A and of B transposed, for each layer: (r, in) and (r, out), and for the experts of
    a layer (experts, r, in) and (experts, r, out)."""

    config: FineTuneConfig
    """The config of the training. Its `max_length` is smaller than the requested one if memory
    did not suffice for it."""

    training: TrainingRecord
    """The record of the training."""

    base: str
    """Name of the base model; the full path of one that was loaded from a folder."""

    transposed: bool = False
    """If True, some layers store their weights with the inputs first, as GPT-2's do."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the weights, 32 hexadecimal digits."""
        weights = self.weights.contiguous().view(torch.uint8).numpy()
        return hashlib.blake2b(weights.data, digest_size=16).hexdigest()

    def __repr__(self) -> str:
        """Return the base model, the number of weights and their digest, which traces show."""
        return f"TrainedAdapter({self.base!r}, {self.weights.numel()} weights, {self.fingerprint})"

    def save(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's format, which `peft.PeftModel.from_pretrained` loads.

        Atomic: the files are written to a temporary folder, which is then renamed.

        Args:
            folder: A folder that does not exist yet. Only its owner gets access.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder exists.
            OSError: If it cannot be written.
        """
        from peft import LoraConfig  # noqa: PLC0415 - imported only to save

        folder = Path(folder)
        _check_absent(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".adapter-"))  # mode 0700
        try:
            tensors = dict(self._tensors())
            safetensors.torch.save_file(tensors, temporary / _WEIGHTS, metadata={"format": "pt"})
            LoraConfig(**self._peft_config()).save_pretrained(str(temporary))
            (temporary / OWN_FILE).write_text(json.dumps(self._own_config()))
            temporary.rename(folder)  # fails if another process has made it: not empty
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                _check_absent(folder)
            if isinstance(error, safetensors.SafetensorError):  # how it reports a full disk
                raise OSError(f"cannot write the adapter {folder}: {error}") from error
            raise
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> TrainedAdapter:
        """Read an adapter that `save` wrote.

        Raises:
            ArgumentError: If the folder has no adapter, or a damaged one.
        """
        folder = Path(folder)
        try:
            own = json.loads((folder / OWN_FILE).read_text())
            tensors = safetensors.torch.load_file(folder / _WEIGHTS)
            layers = tuple(own["layers"])
            shapes = _shapes(own, layers, tensors)
            names = _tensor_names(layers, shapes)
            parts = [
                _from_peft(name, tensors[name], shape)
                for name, shape in zip(names, shapes, strict=True)
            ]
            weights = torch.cat([part.flatten() for part in parts])
            if _sha256(weights) != own["sha256"]:
                raise ValueError("the checksum of its weights is wrong")
            return cls(
                weights,
                layers,
                shapes,
                FineTuneConfig(**_with_tuples(own["config"])),
                TrainingRecord(**_with_tuples(own["training"])),
                own["base"],
                own["transposed"],
            )
        except _READ_ERRORS as error:
            raise ArgumentError(f"{folder} has no adapter {_cause(folder, error)}") from error

    def check_fits(self, layers: Sequence[str], shapes: Shapes, lora_alpha: float) -> None:
        """Reject a model with other layers, or another scale of the update.

        Raises:
            ArgumentError: If the adapter has another base model, rank, `lora_alpha` or choice of
                layers, or other weights than its shapes.
        """
        if (self.layers, self.shapes) != (tuple(layers), tuple(shapes)):
            raise ArgumentError(
                f"the adapter was trained for {self.base!r} with lora_rank "
                f"{self.config.lora_rank} and target_modules {self.config.target_modules!r}, "
                "and does not fit another model, rank or choice of layers"
            )
        if self.config.lora_alpha != lora_alpha:
            raise ArgumentError(
                f"the adapter was trained with lora_alpha {self.config.lora_alpha:g}, and the "
                f"model has {lora_alpha:g}: its update would have another size"
            )
        if self.weights.shape != (size := sum(map(math.prod, self.shapes)),):
            raise ArgumentError(
                f"the adapter's weights must have the shape ({size},), got "
                f"{tuple(self.weights.shape)}"
            )

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        parts = torch.split(self.weights, [math.prod(shape) for shape in self.shapes])
        names = _tensor_names(self.layers, self.shapes)
        for name, part, shape in zip(names, parts, self.shapes, strict=True):
            yield (
                name,
                _to_peft(name, part.view(shape)).clone(memory_format=torch.contiguous_format),
            )

    def _peft_config(self) -> dict[str, Any]:
        ranks = {
            name: shape[1]
            for name, shape in zip(self.layers, self.shapes[::2], strict=True)
            if len(shape) == 3
        }
        # On mixtures of experts, PEFT takes these names of modules for those of older checkpoints'
        # experts. It adapts the weights of a linear layer just as well.
        renamed = [n for n in self.layers if ranks and n.rpartition(".")[2] in _NAMES_OF_EXPERTS]
        renamed = [name for name in renamed if name not in ranks]
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.config.lora_rank,
            "lora_alpha": self.config.lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": [n for n in self.layers if n not in ranks and n not in renamed],
            # Of experts, PEFT adapts the weights instead of the module.
            "target_parameters": [*ranks, *(f"{name}.weight" for name in renamed)] or None,
            "rank_pattern": ranks,
            "inference_mode": True,
            "fan_in_fan_out": self.transposed,
        }

    def _own_config(self) -> dict[str, object]:
        return {
            "base": self.base,
            "transposed": self.transposed,
            "sha256": _sha256(self.weights),
            "layers": self.layers,
            "shapes": self.shapes,
            "config": asdict(self.config),
            "training": asdict(self.training),
        }


def _shapes(
    own: dict[str, Any], layers: Sequence[str], tensors: dict[str, torch.Tensor]
) -> tuple[tuple[int, ...], ...]:
    if "shapes" in own:
        return tuple(map(tuple, own["shapes"]))
    # Saved before experts got adapters: A and B of each layer are matrices.
    matrices = [tensors[name] for name in _tensor_names(layers, [(1, 1)] * 2 * len(layers))]
    return tuple(
        tuple(matrix.T.shape if number % 2 else matrix.shape)
        for number, matrix in enumerate(matrices)
    )


def _tensor_names(layers: Sequence[str], shapes: Shapes) -> list[str]:
    names = []
    for number, (layer, shape) in enumerate(zip(layers, shapes[::2], strict=True)):
        module = layer
        if len(shape) == 3:
            # PEFT wraps a module once for each of its weights, the last one outermost.
            module = layer.rpartition(".")[0]
            later = [other for other in layers[number + 1 :] if other.startswith(f"{module}.")]
            module += ".base_layer" * len(later)
        names += [f"{_PREFIX}{module}.lora_{part}.weight" for part in "AB"]
    return names


def _to_peft(name: str, part: torch.Tensor) -> torch.Tensor:
    """Return A or B in PEFT's form, in which the experts of a layer share one matrix."""
    if ".lora_B." in name:
        return part.T if part.ndim == 2 else part.permute(2, 1, 0).flatten(1)
    return part.flatten(0, -2)


def _from_peft(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return A or B transposed in our form, of this shape."""
    *stack, rank, features = shape
    rows = math.prod(stack) * rank
    is_b = ".lora_B." in name
    if tensor.shape != ((features, rows) if is_b else (rows, features)):
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not that of {shape}")
    if not is_b:
        return tensor.reshape(shape)
    return tensor.reshape(features, rank, *stack).permute(*range(len(shape))[::-1]).contiguous()


def _cause(folder: Path, error: Exception) -> str:
    """Return the rest of the error's message: what is wrong with the folder, and the cure."""
    if (folder / "adapter_config.json").is_file() and not (folder / OWN_FILE).exists():
        return (
            f"of langchain-sift: it has no {OWN_FILE}. For an adapter of PEFT, pass the folder as "
            f"the model, model={str(folder)!r}: it is merged into its base model"
        )
    return f"that this version can read: {error}"


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}


def _sha256(weights: torch.Tensor) -> str:
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def _check_absent(folder: Path) -> None:
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already: choose another folder, or remove it")
