"""Hold what a model has computed for the tokens it has read: its key-value cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


@dataclass(slots=True)
class KeyValues:
    """The state of a model after it has read the rows of a batch."""

    cache: DynamicCache

    attended: torch.Tensor
    """Shape (b, t): 1 for a token, 0 for padding, which no token attends to."""

    is_padded: bool
    """False if no token is padding, so that no mask is needed."""

    logits: torch.Tensor
    """Scores of each row's next token, shape (b, vocabulary)."""

    def fork(self) -> KeyValues:
        """Return a copy that can read on, while this one stays as it is."""
        cache = copy.copy(self.cache)
        cache.layers = [_copy_layer(layer) for layer in self.cache.layers]
        return KeyValues(cache, self.attended, self.is_padded, self.logits)

    def select(self, rows: Sequence[int]) -> KeyValues:
        """Return a copy with these rows, which may repeat."""
        if list(rows) == list(range(len(self.attended))):
            return self.fork()
        index: Any = torch.tensor(rows, device=self.attended.device)
        chosen = self.fork()
        chosen.cache.reorder_cache(index)
        chosen.attended, chosen.logits = self.attended[index], self.logits[index]
        return chosen

    def make_room(self, tokens: int) -> None:
        """Allocate memory for this many more tokens, so that none is copied for each of them."""
        layers = self.cache.layers = list(self.cache.layers)
        for number, layer in enumerate(layers):  # one by one: the cache is never held twice
            if type(layer) in {DynamicLayer, _RoomyLayer}:
                layers[number] = _RoomyLayer(layer, tokens)


def joined(parts: Sequence[KeyValues]) -> KeyValues:
    """Return the rows of all parts in one batch, padded on the left; `can_join` must be True.

    The parts are used up, layer by layer, so that the cache is never held twice.
    """
    if len(parts) == 1:
        return parts[0]
    longest = max(part.attended.shape[1] for part in parts)
    attended = [F.pad(part.attended, (longest - part.attended.shape[1], 0)) for part in parts]
    whole = parts[0].fork()
    for layers in zip(whole.cache.layers, *(part.cache.layers for part in parts), strict=True):
        target: Any = layers[0]
        target.keys, target.values = (
            _joined_states([getattr(layer, name) for layer in layers[1:]])
            for name in ("keys", "values")
        )
        for layer in layers[1:]:
            layer.keys = layer.values = None
        if isinstance(target, DynamicSlidingWindowLayer):
            target.cumulative_length = longest
    is_padded = any(part.is_padded or part.attended.shape[1] < longest for part in parts)
    logits = torch.cat([part.logits for part in parts])
    return KeyValues(whole.cache, torch.cat(attended), is_padded, logits)


def can_join(cache: DynamicCache) -> bool:
    """Return True if each layer of a cache is attention, whose rows can be padded later."""
    return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in cache.layers)


def can_skip(cache: DynamicCache) -> bool:
    """Return True if padding may be in the middle: each layer attends to all tokens before it."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _joined_states(states: Sequence[torch.Tensor]) -> torch.Tensor:
    longest = max(state.shape[-2] for state in states)
    return torch.cat([F.pad(state, (0, 0, longest - state.shape[-2], 0)) for state in states])


def _copy_layer(layer: Any) -> Any:
    """Copy a layer; states that later tokens overwrite are copied as well."""
    clone = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in value.items()}
            setattr(clone, name, kept)
    return clone


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Writes new tokens into memory that is there already."""

    def __init__(self, layer: Any, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._keys, self.keys = _with_room(layer.keys, room)
        self._values, self.values = _with_room(layer.values, room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens, and return all."""
        assert self.keys is not None  # noqa: S101 - since the layer was made
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values


def _with_room(states: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memory for the states and more, and the states in it."""
    length = states.shape[-2]
    memory = states.new_empty((*states.shape[:-2], length + room, states.shape[-1]))
    memory[:, :, :length] = states
    return memory, memory[:, :, :length]
