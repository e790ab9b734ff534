"""Define how the weights of a named model are loaded, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_sift.checks import check_choice
from langchain_sift.errors import ArgumentError

DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATIONS = ("4bit", "8bit")


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """The device and the form of a model's weights, as options of `load_language_model`."""

    device: str | None = None
    """The device. None means "cuda" if it is available, otherwise "cpu"."""

    dtype: str | None = None
    """Type of the weights: "bfloat16", "float16" or "float32". None means bfloat16 on an
    accelerator and on a CPU that is faster with it, otherwise float32."""

    quantization: str | None = None
    """Quantization of the weights: "4bit" or "8bit". None means the stored form."""

    def __post_init__(self) -> None:
        """Check the settings before a model is loaded.

        Raises:
            ArgumentError: If a name is unknown. A device is checked when the model is loaded.
        """
        if self.dtype is not None:
            check_choice("dtype", self.dtype, DTYPES)
        if self.quantization is not None:
            check_quantization(self.quantization)


def check_quantization(quantization: str) -> None:
    """Check the name of a quantization.

    Raises:
        ArgumentError: If it is not "4bit" or "8bit".
    """
    if quantization == "gguf":
        raise ArgumentError(
            "quantization='gguf' is not supported: transformers keeps GGUF weights packed in few "
            "architectures, and only with compiled code from the hub, which never runs here; "
            "otherwise it unpacks them. Leave quantization out to unpack them to dtype, or load "
            "the model's safetensors with quantization='4bit' if memory is short"
        )
    check_choice("quantization", quantization, QUANTIZATIONS)


def wrong_model(model: object) -> ArgumentError:
    """Return the error for a `model` that is neither a name nor a model of transformers."""
    cure = (
        ": merge its adapter with model.merge_and_unload() and pass the result, or pass the folder "
        "of the saved adapter"
        if hasattr(model, "merge_and_unload")
        else ""
    )
    got = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
    return ArgumentError(
        f"model must be a name, a folder or a PreTrainedModel of transformers, got {got}{cure}"
    )
