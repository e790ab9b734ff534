"""Measure the loss on the texts that fine-tuning must not make less likely."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import plain_tokens
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.output_layer import OutputLayer

_MAX_BASE_LOSSES = 64  # sets of texts whose loss under the base model is kept


def check_drift_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that each text has a token to predict.

    Raises:
        ArgumentError: If one has fewer than two tokens, and so no loss.
    """
    for number, text in enumerate(texts):
        count = len(plain_tokens(tokenizer, text))
        if count < 2:
            raise ArgumentError(
                f"drift_texts[{number}] must have at least 2 tokens, got {count}: without a token "
                "to predict it has no loss; make it longer, or leave it out"
            )


class DriftLosses:
    """The losses on sets of `drift_texts`, in nats per token."""

    def __init__(
        self, model: PreTrainedModel, head: OutputLayer | None, language_model: LanguageModel
    ) -> None:
        """Begin without losses.

        Args:
            model: The model with slots.
            head: The result of `linear_head(model)`.
            language_model: The base model.
        """
        self._model = model
        self._head = head
        self._tokenizer = language_model.tokenizer
        self._context_length = language_model.context_length
        self._base: dict[tuple[str, ...], float] = {}

    def base(self, texts: tuple[str, ...]) -> float:
        """Return the mean loss while all slots rest, measured once for each set of texts."""
        if texts not in self._base:
            if len(self._base) == _MAX_BASE_LOSSES:
                self._base.clear()
            self._base[texts] = self.mean(texts)
        return self._base[texts]

    def mean(self, texts: tuple[str, ...]) -> float:
        """Return the mean loss with the slot in use. A text is cut to the model's context.

        Args:
            texts: At least one text that passes `check_drift_texts`.
        """
        nats, tokens = 0.0, 0
        for text in texts:
            token_ids = plain_tokens(self._tokenizer, text)[: self._context_length]
            pair = (token_ids[:1], token_ids[1:])
            nats += negative_log_likelihoods(self._model, self._head, [pair])[0]
            tokens += len(token_ids) - 1
        return nats / tokens
