"""What a user may set about training and about answering: frozen, checked, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from langchain_sift.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class FineTuneConfig:
    """How the model learns from the documents of one prompt.

    The defaults follow the recipe of arXiv 2410.08020 for models of one billion parameters
    and more. A much smaller model wants a larger `learning_rate`.
    """

    lora_rank: int = 64
    """Rank r of the update B A of each weight matrix (LoRA, arXiv 2106.09685). At the width of
    the model it could express any update."""

    lora_alpha: float = 16.0
    """The update is scaled by `lora_alpha / lora_rank`; 0 would learn nothing."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Which layers get an adapter: "all-linear" (all but the output layer), or the last parts
    of their names, such as ("q_proj", "v_proj")."""

    learning_rate: float = 5e-4
    """AdamW's step. At 0 the model answers as the base model; too large, and it forgets."""

    steps_per_document: int = 1
    """Gradient steps on each document before the next. More than one resembles choosing the
    same document again, whether or not that helps."""

    max_length: int = 1024
    """Tokens of a document that are learned from; the rest is cut off. Never more than the
    model's context."""

    seed: int = 0
    """Seed of the adapter's initial weights: same seed, documents and prompt, same answer."""

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ArgumentError: If a value is out of range.
        """
        _at_least("lora_rank", self.lora_rank, 1)
        _at_least("steps_per_document", self.steps_per_document, 1)
        _at_least("max_length", self.max_length, 2)
        _positive("lora_alpha", self.lora_alpha)
        _not_negative("learning_rate", self.learning_rate)
        if isinstance(self.target_modules, str):
            if self.target_modules != "all-linear":
                msg = (
                    'target_modules must be "all-linear" or a tuple of module names, '
                    f"got {self.target_modules!r}"
                )
                raise ArgumentError(msg)
        else:
            object.__setattr__(self, "target_modules", tuple(self.target_modules))


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How the model answers."""

    max_tokens: int = 256
    """Largest number of new tokens; fewer where the model's context ends first."""

    temperature: float = 0.0
    """0 always takes the likeliest token; 1 samples as the model predicts."""

    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ArgumentError: If a value is out of range.
        """
        _at_least("max_tokens", self.max_tokens, 1)
        _not_negative("temperature", self.temperature)
        if isinstance(self.stop, str) or not all(self.stop):
            msg = "stop must be a sequence of non-empty strings"
            raise ArgumentError(msg)
        object.__setattr__(self, "stop", tuple(self.stop))


def _at_least(name: str, value: int, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        msg = f"{name} must be an integer of at least {lowest}, got {value!r}"
        raise ArgumentError(msg)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        msg = f"{name} must be positive and finite, got {value!r}"
        raise ArgumentError(msg)


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        msg = f"{name} must be finite and not negative, got {value!r}"
        raise ArgumentError(msg)
