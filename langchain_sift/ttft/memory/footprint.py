"""Measure the sizes of a model's passes, for the estimates of `memory`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.answering.reading import CACHE_NAMES
from langchain_sift.ttft.memory.estimate import Footprint
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.positions import encoding_switch
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights
from langchain_sift.ttft.training.output_layer import linear_head
from langchain_sift.ttft.training.trainer import checkpoint_layers

_LENGTHS = (4, 8, 16)  # tokens of the passes
_MANY = 1 << 20  # positions, more than any block of the loss has


def measure_footprint(language_model: LanguageModel, config: FineTuneConfig) -> Footprint:
    """Measure how much memory each token needs, by short passes over a copy of the modules.

    Args:
        language_model: The model, which other threads may use.
        config: The settings that shape the adapter.
    """
    with torch.inference_mode(mode=False):
        model = share_weights(language_model.model)
        slots, _ = add_slots(model, config)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    settings: Any = model.config.get_text_config()
    item = model.dtype.itemsize
    vocabulary = language_model.vocabulary_size
    head = linear_head(model)
    cache = _cache_bytes(model) / _LENGTHS[-1]
    slots.use_probe([1.0])
    short, middle, long = (_kept_bytes(model, length) for length in _LENGTHS)
    pair = ((long - middle) / 8 - (middle - short) / 4) / 12
    # On a CPU, the float32 logits of a few positions only exist beside the block.
    of_block = item if head is not None and model.device.type == "cpu" else 8 + item
    return Footprint(
        adapter=slots.size,
        slot_bytes=4 if item == 4 else 4 + item,
        layers=getattr(settings, "num_hidden_layers", 1),
        token=(long - middle) / 8 - 24 * pair,
        pair=pair,
        cache=cache,
        logits=vocabulary * of_block,
        block=None if head is None else head.block_rows(_MANY),
        switch=encoding_switch(model),
    )


def _token_ids(model: PreTrainedModel, length: int) -> torch.Tensor:
    return torch.arange(length, device=model.device)[None]


def _kept_bytes(model: PreTrainedModel, length: int) -> int:
    """Return the bytes of the activations that a training pass over one row keeps."""
    weights = {w.untyped_storage().data_ptr() for w in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        # The states refer to all that is kept: no memory is freed and used again.
        states = model.base_model(input_ids=_token_ids(model, length), use_cache=False)
        del states
    return sum(kept.values())


def _cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of the key-value cache after the longest of the passes."""
    with torch.inference_mode():
        outputs = model.base_model(input_ids=_token_ids(model, _LENGTHS[-1]), use_cache=True)
    cache = next((found for name in CACHE_NAMES if (found := getattr(outputs, name, None))), None)
    states = (state for layer in getattr(cache, "layers", ()) for state in vars(layer).values())
    return sum(state.nbytes for state in states if isinstance(state, torch.Tensor))
