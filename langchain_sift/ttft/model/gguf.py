"""Check GGUF files, llama.cpp's format of quantized models, before transformers reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import GgufConfig
from transformers.integrations.gguf.reader import read_gguf_metadata

from langchain_sift.errors import ModelLoadError, require


def gguf_options(file: str) -> dict[str, object]:
    """Return the options of `from_pretrained` that unpack the weights of a GGUF file.

    Raises:
        MissingExtraError: If a package is missing that reads them.
    """
    require("gguf", "gguf", "accelerate")
    return {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)}


def check_gguf_file(path: Path) -> None:
    """Check that the settings of a model can be read from a file.

    Raises:
        ModelLoadError: If it is damaged.
    """
    _metadata(path)


def check_gguf_tokenizer(path: Path) -> None:
    """Check that a file holds a tokenizer.

    Raises:
        ModelLoadError: If it holds none.
    """
    if "tokenizer.ggml.model" not in _metadata(path):
        raise ModelLoadError("the GGUF file holds none: pass tokenizer=...")


def _metadata(path: Path) -> Mapping[str, object]:
    try:
        metadata, _ = read_gguf_metadata(str(path))
    except Exception as error:  # of many kinds: it reads lengths and text anywhere in the file
        raise ModelLoadError(
            f"it is no GGUF file, or a damaged one ({type(error).__name__}: {error})"
        ) from error
    return dict(metadata)
