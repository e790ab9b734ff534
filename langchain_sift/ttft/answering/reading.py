"""Let a model read token sequences into a key-value cache, each token once.

Prompts of similar length are read together, padded on the left; a beginning that they share is
read once, and so are equal prompts. Long prompts are read in chunks, so that memory is bounded.
"""

from __future__ import annotations

import inspect
import itertools
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel

from langchain_sift.ttft.answering.key_values import KeyValues, can_join, can_skip, joined
from langchain_sift.ttft.memory.use import is_out_of_memory
from langchain_sift.ttft.model.positions import encoding_switch
from langchain_sift.ttft.training.output_layer import OutputLayer, linear_head
from langchain_sift.ttft.training.passes import split_into_passes

TOKENS_PER_PASS = 32
"""Cost of one more pass over the model, as a number of padding tokens."""

# Maximum number of tokens in one pass over a model.
_TOKENS_AT_ONCE = 4096
_SHORTEST_CHUNK = 64

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""Names of the cache as an argument of a model and in its output: since transformers 5.24, and
before, for attention and for states."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Knows how one model is called with a cache. Keeps nothing of what it reads."""

    names: frozenset[str]
    """Names of the arguments of the model's forward pass."""

    head: OutputLayer | None
    """The result of `linear_head`."""

    can_join: bool = False
    can_skip: bool = False

    switch: float = math.inf
    """The result of `encoding_switch`. What is read has at most so many tokens with its answer."""

    def read(
        self,
        model: PreTrainedModel,
        rows: Sequence[Sequence[int]],
        before: KeyValues | None = None,
    ) -> KeyValues:
        """Read one batch of rows, at least one token each, and return the state after it.

        Args:
            model: The model of this reader.
            rows: Token ids, which are padded on the left.
            before: What the rows continue. It is used up: `fork` it to keep it.
        """
        longest = max(map(len, rows))
        padding = [longest - len(row) for row in rows]
        device = model.device
        tokens = [[0] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        token_ids, attended = torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
        is_padded, cache = any(padding), before.cache if before else _new_cache(model)
        if before is not None:
            attended = torch.cat([before.attended, attended], dim=1)
            is_padded |= before.is_padded
        start = attended.shape[1] - longest
        size = max(_SHORTEST_CHUNK, _TOKENS_AT_ONCE // len(rows))
        state = KeyValues(cache, attended, is_padded, torch.empty(0))
        for first in range(0, longest, size):
            chunk = token_ids[:, first : first + size]
            state.attended = attended[:, : start + first + chunk.shape[1]]
            state.logits = self._pass(model, chunk, state)
        return state

    def step(self, model: PreTrainedModel, token_ids: torch.Tensor, state: KeyValues) -> None:
        """Read one more token of each row, shape (b,)."""
        state.attended = torch.cat([state.attended, torch.ones_like(token_ids)[:, None]], dim=1)
        state.logits = self._pass(model, token_ids[:, None], state)

    def _pass(
        self, model: PreTrainedModel, token_ids: torch.Tensor, state: KeyValues
    ) -> torch.Tensor:
        inputs = self.inputs(token_ids.shape[1], state)
        if self.head is not None:
            states = model.base_model(input_ids=token_ids, **inputs)[0][:, -1]
            # Two dimensions: with three, PyTorch may copy the frozen weights of the head each time.
            return self.head(states)
        if "logits_to_keep" in self.names:
            inputs["logits_to_keep"] = 1
        logits: torch.Tensor = model(input_ids=token_ids, **inputs).logits[:, -1]
        # Clone: a view would keep the logits of all tokens in memory.
        return logits if "logits_to_keep" in self.names else logits.clone()

    def inputs(self, count: int, state: KeyValues) -> dict[str, Any]:
        """Return the arguments of a pass over the last tokens of a state, except for their ids.

        Args:
            count: Number of tokens of the pass.
            state: Its `attended` includes them, its cache does not.
        """
        inputs: dict[str, Any] = {"use_cache": True}
        inputs[next((n for n in CACHE_NAMES if n in self.names), CACHE_NAMES[0])] = state.cache
        attended = state.attended
        if state.is_padded:
            inputs["attention_mask"] = attended
        if "position_ids" in self.names:
            if state.is_padded:
                positions = (attended.cumsum(dim=1) - 1).masked_fill(attended == 0, 0)[:, -count:]
            else:
                end = attended.shape[1]
                positions = torch.arange(end - count, end, device=attended.device)[None]
                positions = positions.expand(len(attended), count)
            inputs["position_ids"] = positions
        return inputs


def _new_cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))


class Route(Protocol):
    """Makes the rows of the next passes go through the adapters of these rows of a whole."""

    def __call__(self, rows: Sequence[int], *, one_token: bool = False) -> None:
        """Set the adapters; with `one_token`, each pass reads one token of each row."""


def read_prompts(
    model: PreTrainedModel,
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    route: Route | None = None,
) -> KeyValues:
    """Read prompts, sorted by length, with as little padding and repetition as pays.

    Args:
        model: The model.
        reader: Its reader, with `can_join` if there are several prompts.
        prompts: Token ids, sorted by length.
        route: None means that all rows go through the model as it is. What prompts have in
            common is then read once.
    """
    if route is not None:
        parts = []
        for first, last in _passes(prompts):
            route(range(first, last))
            parts.append(reader.read(model, prompts[first:last]))
        return joined(parts)
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    beginning = _common_beginning(distinct)
    if reader.can_skip and len(beginning) * (len(distinct) - 1) >= 2 * TOKENS_PER_PASS:
        common = reader.read(model, [beginning])
        rests = [prompt[len(beginning) :] for prompt in distinct]
        parts = [
            reader.read(model, rests[first:last], common.select([0] * (last - first)))
            for first, last in _passes(rests)
        ]
    else:
        parts = [reader.read(model, distinct[first:last]) for first, last in _passes(distinct)]
    state = joined(parts)
    place = {prompt: row for row, prompt in enumerate(distinct)}
    return state.select([place[tuple(prompt)] for prompt in prompts])


def _passes(rows: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return split_into_passes([len(row) for row in rows], overhead=TOKENS_PER_PASS)


def _common_beginning(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the tokens that all rows begin with, at least one token before their ends."""
    first, last = min(rows), max(rows)  # all others lie between them
    pairs = zip(first[:-1], last[:-1], strict=False)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    return first[: min(sum(1 for _ in alike), min(map(len, rows)) - 1)]


_readers: weakref.WeakKeyDictionary[PreTrainedModel, Reader | None] = weakref.WeakKeyDictionary()


def reader_of(model: PreTrainedModel) -> Reader | None:
    """Return the reader of a model; None if its cache does not give what a full pass gives.

    A model is tried once: rows of different length, in two passes and with a copy of the state,
    are compared with a pass over each row alone. Its slots must be at rest.
    """
    if model not in _readers:
        with torch.inference_mode():
            _readers[model] = _tried(model)
    return _readers[model]


def _tried(model: PreTrainedModel) -> Reader | None:
    """Return the reader if reading in parts gives what full passes give."""
    names = frozenset(inspect.signature(model.forward).parameters)
    reader = Reader(names, linear_head(model))
    rows = [[3, 1, 2, 3], [1, 2]]
    more = [[2, 1, 3], [3, 2, 1]]
    try:
        state = reader.read(model, rows)
        copied = state.select([1, 0, 1])
        reader.step(model, torch.tensor([1, 1], device=model.device), state)
        follow = [more[1], more[0], more[1]]
        found = reader.read(model, follow, copied)
        whole = [[*rows[1], *more[1]], [*rows[0], *more[0]], [*rows[1], *more[1]]]
        expected = [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1]
            for row in whole
        ]
    except Exception as error:  # a cache of another kind fails in ways of its own
        if is_out_of_memory(error):
            raise
        return None
    if not _are_close(found.logits, torch.stack(expected)):
        return None
    cache = state.cache
    return Reader(names, reader.head, can_join(cache), can_skip(cache), encoding_switch(model))


def _are_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether logits are equal up to rounding; some are minus infinity in some models."""
    tolerance = torch.finfo(found.dtype).eps ** 0.5 * float(
        expected[expected.isfinite()].abs().max()
    )
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance)
