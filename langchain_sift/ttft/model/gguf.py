"""Read GGUF files, llama.cpp's format of quantized models, with transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from langchain_sift.errors import MissingExtraError, ModelLoadError, require

# Earlier versions of transformers cannot read these files.
# ruff: noqa: PLC0415

# The tokens that end an answer: of a text, of a turn, and of a message that calls tools.
_ENDS = ("eos", "eot", "eom")

# The sampling that the model's makers recommend, and transformers' names of it.
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def gguf_options(file: str) -> dict[str, object]:
    """Return the options of `from_pretrained` that unpack the weights of a GGUF file.

    Raises:
        MissingExtraError: If a package is missing that reads them.
    """
    _require_packages()
    from transformers import GgufConfig

    return {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)}


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Return the metadata of a file that holds a whole model.

    Raises:
        MissingExtraError: If a package is missing that reads it.
        ModelLoadError: If it is no GGUF file, damaged, a part of a model or no model.
    """
    _require_packages()
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        metadata, _ = read_gguf_metadata(str(path))
    except Exception as error:  # of many kinds: it reads lengths and text anywhere in the file
        raise ModelLoadError("it is no GGUF file, or a damaged one") from error
    kind, parts = metadata.get("general.type", "model"), metadata.get("split.count", 1)
    if kind != "model":
        raise ModelLoadError(f"the GGUF file holds no model, but a part of one: {kind!r}")
    if parts > 1:
        raise ModelLoadError(
            f"the GGUF file is one of {parts} parts of a model: join them with "
            "`llama-gguf-split --merge` first"
        )
    return dict(metadata)


def check_tokenizer(path: Path) -> None:
    """Check that a GGUF file holds a tokenizer.

    Raises:
        ModelLoadError: If it holds none.
    """
    if "tokenizer.ggml.model" not in read_metadata(path):
        raise ModelLoadError(
            "the GGUF file holds none: pass tokenizer=... in Python, or convert the model again "
            "with its tokenizer"
        )


def apply_generation_settings(model: PreTrainedModel, metadata: Mapping[str, Any]) -> None:
    """Copy the tokens that end an answer, and the recommended sampling, to the model's settings."""
    settings: Any = model.generation_config
    ids = [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS]
    ends = [token_id for token_id in dict.fromkeys(ids) if token_id is not None]
    if ends:
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    for key, name in _SAMPLING.items():
        value = metadata.get(f"general.sampling.{key}")
        if value is not None:
            setattr(settings, name, value)
            settings.do_sample = metadata.get("general.sampling.temp", 1.0) > 0


@contextmanager
def gguf_errors() -> Iterator[None]:
    """Name the fault of a GGUF file that transformers cannot read.

    Raises:
        ModelLoadError: If the file is cut off, or its architecture or a type of its tensors is
            not supported.
    """
    try:
        yield
    except Exception as error:
        reason = str(error)
        unknown_type = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", reason)
        unsupported_type = re.search(r"Dequantization for (\w+) is not", reason)
        architecture = re.search(r"architecture '?([\w.-]+)'? is not supported", reason)
        if architecture:
            reason = f"transformers cannot read GGUF files of the architecture {architecture[1]!r}"
        elif found := unknown_type or unsupported_type:
            reason = f"the GGUF file holds tensors of the type {found[1]}, which is not supported"
        elif "cannot reshape" in reason or "size must be a divisor" in reason:
            reason = "the GGUF file is cut off: fetch it again, and compare its size"
        elif isinstance(error, KeyError):
            reason = f"the GGUF file has no entry {reason}, which transformers needs"
        else:
            raise
        raise ModelLoadError(reason) from error


def _require_packages() -> None:
    require("gguf", "gguf", "accelerate")
    if not hasattr(transformers, "GgufConfig"):
        raise MissingExtraError("transformers 5.23 or later", "gguf")
