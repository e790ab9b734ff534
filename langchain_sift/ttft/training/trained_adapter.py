"""Save and load trained adapters in PEFT's format."""

from __future__ import annotations

import hashlib
import json
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
_OURS = "langchain_sift.json"
_PREFIX = "base_model.model."

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

Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class TrainedAdapter:
    """The low-rank weights trained on one prompt's documents, independent of any slot."""

    weights: torch.Tensor
    """A and B transposed of each layer, one after the other: float32, on the CPU, shape (size,)."""

    layers: tuple[str, ...]
    """Names of the layers with an adapter."""

    shapes: tuple[tuple[int, int], ...]
    """Shapes of A and of B transposed, for each layer."""

    config: FineTuneConfig
    """The config of the training. Its `max_length` is smaller than the requested one if memory
    did not suffice for it."""

    training: TrainingRecord
    """The record of the training."""

    base: str
    """Name of the base model."""

    transposed: bool = False
    """If True, some layers store their weights with the inputs first, as GPT-2's do."""

    def save(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's format, which `peft.PeftModel.from_pretrained` loads.

        Atomic: the files are written to a temporary folder, which is then renamed.

        Args:
            folder: A folder that does not exist yet. Only its owner gets access.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder exists.
        """
        from peft import LoraConfig  # noqa: PLC0415 - only who saves an adapter waits for it

        folder = Path(folder)
        _check_absent(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".adapter-"))  # mode 0700
        try:
            tensors = dict(self._tensors())
            safetensors.torch.save_file(tensors, temporary / _WEIGHTS, metadata={"format": "pt"})
            LoraConfig(**self._peft_config()).save_pretrained(str(temporary))
            (temporary / _OURS).write_text(json.dumps(self._own_config()))
            temporary.rename(folder)  # fails if another process has made it: not empty
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                _check_absent(folder)
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
            own = json.loads((folder / _OURS).read_text())
            tensors = safetensors.torch.load_file(folder / _WEIGHTS)
            layers = tuple(own["layers"])
            parts = [_transpose_b(name, tensors[name]) for name in _tensor_names(layers)]
            weights = torch.cat([part.flatten() for part in parts])
            if _sha256(weights) != own["sha256"]:
                raise ValueError("the checksum of its weights is wrong")
            return cls(
                weights,
                layers,
                tuple((part.shape[0], part.shape[1]) for part in parts),
                FineTuneConfig(**_with_tuples(own["config"])),
                TrainingRecord(**_with_tuples(own["training"])),
                own["base"],
                own["transposed"],
            )
        except _READ_ERRORS as error:
            raise ArgumentError(
                f"{folder} has no adapter that this version can read: {error}"
            ) from error

    def check_fits(self, layers: Sequence[str], shapes: Shapes) -> None:
        """Reject a model with other layers.

        Raises:
            ArgumentError: If the adapter has another base model, rank or choice of layers.
        """
        if (self.layers, self.shapes) != (tuple(layers), tuple(shapes)):
            raise ArgumentError(
                f"the adapter was trained for {self.base!r} with lora_rank "
                f"{self.config.lora_rank} and target_modules {self.config.target_modules!r}, "
                "and does not fit another model, rank or choice of layers"
            )

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        sizes = [rows * columns for rows, columns in self.shapes]
        parts = torch.split(self.weights, sizes)
        names = _tensor_names(self.layers)
        for name, part, shape in zip(names, parts, self.shapes, strict=True):
            yield name, _transpose_b(name, part.view(shape)).clone()

    def _peft_config(self) -> dict[str, Any]:
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.config.lora_rank,
            "lora_alpha": self.config.lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(self.layers),
            "inference_mode": True,
            "fan_in_fan_out": self.transposed,
        }

    def _own_config(self) -> dict[str, object]:
        return {
            "base": self.base,
            "transposed": self.transposed,
            "sha256": _sha256(self.weights),
            "layers": self.layers,
            "config": asdict(self.config),
            "training": asdict(self.training),
        }


def _tensor_names(layers: Sequence[str]) -> list[str]:
    return [f"{_PREFIX}{name}.lora_{part}.weight" for name in layers for part in "AB"]


def _transpose_b(name: str, part: torch.Tensor) -> torch.Tensor:
    """Transpose B, from PEFT's format or to it; return A unchanged."""
    return part.T.contiguous() if ".lora_B." in name else part


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}


def _sha256(weights: torch.Tensor) -> str:
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def _check_absent(folder: Path) -> None:
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already: choose another folder, or remove it")
