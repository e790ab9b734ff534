"""A causal language model and its tokenizer, from a name, a path or a loaded model."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
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
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_sift.errors import ArgumentError, ModelLoadError, SIFTError, require

# The names that configurations have for it; GPT-2's own is an alias of the first.
_CONTEXT_LENGTHS = ("max_position_embeddings", "seq_length", "max_seq_len")

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

_QUANTIZATIONS = ("4bit", "8bit")

# Of a repository on the hub: no pickles, no code, and no weights in a second format.
_FILES = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "model.safetensors",
    "model*-of-*.safetensors",
)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """Weights that nobody writes to, and the tokenizer that belongs to them."""

    name: str
    """The hub's name or the path it was loaded from; the class's name for a loaded model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        """Reject a pair that cannot work.

        Raises:
            ArgumentError: If weights are offloaded, or the tokenizer has tokens that the model
                lacks. Special tokens that no text begins or ends with may be missing, as some
                published models have it: text that spells one out is refused when it is met.
        """
        if any(weights.device.type == "meta" for weights in self.model.parameters()):
            raise ArgumentError(
                f"weights of {self.name} are offloaded to main memory or disk, where nothing can "
                "be learned beside them: load it onto devices with room for all of them"
            )
        size = int(self._embeddings.num_embeddings)
        if len(self.tokenizer) > size and (unknown := _unknown_tokens(self.tokenizer, size)):
            raise ArgumentError(
                f"the tokenizer has {len(self.tokenizer)} tokens and {self.name} only {size}; "
                f"{unknown[0]!r} is one that it lacks: pass the model's own tokenizer, or call "
                "model.resize_token_embeddings(len(tokenizer)) before"
            )

    @property
    def context_length(self) -> int:
        """The largest number of tokens that the model can attend to, as its configuration says.

        The tokenizer's `model_max_length` is not asked: it is often absent or another model's.

        Raises:
            ArgumentError: If the configuration does not say.
        """
        config = self.model.config.get_text_config()
        for key in _CONTEXT_LENGTHS:
            length = getattr(config, key, None)
            if isinstance(length, int) and length > 0:
                return length
        raise ArgumentError(
            f"the configuration of {self.name} says nowhere how long its context is: set "
            "model.config.max_position_embeddings and pass the loaded model"
        )

    @property
    def device(self) -> torch.device:
        """Where token ids have to be: with the input embeddings, wherever other layers are."""
        device: torch.device = self._embeddings.weight.device
        return device

    @property
    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()


def _unknown_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Return the tokens outside an embedding of this size that texts are full of."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    rare = special - {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    ids = tokenizer.get_vocab()
    return [token for token in ids if ids[token] >= size and token not in rare]


T = TypeVar("T")


class _Shared(Generic[T]):
    """What is made once for all who ask, however many threads they are, and goes with the last."""

    def __init__(self) -> None:
        self.made = 0
        self._found: weakref.WeakValueDictionary[Hashable, T] = weakref.WeakValueDictionary()
        self._turns: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the one of this key; made by whoever asks first, while others of it wait."""
        with self._guard:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            with self._guard:
                found = self._found.get(key)
            if found is None:
                found = make()
                with self._guard:
                    self._found[key] = found
                    self.made += 1
            return found


@dataclass(frozen=True)
class _Source:
    """What distinguishes one copy of weights from another."""

    name: str
    """The hub's name, or the folder without links and relative parts."""

    revision: str | None
    device: torch.device
    dtype: torch.dtype
    quantization: str | None


_weights: _Shared[PreTrainedModel] = _Shared()
_tokenizers: _Shared[PreTrainedTokenizerBase] = _Shared()

# While it builds a model, transformers sets PyTorch's default dtype and replaces functions, for
# the whole process: of two models built at once, one may get the other's dtype, and the
# functions may never come back. Downloads are outside, and need not wait for each other.
_building = threading.Lock()


def load_count() -> int:
    """Return how often this process has loaded weights, for metrics and tests.

    It grows by one for each distinct model that is in use, not for each user of it.
    """
    return _weights.made


def load_language_model(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
) -> LanguageModel:
    """Return the model, loading its weights only where nobody in this process uses them yet.

    Weights are shared between all who name the same model, revision, device, dtype and
    quantization, and are freed with the last of them. Threads that ask for the same model wait
    for one load. Loading never runs code of the model's repository, nor reads a pickle.

    Args:
        model: A name on the Hugging Face hub, a folder, or a model that is already loaded,
            which is left where it is and as it is, on one device or several, quantized or not.
        tokenizer: Required with a loaded model; for a name, the tokenizer of that name.
        revision: A branch, tag or commit on the hub; by default the newest of its main branch.
        device: Where to load to; by default "cuda" where there is one, else "cpu".
        dtype: Of the weights, "bfloat16", "float16" or "float32"; by default bfloat16 on an
            accelerator and where this CPU is faster with it, else float32. Of quantized weights
            it is what they are computed with, and the other weights are kept in.
        quantization: "4bit" (NF4 with quantized constants, as QLoRA, arXiv 2305.14314) or
            "8bit" (LLM.int8(), arXiv 2208.07339), of all linear layers but the output's. By
            default as it is stored.

    Raises:
        ArgumentError: If an argument is none of those above, a loaded model comes without a
            tokenizer or with settings of loading, or model and tokenizer do not fit.
        MissingExtraError: If quantization is asked for and bitsandbytes is not installed.
        ModelLoadError: If there is no such model or tokenizer, or it is not safe to load.
    """
    if isinstance(model, PreTrainedModel):
        settings = {"revision": revision, "device": device, "dtype": dtype}
        return _take(model, tokenizer, settings | {"quantization": quantization})
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
    if not name:
        raise ArgumentError(
            f"model must be a name, a folder or a PreTrainedModel of transformers, got {model!r}"
        )
    place = _as_device(device)
    source = _Source(
        _canonical(name, revision),
        revision,
        place,
        _as_dtype(dtype, place),
        _as_quantization(quantization),
    )
    weights = _weights.get(source, lambda: _load_weights(name, source))
    if tokenizer is None:
        # From where the weights came from: the hub may have another revision by now.
        folder: Any = weights.name_or_path
        tokenizer = _tokenizers.get(folder, lambda: _load_tokenizer(name, folder))
    return LanguageModel(name, weights, tokenizer)


def _take(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: Mapping[str, object],
) -> LanguageModel:
    for name, value in settings.items():
        if value is not None:
            raise ArgumentError(
                f"{name}={value!r} is for a model to be loaded, and this one already is"
            )
    if tokenizer is None:
        raise ArgumentError("tokenizer is required with a loaded model: pass tokenizer=...")
    return LanguageModel(type(model).__name__, model, tokenizer)


def _canonical(name: str, revision: str | None) -> str:
    path = Path(name)
    if not path.is_dir():
        return name
    if revision is not None:
        raise ArgumentError(
            f"revision={revision!r} is for a name on the hub, and {name!r} is a folder"
        )
    return str(path.resolve())


def _load_weights(name: str, source: _Source) -> PreTrainedModel:
    with _named(f"the model {name!r}"):
        folder = _fetch(source)
        _check_folder(Path(folder))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        placement = _placement(name, source, config)
        auto: Any = AutoModelForCausalLM
        with _building:
            # Only safetensors, never code from the repository: loading must not run anything.
            loaded, report = auto.from_pretrained(
                folder,
                dtype=source.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # for they are named below
                output_loading_info=True,
                **placement,
            )
        _check_complete(report)
        model: PreTrainedModel = loaded
        if not placement:
            model.to(device=source.device)  # type: ignore[call-arg]
    _settle_quantized(model)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _fetch(source: _Source) -> str:
    """Return the folder that has the model's files, after downloading those that it lacks."""
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
    except Exception as error:  # of many kinds: no network, no such model, one that needs a token
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            "there is no such folder here, and the hub did not give it: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelLoadError("there is no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            "it has no weights in safetensors files, and no others are read, for a pickle can "
            "run code: load it where you trust it, and save it with model.save_pretrained"
        )


def _check_complete(report: Mapping[str, Any]) -> None:
    """Refuse what transformers would make up at random, with no more than a warning."""
    unusable = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if unusable:
        raise ModelLoadError(
            f"{len(unusable)} weights are missing or of the wrong shape, such as {min(unusable)}"
        )


def _placement(name: str, source: _Source, config: PreTrainedConfig) -> dict[str, Any]:
    """Return how quantized weights are loaded, which have no `.to`; nothing for others."""
    stored = getattr(config, "quantization_config", None)
    if stored is None and source.quantization is None:
        return {}
    if stored is not None and source.quantization is not None:
        raise ArgumentError(f"{name!r} is quantized already: leave quantization out")
    require("quantized", "accelerate")  # which puts weights where `device_map` says
    placement: dict[str, Any] = {"device_map": {"": source.device}}
    if source.quantization == "4bit":
        placement["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=source.dtype,
        )
    elif source.quantization == "8bit":
        placement["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_8bit=True
        )
    return placement


def _settle_quantized(model: PreTrainedModel) -> None:
    """Take from the layers of bitsandbytes what would change them when they are first used."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Else a 4-bit layer rewrites its weights for the CPU at its first use, into a form
            # that is coarser and has no gradient.
            module.support_avx512bf16_for_cpu = False
            # Else it and its weights hold each other, and stay until garbage is collected.
            module.weight.module = None
        if hasattr(module, "init_8bit_state"):
            # Else an 8-bit layer takes the scales away from its weights then, and a second
            # layer over the same weights finds none.
            module.init_8bit_state()
            logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what bitsandbytes says of every product of an 8-bit layer: it computes in float16."""
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def _load_tokenizer(name: str, folder: str) -> PreTrainedTokenizerBase:
    with _named(f"the tokenizer of {name!r}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    return tokenizer


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except ModelLoadError as error:
        raise ModelLoadError(f"cannot load {what}: {error}") from error.__cause__
    except SIFTError:
        raise
    except Exception as error:  # the tokenizers' library raises no narrower one
        reason = f"{type(error).__name__}: {error}"
        if "trust_remote_code" in reason:
            reason = (
                "it needs code from its repository, which is never run: load it where you trust "
                "it, and pass the loaded model and its tokenizer"
            )
        raise ModelLoadError(f"cannot load {what}: {reason}") from error


def _as_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    allowed = _devices()
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = torch.device("meta")  # which is never allowed
    if place.type == "cpu":
        return torch.device("cpu")
    if place.index is None and place in {torch.device(one.type) for one in allowed}:
        # One name for one place: "cuda" is whichever is current.
        place = torch.device(place.type, torch.accelerator.current_device_index())
    if place not in allowed:
        names = _quoted(str(one) for one in allowed)
        raise ArgumentError(
            f"device must be one of {names}, which is what there is here, got {str(device)!r}"
        )
    return place


def _devices() -> list[torch.device]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return [torch.device("cpu")]
    count = torch.accelerator.device_count()
    return [torch.device("cpu"), *(torch.device(accelerator.type, i) for i in range(count))]


def _as_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return fastest_dtype(device)
    for name, allowed in _DTYPES.items():
        if dtype in (name, allowed):
            return allowed
    raise ArgumentError(f"dtype must be one of {_quoted(_DTYPES)}, got {dtype!r}")


def _as_quantization(quantization: str | None) -> str | None:
    if quantization is not None and quantization not in _QUANTIZATIONS:
        raise ArgumentError(
            f"quantization must be None or one of {_quoted(_QUANTIZATIONS)}, got {quantization!r}"
        )
    if quantization is not None:
        require("quantized", "bitsandbytes", "accelerate")
    return quantization


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


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
