"""Pair a causal language model with its tokenizer."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_sift.errors import ArgumentError

# Names of the context length in configurations; GPT-2's own is an alias of the first.
_CONTEXT_LENGTHS = ("max_position_embeddings", "seq_length", "max_seq_len")


def context_length_of(config: PreTrainedConfig, name: str) -> int:
    """Return the maximum number of tokens that a model attends to, from its configuration.

    Raises:
        ArgumentError: If the configuration has no such number.
    """
    text = config.get_text_config()
    for key in _CONTEXT_LENGTHS:
        length = getattr(text, key, None)
        if isinstance(length, int) and length > 0:
            return length
    raise ArgumentError(
        f"the configuration of {name} has no context length: set "
        "model.config.max_position_embeddings and pass the loaded model"
    )


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model whose weights never change, and its tokenizer."""

    name: str
    """The hub's name or the folder of the model. For a loaded model, the name of its class."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    quantization: str | None = None
    """The quantization that the weights were loaded with. None means the stored form."""

    again: Callable[[], LanguageModel] | None = field(default=None, repr=False)
    """Loads the same model, in another process. None means a model that was passed loaded."""

    requested_device: str | None = None
    """The device that was asked for. None means the default of each machine."""

    def __post_init__(self) -> None:
        """Reject a model and a tokenizer that cannot work together.

        Special tokens that no text begins or ends with may be missing from the model, as in some
        published models. A text that contains one is rejected later.

        Raises:
            ArgumentError: If weights are offloaded, or the model lacks a token of the tokenizer.
        """
        if any(weights.device.type == "meta" for weights in self.model.parameters()):
            raise ArgumentError(
                f"weights of {self.name} are offloaded to main memory or disk, and cannot be "
                "fine-tuned there: load the model onto devices with room for all its weights"
            )
        size = self.vocabulary_size
        if len(self.tokenizer) > size and (unknown := _unknown_tokens(self.tokenizer, size)):
            raise ArgumentError(
                f"the tokenizer has {len(self.tokenizer)} tokens, but {self.name} has only {size} "
                f"and lacks {unknown[0]!r}: pass the model's own tokenizer, or call "
                "model.resize_token_embeddings(len(tokenizer)) first"
            )

    def __copy__(self) -> LanguageModel:
        """Return the model itself: nothing of it ever changes."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> LanguageModel:
        """Return the model itself."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle how a named model is loaded; of a model that was passed loaded, the weights."""
        if self.again is not None:
            return self.again, ()
        return LanguageModel, (self.name, self.model, self.tokenizer, self.quantization)

    @functools.cached_property
    def context_length(self) -> int:
        """Maximum number of tokens that the model attends to, from its configuration.

        The tokenizer's `model_max_length` does not count: it is often missing or of another
        model.

        Raises:
            ArgumentError: If the configuration has no such number.
        """
        return context_length_of(self.model.config, self.name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights. A trained adapter belongs to these weights only."""
        digest = hashlib.sha256()
        for name, weights in [*self.model.named_parameters(), *self.model.named_buffers()]:
            digest.update(f"{name} {weights.dtype} {tuple(weights.shape)} ".encode())
            flat = weights.detach().contiguous().flatten().view(torch.uint8)
            digest.update(flat.cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the model can read."""
        return int(self._embeddings.num_embeddings)

    def check_token_ids(self, token_ids: Sequence[int]) -> None:
        """Check that the model knows all tokens.

        Raises:
            ArgumentError: If it does not. On a GPU, one index beyond the embeddings would break the
                whole process.
        """
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.vocabulary_size:
                raise ArgumentError(
                    f"token {token_id} is not in the model's vocabulary of {self.vocabulary_size}"
                )

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings, which token ids must be on."""
        device: torch.device = self._embeddings.weight.device
        return device

    @property
    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()


def _unknown_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Return the tokens beyond an embedding of this size that ordinary texts contain."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    rare = special - {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    ids = tokenizer.get_vocab()
    return [token for token in ids if ids[token] >= size and token not in rare]


# Settings of a model that define its special tokens or change the probability of the next token,
# except for those of `sampling.with_recommended`, which a call may change. All others choose a
# search (beams, drafts), or change what is returned and when it ends.
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SCORES = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "remove_invalid_values",
    "sequence_bias",
    "suppress_tokens",
    "watermarking_config",
)


def model_settings(model: PreTrainedModel) -> transformers.GenerationConfig:
    """Return those settings of the model that apply to every answer.

    transformers' `generate` takes each setting that a call omits, such as the number of beams,
    from the model.
    """
    kept = {name: getattr(model.generation_config, name, None) for name in _TOKENS + _SCORES}
    return transformers.GenerationConfig(**kept)  # type: ignore[no-untyped-call]


def changes_scores(settings: transformers.GenerationConfig) -> bool:
    """Return True if settings of a model change the probability of the next token."""
    return any(getattr(settings, name, None) for name in _SCORES)
