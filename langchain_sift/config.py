"""Configure training, generation and the engine's limits: frozen and checked, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from langchain_sift.checks import (
    as_target_modules,
    check_between,
    check_choice,
    check_integer,
    check_not_negative,
    check_positive,
    check_seed,
    instances,
    strings,
)

ON_FAILURE = ("base", "raise")

OBJECTIVES = ("text", "answer", "distill")

KERNELS = ("linear", "rbf")

API_KEY_VARIABLE = "LANGCHAIN_SIFT_API_KEY"
"""Environment variable with the token of a server that has only one tenant."""

STORE_TOKEN_VARIABLE = "LANGCHAIN_SIFT_STORE_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token of the store's server."""

STORE_HEADERS_VARIABLE = "LANGCHAIN_SIFT_STORE_HEADERS"
"""Environment variable with headers for the store's server, one "NAME: VALUE" in each line."""

Mode = Literal["base", "rag", "ttft", "both"]
"""The use of a prompt's documents: none, as context, for fine-tuning, or for both."""

MODES: tuple[Mode, ...] = get_args(Mode)


def adds_context(mode: str) -> bool:
    """Return True if a mode puts the documents into the prompt; "auto" may."""
    return mode in {"rag", "both", "auto"}


def fine_tunes(mode: str) -> bool:
    """Return True if a mode fine-tunes the model on the documents; "auto" may."""
    return mode in {"ttft", "both", "auto"}


@dataclass(frozen=True, slots=True)
class FineTuneConfig:
    """The settings of fine-tuning on the documents of one prompt.

    The default recipe was measured on models of 6, 135 and 270 million parameters:
    examples/evidence/real_models.md.
    """

    lora_rank: int = 16
    """Rank r of the update B A of each weight matrix (LoRA, arXiv 2106.09685). A larger rank can
    express more; that of the smaller side of a matrix, any update. Above it, 64 is the limit."""

    lora_alpha: float = 16.0
    """Scale of the update, which is multiplied by `lora_alpha / lora_rank`. Positive."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: "all-linear" (all linear layers but the output layer, and all
    experts), "attention" (those that mix tokens, state-space layers included), "mlp" (the others of
    the decoder layers, experts included), "last-N" (all of the last N decoder layers, such as
    "last-4"), or the ends of their names, such as ("q_proj", "mlp.down_proj"). On a multimodal
    model only its language model gets any. Routers of experts get one only by name. The rank of
    an expert's adapter is `lora_rank` divided by the number of experts of a token. Weights that
    cannot get an adapter, such as those of some experts, are left out with a warning. So are linear
    layers whose weights a model reads without calling them, such as `dt_proj` of Mamba; to name one
    is an error. `response_metadata["ttft"]` lists the layers that got an adapter and the weights
    left out."""

    learning_rate: float | None = None
    """Learning rate of AdamW. None means the rate at which the first step lowers the loss of its
    document by 0.6 nats per token, to first order, and at most 0.01; the record of the training
    has it. At 0 the model answers as the base model does; at too large a rate it forgets."""

    objective: str = "text"
    """Loss: with "text" on all tokens; with "answer" on the answers of documents that are questions
    and answers or conversations (`language_models.objectives`); with "distill" the
    divergence from the base model with the documents in context."""

    steps_per_document: int = 1
    """Gradient steps on each document before the next document. More than 1 has the effect of
    repeated documents, which harm at the default learning rate: the page that this class names."""

    max_length: int = 1024
    """Maximum number of tokens of a document to train on; the rest is cut off. Never more than
    the model's context."""

    seed: int = 0
    """Seed of the adapter's initial weights. The same seed, documents and prompt give the same
    answer."""

    max_gradient_norm: float | None = 1.0
    """Maximum norm of a step's gradient; a larger gradient is scaled down (arXiv 2305.18466 uses
    1). Near 0 all documents have the same influence. None means no limit."""

    max_update: float | None = 1.0
    """Maximum Frobenius norm of all updates together, relative to the norm of the weights that
    they are added to; a larger update is scaled down. Ordinary training stays far below 1; the
    limit is for documents written to break a model. None means no limit."""

    gradient_reuse: int = 1
    """Number of successive steps on the same document that share one gradient (HullFT,
    arXiv 2605.30337, which uses 2). 1 means that each step computes its gradient."""

    max_documents: int | None = None
    """Maximum number of documents to train on, counting repeats. Documents that are too short do
    not count. None means no limit."""

    max_train_tokens: int | None = None
    """Maximum number of tokens to train on: training stops before the step that would exceed it.
    None means no limit."""

    max_train_seconds: float | None = None
    """Time limit of the training: no step but the first starts later; a teacher ("distill") has
    half of it. The model then answers with the steps that were taken, on the most informative
    documents. A slower machine takes fewer, so that the answer may differ. None means no limit."""

    min_gain: float = 0.0
    """Skip training if the documents' summed SIFT gain, a share of the prior variance from 0 to 1
    (k / (k + λ') at most), is below this; the base model answers. Gains are known for the documents
    of a `SIFTRetriever` that the model or a chain calls, and for those that one with a `gain_key`
    returned; others are always trained on. At 0 no training is skipped, at 1 every training with
    known gains is."""

    on_failure: str = "base"
    """Outcome if training fails because the loss is not finite or memory is short: "base" means
    that the base model answers, "raise" that a `TrainingError` is raised."""

    gradient_checkpointing: bool = False
    """If True, compute activations again in the backward pass: a third slower, and the memory of
    one layer in place of all. For long documents."""

    drift_texts: tuple[str, ...] = ()
    """Texts on which the loss must not rise by more than `max_drift`, such as samples of general
    ability or of wanted behaviour. They bound the damage that documents of unknown origin can do,
    on these texts only. Each has at least two tokens, and they cost each prompt a forward pass."""

    max_drift: float = 0.5
    """Maximum increase of the loss on `drift_texts`, in nats per token; above it, the base model
    answers. At 0 hardly any fine-tuning passes."""

    def __post_init__(self) -> None:
        """Check the values.

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
        check_not_negative("learning_rate", self.learning_rate, optional=True)
        check_positive("max_gradient_norm", self.max_gradient_norm, optional=True)
        check_positive("max_update", self.max_update, optional=True)
        check_positive("max_train_seconds", self.max_train_seconds, optional=True)
        check_not_negative("min_gain", self.min_gain)
        check_not_negative("max_drift", self.max_drift)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("on_failure", self.on_failure, ON_FAILURE)
        check_seed("seed", self.seed)
        object.__setattr__(self, "drift_texts", instances("drift_texts", self.drift_texts, str))
        object.__setattr__(self, "target_modules", as_target_modules(self.target_modules))


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """The texts around the reasoning at the beginning of an answer."""

    opening: str
    closing: str

    begun: bool = False
    """If True, the prompt ends with the opening."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """The settings of one answer."""

    max_tokens: int = 256
    """Maximum number of new tokens; fewer if the context is full before. 0 means none."""

    temperature: float | None = 0.0
    """Sampling temperature. 0 always takes the likeliest token; 1 samples from the model's
    probabilities. None means what the model's `generation_config` recommends, or else 0."""

    top_p: float | None = None
    """Sample only from the likeliest tokens that together have this probability (nucleus sampling,
    arXiv 1904.09751). 1 means all tokens, 0 the likeliest alone. None means what the model's
    `generation_config` recommends, or else all."""

    top_k: int | None = None
    """Sample only from this many of the likeliest tokens. 0 means all. None as in `top_p`."""

    min_p: float | None = None
    """Sample only from tokens with at least this share of the likeliest token's probability
    (arXiv 2407.01082). 0 means all, 1 the likeliest alone. None as in `top_p`."""

    repetition_penalty: float | None = None
    """Divide positive scores of tokens in the prompt or the answer, and multiply negative ones
    (arXiv 1909.05858). Above 1 discourages repetition, 1 has no effect. None means that of the
    model's `generation_config`, or else 1."""

    frequency_penalty: float = 0.0
    """Lower the score of a token by this for each time that the answer contains it, from -2 to 2
    as in OpenAI's API. 0 has no effect."""

    presence_penalty: float = 0.0
    """Lower the score of each token that the answer contains by this, from -2 to 2."""

    stop: tuple[str, ...] = ()
    """Stop strings: the answer ends before the first of them. They do not end an answer in a given
    format or a required call, of which only the whole is valid."""

    keep_special_tokens: bool = False
    """If True, keep the tokenizer's special tokens in the answer: some models mark tool calls
    with them."""

    reasoning: ReasoningMarkers | None = None
    """Markers of reasoning, which is separated from the content. Stop strings end only content.
    None means that all text is content."""

    seed: int | None = None
    """Seed of the sampling: the same seed gives the same answer. None means a new seed for each
    answer."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range.
        """
        object.__setattr__(self, "stop", strings("stop", self.stop))
        check_integer("max_tokens", self.max_tokens, 0)
        check_not_negative("temperature", self.temperature, optional=True)
        check_between("top_p", self.top_p, 0, 1, optional=True)
        check_integer("top_k", self.top_k, 0, optional=True)
        check_between("min_p", self.min_p, 0, 1, optional=True)
        check_positive("repetition_penalty", self.repetition_penalty, optional=True)
        check_between("frequency_penalty", self.frequency_penalty, -2, 2)
        check_between("presence_penalty", self.presence_penalty, -2, 2)
        check_seed("seed", self.seed, optional=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """The capacity of one engine."""

    max_batch_size: int = 8
    """Maximum number of prompts that are trained and answered together. Each that trains needs a
    slot of 18 bytes for each weight of its adapter, 6 of them while it answers (16 and 4 if the
    model's weights are float32). At 1 an answer is the same bit for bit, whatever other
    requests arrive; more are faster, and equal up to rounding."""

    gather_seconds: float = 0.02
    """Maximum time to wait for admitted requests that are not submitted yet, to train them
    together. A request never waits if there is no other."""

    max_requests: int = 256
    """Maximum number of admitted requests, those in training included; further requests are
    refused at once."""

    max_tokens: int = 4_000_000
    """Maximum number of training tokens of all admitted requests together."""

    max_memory_gb: float | None = None
    """Maximum memory in GB (10^9 bytes): of the process on a CPU, of PyTorch on a GPU, the model
    included. Batches are made smaller so that their estimated peak (`ttft.memory.estimate`) is
    below it, and a request that does not fit alone is refused at once. None means no limit."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range.
        """
        check_integer("max_batch_size", self.max_batch_size, 1)
        check_positive("max_memory_gb", self.max_memory_gb, optional=True)
        check_integer("max_requests", self.max_requests, 1)
        check_integer("max_tokens", self.max_tokens, 1)
        check_not_negative("gather_seconds", self.gather_seconds)

    @property
    def at_once(self) -> int:
        """Number of prompts of one list to submit at once.

        Enough to keep the batches full, and few enough that no list is refused for its length.
        """
        return min(max(2, 2 * self.max_batch_size), self.max_requests)
