"""A causal language model and its tokenizer, from a name, a path or a loaded model."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_sift.errors import ArgumentError, ModelLoadError


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """Weights that nobody writes to, and the tokenizer that belongs to them."""

    name: str
    """The hub's name or the path it was loaded from; the class's name for a loaded model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def context_length(self) -> int:
        """The largest number of tokens that the model can attend to."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return self.model.device


# One copy of the weights serves all who name them, and goes when the last of them goes.
_loaded: weakref.WeakValueDictionary[tuple[str, torch.device, torch.dtype], LanguageModel] = (
    weakref.WeakValueDictionary()
)
_loading = threading.Lock()


def load_language_model(
    model: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
) -> LanguageModel:
    """Return the model, loading it at most once for each name, device and dtype.

    Args:
        model: A name on the Hugging Face hub, a folder, or a model that is already loaded,
            which is left where it is and as it is.
        tokenizer: Required with a loaded model; for a name, the tokenizer of that name.
        device: Where to load to; by default "cuda" where there is one, else "cpu".
        dtype: Of the weights, such as "bfloat16"; by default bfloat16 on an accelerator and
            where this CPU is faster with it, else float32.

    Raises:
        ArgumentError: If a loaded model comes without a tokenizer.
        ModelLoadError: If there is no such model or tokenizer, or it is not safe to load.
    """
    if not isinstance(model, str):
        if tokenizer is None:
            msg = "tokenizer is required with a loaded model: pass tokenizer=..."
            raise ArgumentError(msg)
        return LanguageModel(type(model).__name__, model, tokenizer)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = _as_dtype(dtype) or fastest_dtype(place)
    if tokenizer is not None:
        return LanguageModel(model, _load_weights(model, place, precision), tokenizer)
    with _loading:
        key = (model, place, precision)
        found = _loaded.get(key)
        if found is None:
            weights = _load_weights(model, place, precision)
            found = LanguageModel(model, weights, _load_tokenizer(model))
            _loaded[key] = found
        return found


def _load_weights(name: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    try:
        # Only safetensors, never code from the repository: loading must not run anything.
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        msg = f"cannot load the model {name!r}: {error}"
        raise ModelLoadError(msg) from error
    loaded: PreTrainedModel = model
    loaded.to(device=device)  # type: ignore[call-arg]
    loaded.eval()  # type: ignore[no-untyped-call]
    return loaded


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        msg = f"cannot load the tokenizer of {name!r}: {error}"
        raise ModelLoadError(msg) from error
    return tokenizer


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    found: Any = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        msg = f'dtype must name a PyTorch dtype such as "bfloat16", got {dtype!r}'
        raise ArgumentError(msg)
    return found


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16, or float32 on a CPU that is not clearly faster with bfloat16.

    Measured once for a process: the instructions that decide it (AMX, AVX-512 BF16, SVE) have
    no stable public name in PyTorch.
    """
    if device.type != "cpu":
        return torch.bfloat16
    margin = 1.5  # far from a tie, so that one machine always answers alike
    faster = margin * _matmul_seconds(torch.bfloat16) < _matmul_seconds(torch.float32)
    return torch.bfloat16 if faster else torch.float32


def _matmul_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    fastest = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest
