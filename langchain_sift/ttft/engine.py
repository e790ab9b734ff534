"""One frozen model, and the slot in which one prompt after another fine-tunes it.

The slot is a second set of modules over the same weights, with its own adapter. A request has
it alone, so no request can see another's adapter; it is reset in place when the request ends,
however it ends; the base weights are never written to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError, BusyError
from langchain_sift.ttft.adapter import add_adapter, share_weights
from langchain_sift.ttft.generation import TokenStream
from langchain_sift.ttft.loading import LanguageModel
from langchain_sift.ttft.scoring import negative_log_likelihood
from langchain_sift.ttft.tokens import tokenize_documents
from langchain_sift.ttft.training import TrainingRecord, train


def never() -> bool:
    """Return False: the request is never cancelled."""
    return False


@dataclass(frozen=True, slots=True)
class FineTunedModel:
    """The model as one prompt's documents left it; usable inside `Engine.finetune` only."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    training: TrainingRecord

    def generate(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        *,
        should_stop: Callable[[], bool] = never,
    ) -> TokenStream:
        """Return the answer to a prompt of token ids, to be iterated over."""
        return TokenStream(self.model, self.tokenizer, prompt, config, should_stop=should_stop)

    def negative_log_likelihood(self, context: Sequence[int], target: Sequence[int]) -> float:
        """Return the negative log-likelihood of `target` after `context`, in nats."""
        return negative_log_likelihood(self.model, context, target)


class Engine:
    """Fine-tunes one model, for one prompt at a time, and gives it back as it was."""

    def __init__(self, language_model: LanguageModel, config: FineTuneConfig) -> None:
        """Prepare the slot.

        Args:
            language_model: Shared with whoever else uses it; never changed.
            config: The recipe.

        Raises:
            ArgumentError: If `config.target_modules` names no layer of the model.
        """
        self.language_model = language_model
        self.config = config
        with torch.inference_mode(mode=False):  # else the adapter could never be trained
            self._model = share_weights(language_model.model)
            self._adapter = add_adapter(self._model, config)
        self._turn = threading.Lock()

    @contextmanager
    def finetune(
        self,
        texts: Sequence[str],
        *,
        should_stop: Callable[[], bool] = never,
        max_wait: float = 600.0,
    ) -> Iterator[FineTunedModel]:
        """Train on the texts, most informative first, and lend the model until the block ends.

        Without texts, the model lent is the base model, exactly.

        Args:
            texts: Documents; one may occur more than once.
            should_stop: Asked before each gradient step; where it returns True, training ends.
            max_wait: Seconds to wait for the requests before this one.

        Raises:
            BusyError: If the turn did not come in `max_wait` seconds.
        """
        if not self._turn.acquire(timeout=max_wait):
            msg = f"the model was busy for {max_wait} s: raise max_wait, or ask less at once"
            raise BusyError(msg)
        try:
            yield FineTunedModel(
                self._model, self.language_model.tokenizer, self._train(texts, should_stop)
            )
        finally:
            self._adapter.reset()
            self._turn.release()

    def _train(self, texts: Sequence[str], should_stop: Callable[[], bool]) -> TrainingRecord:
        if not texts:
            return TrainingRecord(fallback="no document to learn from")
        documents = tokenize_documents(
            self.language_model.tokenizer,
            texts,
            max_length=min(self.config.max_length, self.language_model.context_length),
        )
        return train(
            self._model,
            self._adapter,
            documents,
            self.config,
            given=len(texts),
            should_stop=should_stop,
        )

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Reject a prompt that leaves no room for an answer.

        Raises:
            ArgumentError: If the prompt is empty or fills the model's context.
        """
        limit = self.language_model.context_length
        if not 0 < len(prompt) < limit:
            msg = f"the prompt must have from 1 to {limit - 1} tokens, got {len(prompt)}"
            raise ArgumentError(msg)


# Whoever asks for the same weights with the same recipe shares a slot, and waits for a turn.
_engines: weakref.WeakValueDictionary[tuple[int, int, FineTuneConfig], Engine] = (
    weakref.WeakValueDictionary()
)
_making = threading.Lock()


def shared_engine(language_model: LanguageModel, config: FineTuneConfig) -> Engine:
    """Return the engine of these weights, this tokenizer and this recipe; made at most once.

    Raises:
        ArgumentError: As `Engine`.
    """
    key = (id(language_model.model), id(language_model.tokenizer), config)
    with _making:
        engine = _engines.get(key)
        if engine is None:
            engine = Engine(language_model, config)
            _engines[key] = engine
        return engine
