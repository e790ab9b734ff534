"""Merge a PEFT adapter into its base model, so that fine-tuning starts from both.

PEFT is imported only if there is an adapter: other models do not need it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from langchain_sift.errors import ArgumentError, ModelLoadError, require

# ruff: noqa: PLC0415

_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PROBE_TOKENS = 64
# Error of the merged weights, as a share of what the adapter changes, and in roundings of logits.
# In bfloat16, adapters of `learn` for SmolLM2-135M-Instruct have 0.2 to 0.3. An adapter that the
# rounding of weights swallows has 1.
_TOLERANCE = 0.5
_ROUNDINGS = 8.0
_WRAPPED = (".modules_to_save.", ".original_module.")
_STORED = ("", ".base_layer", ".modules_to_save")
_TASKS = (None, "CAUSAL_LM")


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """A folder with an adapter, which names its base model."""

    folder: Path
    base: str
    """Name of the base model, as `model` of `load_language_model`."""

    base_revision: str | None

    @property
    def has_tokenizer(self) -> bool:
        """True if the adapter brings a tokenizer, which may have more tokens than the base's."""
        return (self.folder / "tokenizer_config.json").is_file()


def find_adapter(folder: Path) -> StoredAdapter | None:
    """Return the adapter in a folder; None if it holds none.

    Raises:
        ModelLoadError: If it names no base model, cannot be merged, or is a pickle.
    """
    if not (folder / _CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        base, revision = config.get("base_model_name_or_path"), config.get("revision")
    except (ValueError, AttributeError) as error:
        raise ModelLoadError(f"{_CONFIG} of the adapter is damaged: {error}") from error
    _check_mergeable(config)
    if not isinstance(base, str) or not base:
        raise ModelLoadError(
            "the adapter names no base model: write it into the "
            f'"base_model_name_or_path" of its {_CONFIG}'
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelLoadError(
            f"the adapter has no {ADAPTER_WEIGHTS}, and a pickle is never read because it can run "
            "code: load it with peft where you trust it, and save it with save_pretrained"
        )
    return StoredAdapter(folder, base, revision if isinstance(revision, str) else None)


def _check_mergeable(config: Mapping[str, Any]) -> None:
    """Reject an adapter that changes more than the weights of a causal model."""
    require("ttft", "peft")
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    kind, task = str(config.get("peft_type")), config.get("task_type")
    tuners = {key.value: tuner for key, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    if kind not in tuners:
        raise ModelLoadError(f"the installed peft does not know adapters of the type {kind!r}")
    if not hasattr(tuners[kind], "merge_and_unload"):
        raise ModelLoadError(
            f"an adapter of the type {kind!r} cannot be merged into weights: use one that can, "
            "such as LORA"
        )
    if task not in _TASKS:
        raise ModelLoadError(f"the adapter is for the task {task!r}, not for 'CAUSAL_LM'")


def merge(
    adapter: StoredAdapter, load_base: Callable[[str, str | None], PreTrainedModel]
) -> PreTrainedModel:
    """Load the base model, and add the adapter to its weights.

    Args:
        adapter: The adapter.
        load_base: Loads a copy of the base model, which nobody else uses.

    Raises:
        ModelLoadError: If the base model cannot be loaded, or the adapter belongs to another.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        base = load_base(adapter.base, adapter.base_revision)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"its adapter needs the base model {adapter.base!r}: {error}; if the base is "
            f"elsewhere, write its place into {_CONFIG}"
        ) from error
    if getattr(base, "quantization_method", None) is not None:
        raise ModelLoadError(
            f"its adapter is not merged into the quantized base model {adapter.base!r}: write the "
            f"name of the unquantized model into {_CONFIG}"
        )
    _check_undamaged(adapter)
    misfit = f"its adapter does not fit the base model {adapter.base!r} that it names"
    try:
        stored = load_file(adapter.folder / ADAPTER_WEIGHTS)
        _add_rows(base, stored)
        adapted = PeftModel.from_pretrained(base, str(adapter.folder), torch_device="cpu")
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    except Exception as error:  # of many kinds: other layers, other shapes, damaged files
        lines = [*map(str.strip, str(error).splitlines()), ""]
        reason = next((line for line in lines if "size mismatch" in line), lines[0])
        raise ModelLoadError(f"{misfit}: {reason}") from error
    # peft stores layers with added tokens as it wraps them, too.
    needed = {key for key in stored if not any(part in key for part in _WRAPPED)}
    if different := (expected - stored.keys()) | (needed - expected - adapted.state_dict().keys()):
        raise ModelLoadError(
            f"{misfit}: {len(different)} weights are in one of them only, such as {min(different)}"
        )
    model = _merged(adapted)
    model.name_or_path = str(adapter.folder)  # where the tokenizer is looked for
    return model


def _check_undamaged(adapter: StoredAdapter) -> None:
    """Compare the weights with the checksum that `TrainedAdapter.save` has written, if it did."""
    from langchain_sift.ttft.training.trained_adapter import OWN_FILE, TrainedAdapter

    if (adapter.folder / OWN_FILE).is_file():
        try:
            TrainedAdapter.load(adapter.folder)
        except ArgumentError as error:
            raise ModelLoadError(
                f"its adapter is damaged: {error}; if another program has changed it, remove "
                f"{OWN_FILE}"
            ) from error


@torch.no_grad()  # what is made in inference mode has no part in any gradient
def _merged(adapted: Any) -> PreTrainedModel:
    """Add the adapter to the weights, and check that the sum computes what both do."""
    model: PreTrainedModel = adapted.get_base_model()
    token_ids = _probe(model)
    try:
        separate = model(token_ids).logits.float()
        with adapted.disable_adapter():
            effect = (model(token_ids).logits.float() - separate).norm()
        _untie(model)
        model = adapted.merge_and_unload()
    except Exception as error:  # peft's layers raise several
        raise ModelLoadError(f"its adapter cannot be merged into weights: {error}") from error
    error_norm = (model(token_ids).logits.float() - separate).norm()
    rounding = _ROUNDINGS * torch.finfo(model.dtype).eps * separate.norm()
    if not error_norm <= _TOLERANCE * effect + rounding:
        dtype = str(model.dtype).removeprefix("torch.")
        cure = (
            ""
            if model.dtype == torch.float32
            else f"; it may change too little for weights in {dtype}: load it in float32 (dtype)"
        )
        raise ModelLoadError(
            "its adapter cannot be merged into weights: with the adapter merged, the logits differ "
            f"by {error_norm / effect:.1%} of what the adapter changes{cure}"
        )
    return model


def _probe(model: PreTrainedModel) -> torch.Tensor:
    """Return tokens from all of the vocabulary, shape (1, n): the first are often special ones."""
    config = model.config.get_text_config()
    count = min(_PROBE_TOKENS, getattr(config, "max_position_embeddings", _PROBE_TOKENS))
    return torch.linspace(0, config.vocab_size - 1, count, device=model.device).long()[None]


def _untie(model: PreTrainedModel) -> None:
    """Give the output layer its own weights if the adapter changes one of two tied layers."""
    untyped: Any = model
    layers = [untyped.get_input_embeddings(), untyped.get_output_embeddings()]
    first, last = (getattr(layer, "base_layer", layer) for layer in layers)
    is_adapted = [first, last] != layers
    if is_adapted and last is not None and last.weight is first.weight:
        last.weight = torch.nn.Parameter(last.weight.clone())
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def _add_rows(base: PreTrainedModel, stored: Mapping[str, torch.Tensor]) -> None:
    """Add rows for the tokens that were added before the adapter was trained."""
    untyped: Any = base
    embeddings = untyped.get_input_embeddings()
    layers = (embeddings, untyped.get_output_embeddings())
    names = [name for name, module in base.named_modules() if module in layers]
    keys = [f"base_model.model.{name}{part}.weight" for name in names for part in _STORED]
    rows = max((len(stored[key]) for key in keys if key in stored), default=0)
    if rows > embeddings.num_embeddings:
        base.resize_token_embeddings(rows, mean_resizing=False)
