"""Load a causal language model and its tokenizer from a name, a folder or a loaded model."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_sift.errors import ArgumentError, ModelLoadError, SIFTError
from langchain_sift.ttft.model.devices import resolve_device, resolve_dtype
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.quantization import (
    check_quantization,
    is_stored_quantized,
    quantization_config,
    settle_layers,
)

# Files to download from the hub: no pickles, no code, and no weights in a second format.
_FILES = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "model.safetensors",
    "model*-of-*.safetensors",
)


T = TypeVar("T")


class _SharedObjects(Generic[T]):
    """A cache of shared objects, built once per key and dropped with the last user."""

    def __init__(self) -> None:
        self._objects: weakref.WeakValueDictionary[Hashable, T] = weakref.WeakValueDictionary()
        self._locks: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the object of this key; one thread builds it, others with this key wait."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                shared = self._objects.get(key)
            if shared is None:
                shared = build()
                with self._guard:
                    self._objects[key] = shared
            return shared


@dataclass(frozen=True)
class _Source:
    """The settings that distinguish one copy of weights from another."""

    name: str
    """The hub's name, or the folder without links and relative parts."""

    revision: str | None
    device: torch.device
    dtype: torch.dtype
    quantization: str | None


_weights: _SharedObjects[PreTrainedModel] = _SharedObjects()
_tokenizers: _SharedObjects[PreTrainedTokenizerBase] = _SharedObjects()

# transformers sets PyTorch's default dtype and replaces functions for the whole process while it
# builds a model. If two models are built at once, one may get the other's dtype, and the
# functions may never be restored. Downloads need not wait for each other.
_build_lock = threading.Lock()


def load_language_model(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
) -> LanguageModel:
    """Return the model, and load its weights unless this process uses them already.

    All users of the same model, revision, device, dtype and quantization share the weights,
    which are freed with the last user. Threads that load the same model wait for one load.
    Loading never runs code of the model's repository, and never reads a pickle.

    Args:
        model: A name on the Hugging Face hub, a folder, or a loaded model. A loaded model is not
            changed; it may be on several devices, and quantized.
        tokenizer: Required with a loaded model. None means the tokenizer of that name.
        revision: A branch, tag or commit on the hub. None means the newest commit of "main".
        device: The device to load to. None means "cuda" if it is available, otherwise "cpu".
        dtype: The dtype of the weights: "bfloat16", "float16" or "float32". None means bfloat16
            on an accelerator and on a CPU that is faster with it, otherwise float32. Quantized
            layers compute in this dtype.
        quantization: "4bit" (NF4 with quantized constants, as in QLoRA, arXiv 2305.14314) or
            "8bit" (LLM.int8(), arXiv 2208.07339) for all linear layers but the output layer.
            None means the stored form.

    Raises:
        ArgumentError: If an argument is out of range, a loaded model comes without a tokenizer
            or with settings for loading, or model and tokenizer do not fit together.
        MissingExtraError: If `quantization` needs a package that is not installed.
        ModelLoadError: If the model or the tokenizer does not exist, or is not safe to load.
    """
    if isinstance(model, PreTrainedModel):
        settings = {"revision": revision, "device": device, "dtype": dtype}
        return _wrap(model, tokenizer, settings | {"quantization": quantization})
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
    if not name:
        raise ArgumentError(
            f"model must be a name, a folder or a PreTrainedModel of transformers, got {model!r}"
        )
    source_name = _canonical_name(name, revision)
    target = resolve_device(device)
    source = _Source(source_name, revision, target, resolve_dtype(dtype, target), quantization)
    check_quantization(quantization)
    weights = _weights.get(source, lambda: _load_weights(name, source))
    if tokenizer is None:
        # From the folder of the weights: the hub may have another revision by now.
        folder: Any = weights.name_or_path
        tokenizer = _tokenizers.get(folder, lambda: _load_tokenizer(name, folder))
    return LanguageModel(name, weights, tokenizer)


def _wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: Mapping[str, object],
) -> LanguageModel:
    for name, value in settings.items():
        if value is not None:
            raise ArgumentError(
                f"{name}={value!r} does not apply to a model that is loaded already"
            )
    if tokenizer is None:
        raise ArgumentError("tokenizer is required with a loaded model: pass tokenizer=...")
    return LanguageModel(type(model).__name__, model, tokenizer)


def _canonical_name(name: str, revision: str | None) -> str:
    path = Path(name)
    if not path.is_dir():
        return name
    if revision is not None:
        raise ArgumentError(
            f"revision={revision!r} is for a name on the hub, and {name!r} is a folder"
        )
    return str(path.resolve())


def _load_weights(name: str, source: _Source) -> PreTrainedModel:
    with _load_errors(f"the model {name!r}"):
        folder = _folder_of(source)
        _check_folder(Path(folder))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        is_quantized = is_stored_quantized(name, config, source.quantization)
        quantize = quantization_config(source.quantization, source.dtype)
        # transformers takes None as "do not quantize", even if the stored weights are quantized.
        options = {} if quantize is None else {"quantization_config": quantize}
        # Quantized weights cannot be moved after loading.
        device_map = {"": source.device} if is_quantized or quantize is not None else None
        auto: Any = AutoModelForCausalLM
        with _build_lock:
            # Loading must not run code: only safetensors, no code from the repository.
            loaded, report = auto.from_pretrained(
                folder,
                dtype=source.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # `_check_complete` names them
                output_loading_info=True,
                device_map=device_map,
                **options,
            )
        _check_complete(report["missing_keys"], report["mismatched_keys"])
        model: PreTrainedModel = loaded
        if device_map is None:
            model.to(device=source.device)  # type: ignore[call-arg]
    settle_layers(model)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _folder_of(source: _Source) -> str:
    """Return the folder with the model's files; download those that are missing."""
    if Path(source.name).is_dir():
        return source.name
    if Path(source.name).is_absolute() or source.name.startswith("."):
        raise ModelLoadError("there is no such folder")
    try:
        return snapshot_download(source.name, revision=source.revision, allow_patterns=list(_FILES))
    except HFValidationError as error:
        raise ModelLoadError(
            "there is no such folder here, and no model on the hub can have this name"
        ) from error
    except Exception as error:  # of many kinds: no network, no such model, a token is required
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            "there is no such folder here, and the download from the hub failed: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelLoadError("there is no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            "there are no weights in safetensors files, and a pickle is never read because it can "
            "run code: load it where you trust it, and save it with model.save_pretrained"
        )


def _check_complete(missing: Sequence[str], mismatched: Sequence[Sequence[object]]) -> None:
    """Reject weights that transformers would initialize at random with only a warning."""
    unusable = [*missing, *(str(name) for name, *_ in mismatched)]
    if unusable:
        raise ModelLoadError(
            f"{len(unusable)} weights are missing or of the wrong shape, such as {min(unusable)}"
        )


def _load_tokenizer(name: str, folder: str) -> PreTrainedTokenizerBase:
    with _load_errors(f"the tokenizer of {name!r}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    return tokenizer


@contextmanager
def _load_errors(subject: str) -> Iterator[None]:
    """Raise any failure as a `ModelLoadError` that names the model or tokenizer."""
    try:
        yield
    except ModelLoadError as error:
        raise ModelLoadError(f"cannot load {subject}: {error}") from error.__cause__
    except SIFTError:
        raise
    except Exception as error:  # the tokenizers' library raises no narrower one
        reason = f"{type(error).__name__}: {error}"
        if "trust_remote_code" in reason:
            reason = (
                "it needs code from its repository, which is never run: load it where you trust "
                "it, and pass the loaded model and its tokenizer"
            )
        raise ModelLoadError(f"cannot load {subject}: {reason}") from error
