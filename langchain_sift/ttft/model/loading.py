"""Load a causal language model and its tokenizer from a name, a folder or a loaded model."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_sift.errors import ArgumentError, ModelLoadError, SIFTError
from langchain_sift.ttft.model.adapters import find_adapter, merge
from langchain_sift.ttft.model.causality import is_causal, is_encoder, not_causal
from langchain_sift.ttft.model.devices import resolve_device, resolve_dtype
from langchain_sift.ttft.model.files import check_weights, folder_of
from langchain_sift.ttft.model.gguf import (
    apply_generation_settings,
    check_tokenizer,
    gguf_errors,
    gguf_options,
    read_metadata,
)
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.load_settings import wrong_model
from langchain_sift.ttft.model.names import ModelName, join_gguf_file, parse_name
from langchain_sift.ttft.model.quantization import (
    check_can_quantize,
    is_stored_quantized,
    quantization_config,
    settle_layers,
)
from langchain_sift.ttft.model.shared_objects import SharedObjects


@dataclass(frozen=True)
class _Source:
    """The settings that distinguish one copy of weights from another."""

    name: ModelName
    revision: str | None
    device: torch.device
    dtype: torch.dtype
    quantization: str | None


_weights: SharedObjects[PreTrainedModel] = SharedObjects()
_tokenizers: SharedObjects[PreTrainedTokenizerBase] = SharedObjects()

# transformers sets PyTorch's default dtype and replaces functions for the whole process while it
# builds a model. If two models are built at once, one may get the other's dtype, and the
# functions may never be restored. Downloads need not wait for each other.
_build_lock = threading.Lock()


def load_language_model(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    gguf_file: str | None = None,
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
        model: A name on the Hugging Face hub, a folder, a GGUF file ("folder/file.gguf" or
            "org/name/file.gguf"), or a loaded model. A name or folder of a PEFT adapter means its
            base model with the adapter merged into the weights. A loaded model is not changed; it
            may be on several devices, and quantized.
        tokenizer: Required with a loaded model. None means the tokenizer of that name, or the one
            in the GGUF file.
        gguf_file: A GGUF file in the folder or on the hub, whose weights are unpacked to `dtype`.
            None means that `model` names it, or that there is none.
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
            or with settings for loading, model and tokenizer do not fit together, or a loaded
            model is not causal.
        MissingExtraError: If a package for `quantization`, a GGUF file or an adapter is missing.
        ModelLoadError: If the model or the tokenizer does not exist, is unsafe or not causal.
    """
    if isinstance(model, PreTrainedModel):
        settings: dict[str, object] = {
            "gguf_file": gguf_file,
            "revision": revision,
            "device": device,
        }
        settings |= {"dtype": dtype, "quantization": quantization}
        return _wrap(model, tokenizer, settings)
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        raise wrong_model(model)
    name = join_gguf_file(os.fspath(model), gguf_file)
    again = functools.partial(
        load_language_model,
        name,
        tokenizer,
        revision=revision,
        device=device,
        dtype=dtype,
        quantization=quantization,
    )
    check_can_quantize(quantization)
    target = resolve_device(device)
    with _load_errors(f"the model {name!r}"):
        place = parse_name(name)
    if place.is_folder and revision is not None:
        raise ArgumentError(
            f"revision={revision!r} is for a name on the hub, and {place.place!r} is a folder"
        )
    source = _Source(place, revision, target, resolve_dtype(dtype, target), quantization)
    weights = _weights.get(source, lambda: _load_weights(name, source))
    if tokenizer is None:
        # From the folder of the weights: the hub may have another revision by now.
        origin = str(weights.name_or_path), place.gguf_file
        tokenizer = _tokenizers.get(origin, lambda: load_tokenizer(name, *origin))
    asked = None if device is None else str(target)
    return LanguageModel(name, weights, tokenizer, quantization, again, asked)


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
    language_model = LanguageModel(type(model).__name__, model, tokenizer)
    if not is_causal(model):
        raise ArgumentError(not_causal(model))
    return language_model


def _load_weights(name: str, source: _Source) -> PreTrainedModel:
    with _load_errors(f"the model {name!r}"):
        model = _load_any(name, source)
        settle_layers(model)
        model.eval()  # type: ignore[no-untyped-call]
        if not is_causal(model):
            raise ModelLoadError(not_causal(model))
    return model


def _load_any(name: str, source: _Source, above: tuple[ModelName, ...] = ()) -> PreTrainedModel:
    """Load a GGUF file, an adapter with its base model, or safetensors files."""
    folder = folder_of(source.name, source.revision)
    if source.name.gguf_file is not None:
        return _load_gguf(name, folder, source)
    adapter = find_adapter(Path(folder))
    if adapter is None:
        return _load_safetensors(name, folder, source)

    def load_base(base: str, revision: str | None) -> PreTrainedModel:
        if source.quantization is not None:
            raise ArgumentError(
                f"an adapter is not merged into quantized weights: leave quantization="
                f"{source.quantization!r} out, or merge {name!r} with peft and save it first"
            )
        place = parse_name(base)
        if place in (source.name, *above):
            raise ModelLoadError("this is the adapter itself, or one that needs it as its base")
        return _load_any(
            base, replace(source, name=place, revision=revision), (source.name, *above)
        )

    return merge(adapter, load_base)


def _load_safetensors(name: str, folder: str, source: _Source) -> PreTrainedModel:
    check_weights(Path(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    is_quantized = is_stored_quantized(name, config, source.quantization)
    quantize = quantization_config(source.quantization, source.dtype)
    auto = _auto_class(config)
    if quantize is None and not is_quantized:
        return _load(folder, source, auto)
    # transformers takes None as "do not quantize", even if the stored weights are quantized.
    options = {} if quantize is None else {"quantization_config": quantize}
    # Quantized weights cannot be moved after loading.
    return _load(folder, source, auto, device_map={"": source.device}, **options)


def _auto_class(config: PreTrainedConfig) -> Any:
    """Return the class that builds a model that writes text, which may read images or sound too."""
    kind = type(config)
    reads_more = kind in MODEL_FOR_MULTIMODAL_LM_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForMultimodalLM if reads_more else AutoModelForCausalLM


def _load_gguf(name: str, folder: str, source: _Source) -> PreTrainedModel:
    if source.quantization is not None:
        raise ArgumentError(f"{name!r} is quantized already: leave quantization out")
    file = str(source.name.gguf_file)
    metadata = read_metadata(Path(folder, file))
    with gguf_errors():
        model = _load(folder, source, **gguf_options(file))
    apply_generation_settings(model, metadata)
    return model


def _load(folder: str, source: _Source, auto: Any = None, **options: object) -> PreTrainedModel:
    """Load weights of a folder to their device; never runs code, never reads a pickle."""
    auto = auto or AutoModelForCausalLM
    with _build_lock:
        loaded, report = auto.from_pretrained(
            folder,
            dtype=source.dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # `_check_complete` names them
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel = loaded
    _check_complete(model, report["missing_keys"], report["mismatched_keys"])
    if "device_map" not in options:
        model.to(device=source.device)  # type: ignore[call-arg]
    return model


def _check_complete(
    model: PreTrainedModel, missing: Sequence[str], mismatched: Sequence[Sequence[object]]
) -> None:
    """Reject weights that transformers would initialize at random with only a warning."""
    unusable = [*missing, *(str(name) for name, *_ in mismatched)]
    if unusable and is_encoder(model):
        raise ModelLoadError(not_causal(model))
    if unusable:
        raise ModelLoadError(
            f"{len(unusable)} weights are missing or of the wrong shape, such as {min(unusable)}"
        )


def load_tokenizer(name: str, folder: str, gguf_file: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, from the folder of its files."""
    with _load_errors(f"the tokenizer of {name!r}"):
        options = {} if gguf_file is None else {"gguf_file": gguf_file}
        if gguf_file is not None:
            check_tokenizer(Path(folder, gguf_file))
        elif (adapter := find_adapter(Path(folder))) and not adapter.has_tokenizer:
            base = parse_name(adapter.base)
            return load_tokenizer(name, folder_of(base, adapter.base_revision), base.gguf_file)
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    tokenizer: PreTrainedTokenizerBase = loaded
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
