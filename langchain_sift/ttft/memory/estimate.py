"""Estimate the memory of a batch before it runs.

    peak = rest + slots x adapter x bytes + max(teaching, training, scoring, answering)

    rest        the process, or the device, without any batch: above all the weights
    training    slots x adapter x 12 + adapter x 4
                + rows x (t a + t^2 m) x (1 + 1 / layers) + logits
    scoring     tokens x (a + t m) x 1.25 / layers + logits
    answering   max(min(prompts, 4096), u) x (a + t m) x 1.25 / layers + logits
                + c x (prompts + max(answers, copies) + 1 layer of them)

`adapter` is the number of weights of one adapter. A slot has 4 bytes for each, and 2 more for the
rounded copy that a model of 16 bits computes with; while it trains also 4 for the gradient and 8
for AdamW's two moments. All slots have their first weights from one copy.

`t` is the length of the longest text of a pass, to which the others are padded, as in the numbers
of `tokens`, `prompts` and `answers`. A request that only scores has a pass of its own over all its
texts, unless they share a context, which is then read once and needs less. After an answer's
prompt, each text to score has a copy of the prompt's cache; `copies` are the tokens of these texts
with their prompts, of which 16,384 are in memory at a time.

`u` is the number of tokens that must be read in one pass. It is 0, unless a prompt with its answer
exceeds the length at which the model encodes positions otherwise. Such a prompt is not divided, and
the model reads all tokens again when the answer comes to this length.

The activations `a` of a token in all layers, those `m` of a pair of tokens, which only attention
in plain matrices has, and the cache `c` of a token are measured by short passes over the model
(`footprint`), so that they hold for any architecture. The logits are those of one block of
positions, or of all that are scored if the model scales its logits.

With the objective "distill" a teacher works before the training, for one request at a time: it
answers prompts and scores texts as above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TRAINED = 12  # bytes of a gradient and two moments, for each weight of an adapter
_READ_AT_ONCE = 4096  # tokens of prompts in one pass
_COPIED_AT_ONCE = 16_384  # tokens of texts to score and of their prompts
_PASS = 1.25  # activations of a pass without gradients, as a number of layers


@dataclass(frozen=True, slots=True)
class Footprint:
    """The sizes of a model and its adapter, from which `peak` computes, in bytes."""

    adapter: int
    """Number of weights of one adapter."""

    slot_bytes: int
    """Bytes of a slot for each of them."""

    layers: int

    token: float
    """Activations that a training pass keeps for each token."""

    pair: float
    """Activations that it keeps for each pair of tokens of a row."""

    cache: float
    """Key-value cache of each token."""

    logits: int
    """Scores of one position, with what is computed from them at the same time."""

    block: int | None
    """Number of positions whose logits exist at once. None means all positions of a pass."""

    switch: float = math.inf
    """Length in tokens of a prompt with its answer beyond which it must be read in one pass."""


@dataclass(frozen=True, slots=True)
class Load:
    """The lengths, in tokens, that determine the memory of one prompt."""

    document: int = 0
    """Longest document that is trained on. 0 means no training."""

    has_adapter: bool = False
    """True if a trained adapter answers."""

    scored: int = 0
    """Texts to score in a pass of their own, with what precedes them, padded to the longest."""

    longest: int = 0
    """The longest of these."""

    prompt: int = 0
    """The prompt of an answer. 0 means no answer."""

    answer: int = 0
    """Maximum length of the answer."""

    copies: int = 0
    """All texts to score after this prompt, each with the prompt."""

    targets: int = 0
    """All texts to score, without what precedes them."""

    lessons: tuple[Load, ...] = ()
    """The longest of the texts that a teacher writes together, each with the pass that rates it."""


def batch_bytes(footprint: Footprint, loads: Sequence[Load]) -> int:
    """Return the bytes that a batch needs at its peak, beyond those of the model at rest."""
    adapters = sum(1 for load in loads if load.document or load.has_adapter)
    kept = adapters * footprint.adapter * footprint.slot_bytes
    scoring = max(_scoring(footprint, load) for load in loads)
    answering = _answering(footprint, [load for load in loads if load.prompt])
    teaching = max(_teaching(footprint, load.lessons) for load in loads)
    training = _training(footprint, loads, adapters)
    return round(kept + max(teaching, training, scoring, answering))


def _teaching(footprint: Footprint, lessons: Sequence[Load]) -> float:
    rating = max((_scoring(footprint, lesson) for lesson in lessons), default=0.0)
    return max(_answering(footprint, [lesson for lesson in lessons if lesson.prompt]), rating)


def _training(footprint: Footprint, loads: Sequence[Load], adapters: int) -> float:
    rows = sum(1 for load in loads if load.document)
    if rows == 0:
        return 0.0
    length = max(load.document for load in loads)
    activations = rows * _activations(footprint, length) * (1 + 1 / footprint.layers)
    state = (adapters * _TRAINED + 4) * footprint.adapter
    return state + activations + _logits(footprint, rows * length)


def _scoring(footprint: Footprint, load: Load) -> float:
    if load.scored == 0:
        return 0.0
    return _a_pass(footprint, load.scored, load.longest) + _logits(footprint, load.targets)


def _answering(footprint: Footprint, loads: Sequence[Load]) -> float:
    if not loads:
        return 0.0
    longest = max(load.prompt for load in loads)
    prompts = len(loads) * longest
    answers = len(loads) * max(load.answer for load in loads)
    copies = min(_COPIED_AT_ONCE, sum(load.copies for load in loads))
    cached = (prompts + max(answers, copies)) * (1 + 1 / footprint.layers)
    undivided = max(_undivided(footprint, load) for load in loads)
    at_once = max(min(_READ_AT_ONCE, prompts), undivided)
    a_pass = _a_pass(footprint, at_once, max(longest, undivided))
    positions = max(len(loads), sum(load.targets for load in loads))
    return cached * footprint.cache + a_pass + _logits(footprint, positions)


def _undivided(footprint: Footprint, load: Load) -> int:
    """Return the number of tokens that must be read in one pass."""
    if load.prompt + load.answer <= footprint.switch:
        return 0
    return max(load.prompt, int(footprint.switch) + 1)


def _a_pass(footprint: Footprint, tokens: int, longest: int) -> float:
    """Return the bytes of a pass without gradients, which keeps one layer at a time."""
    return _PASS * tokens / longest * _activations(footprint, longest) / footprint.layers


def _activations(footprint: Footprint, length: int) -> float:
    return footprint.token * length + footprint.pair * length**2


def _logits(footprint: Footprint, positions: int) -> float:
    at_once = positions if footprint.block is None else min(positions, footprint.block)
    return at_once * footprint.logits
