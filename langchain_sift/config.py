"""What a user may set about training and about answering: frozen, checked, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from langchain_sift.checks import (
    check_integer,
    check_not_negative,
    check_positive,
)
from langchain_sift.errors import ArgumentError

ON_FAILURE = ("base", "raise")

API_KEY_VARIABLE = "LANGCHAIN_SIFT_API_KEY"
"""Environment variable with the token of a server that has only one tenant."""

Mode = Literal["base", "rag", "ttft", "both"]
"""How a prompt's documents are used: not at all, as context, for fine-tuning, or for both."""

MODES: tuple[Mode, ...] = get_args(Mode)


def adds_context(mode: str) -> bool:
    """Tell whether a mode puts the documents before the prompt."""
    return mode in {"rag", "both"}


def fine_tunes(mode: str) -> bool:
    """Tell whether a mode fine-tunes the model on the documents."""
    return mode in {"ttft", "both"}


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

    max_gradient_norm: float | None = 1.0
    """A step's gradient is scaled down to this length, as in Hardt & Sun's experiments
    (arXiv 2305.18466). Near 0 a document teaches as much as any other; None: no limit."""

    max_update: float | None = 1.0
    """Largest Frobenius norm of all updates together, as a share of the norm of the weights that
    they are added to; a larger update is scaled down to it. Training seldom comes near 1, which
    is there for documents that are made to break a model. None: no limit."""

    gradient_reuse: int = 1
    """Where a document follows itself, its gradient is computed every so many steps only, and
    used again between (HullFT, arXiv 2605.30337, which takes 2). 1: computed for each step."""

    max_documents: int | None = None
    """Documents learned from, repeats counted, and those too short to learn from not; None: all."""

    max_train_tokens: int | None = None
    """Training ends before the step that would go beyond so many tokens; None: no limit."""

    max_train_seconds: float | None = None
    """Training ends before the first step that would begin later than this, but for the first
    step. The model answers with what it has learned, the most informative documents, and a
    slower moment learns less: the same question may get another answer. None: no limit."""

    min_gain: float = 0.0
    """Where the documents reduce the prior variance of the prompt by less (SIFT's gains, between
    0 and 1, summed), nothing is learned and the base model answers. Needs a `SIFTRetriever` that
    the model or a chain asks, or documents of one with a `score_key`; what others bring is not
    known, and is learned from. At 0 whatever is retrieved is learned from, at 1 nothing ever is."""

    on_failure: str = "base"
    """What a training that cannot be finished (a loss that is not finite, memory that does not
    suffice) leads to: "base", an answer of the base model, or "raise", a `TrainingError`."""

    gradient_checkpointing: bool = False
    """Whether activations are computed again for the backward pass: a third slower, and the
    memory of one layer in place of all. For long documents."""

    drift_texts: tuple[str, ...] = ()
    """Texts that the model is to predict after fine-tuning no worse than before: its general
    ability, or how it is to behave. Costs a forward pass over them for each prompt. Documents
    are training data that nobody vetted; this bounds what they can do to what is measured on
    these texts, and to nothing else."""

    max_drift: float = 0.5
    """By how many nats per token the loss on `drift_texts` may rise; beyond, the base model
    answers. At 0 hardly any fine-tuning is let through."""

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ArgumentError: If a value is out of range.
        """
        check_integer("lora_rank", self.lora_rank, 1)
        check_integer("steps_per_document", self.steps_per_document, 1)
        check_integer("max_length", self.max_length, 2)
        check_integer("gradient_reuse", self.gradient_reuse, 1)
        check_integer("max_documents", self.max_documents, 1, optional=True)
        check_integer("max_train_tokens", self.max_train_tokens, 1, optional=True)
        check_positive("lora_alpha", self.lora_alpha)
        check_positive("max_gradient_norm", self.max_gradient_norm, optional=True)
        check_positive("max_update", self.max_update, optional=True)
        check_positive("max_train_seconds", self.max_train_seconds, optional=True)
        check_not_negative("min_gain", self.min_gain)
        check_not_negative("max_drift", self.max_drift)
        if self.on_failure not in ON_FAILURE:
            raise ArgumentError(f"on_failure must be one of {ON_FAILURE}, got {self.on_failure!r}")
        if isinstance(self.drift_texts, str):
            raise ArgumentError("drift_texts must be a sequence of texts, got one text")
        object.__setattr__(self, "drift_texts", tuple(self.drift_texts))
        check_not_negative("learning_rate", self.learning_rate)
        if isinstance(self.target_modules, str):
            if self.target_modules != "all-linear":
                raise ArgumentError(
                    'target_modules must be "all-linear" or a tuple of module names, '
                    f"got {self.target_modules!r}"
                )
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

    keep_special_tokens: bool = False
    """Whether the answer shows the tokenizer's special tokens, as marks of tool calls may be."""

    seed: int | None = None
    """Of the sampling: the same seed, the same answer. None: another each time."""

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ArgumentError: If a value is out of range.
        """
        check_integer("max_tokens", self.max_tokens, 1)
        check_not_negative("temperature", self.temperature)
        if self.seed is not None:
            check_integer("seed", self.seed, 0)
            if self.seed >= 1 << 63:
                raise ArgumentError(f"seed must be below 2**63, got {self.seed}")
        object.__setattr__(self, "stop", _strings("stop", self.stop))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one engine does at once, and how much it lets wait."""

    max_batch_size: int = 8
    """Prompts that are trained and answered together. Each needs a slot: 18 bytes for each
    weight of its adapter. At 1 each prompt is alone, and the same bits come out whoever else
    asks; more are faster together, and equal to rounding."""

    gather_seconds: float = 0.02
    """How long the engine waits for requests that have been admitted and are on their way, so
    that they can be trained together. A request that is alone never waits."""

    max_requests: int = 256
    """Requests admitted at once, those at work included; one more is refused at once."""

    max_tokens: int = 4_000_000
    """Training tokens of all requests admitted at once."""

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ArgumentError: If a value is out of range.
        """
        check_integer("max_batch_size", self.max_batch_size, 1)
        check_integer("max_requests", self.max_requests, 1)
        check_integer("max_tokens", self.max_tokens, 1)
        check_not_negative("gather_seconds", self.gather_seconds)

    @property
    def at_once(self) -> int:
        """Number of prompts of one list to submit at once.

        Enough to keep the batches full, and few enough that no list is refused for its length.
        """
        return min(max(2, 2 * self.max_batch_size), self.max_requests)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, Iterable) and not isinstance(value, str):
        strings = tuple(value)
        if all(string and isinstance(string, str) for string in strings):
            return strings
    raise ArgumentError(f"{name} must be a sequence of non-empty strings, got {value!r}")
