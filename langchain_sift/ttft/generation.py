"""Generate the answers to several prompts at once, each with its own length, end and seed.

The loop, the cache and the masks are those of transformers' `generate`. A logits processor
samples each row's next token; a stopping criterion decodes it and ends the rows that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.decoding import AnswerDecoder

# Settings of a model that define its special tokens or change the probability of the next token.
# All others choose a search (beams, drafts), or change what is returned and when it ends.
_MODEL_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "bad_words_ids",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "remove_invalid_values",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
    "watermarking_config",
)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt to continue, and the callbacks for its answer."""

    prompt: Sequence[int]
    """Token ids. The model's context has room for them and `config.max_tokens` more."""

    config: GenerationConfig

    on_text: Callable[[str], bool]
    """Called after each token with the text that it completes, perhaps none, up to the first stop
    string. If it returns True, the answer ends there."""

    on_end: Callable[[int, str], object]
    """Called with the number of tokens and the reason, "stop" or "length", when the answer is
    complete. Other rows may go on."""


def model_settings(model: PreTrainedModel) -> transformers.GenerationConfig:
    """Return those settings of the model that apply to every answer.

    transformers' `generate` takes each setting that a call omits, such as the number of beams,
    from the model.
    """
    kept = {name: getattr(model.generation_config, name, None) for name in _MODEL_SETTINGS}
    return transformers.GenerationConfig(**kept)  # type: ignore[no-untyped-call]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    continuations: Sequence[Continuation],
) -> None:
    """Generate all answers; row i of the batch is continuation i.

    Args:
        model: Any causal language model. Its `generation_config` is a `model_settings`.
        tokenizer: The model's tokenizer.
        continuations: At least one. `split_to_fit` tells how many fit into the context together.
    """
    longest = max(len(row.prompt) for row in continuations)
    # Padded on the left, so that each row's next token follows its prompt.
    padding = [longest - len(row.prompt) for row in continuations]
    input_ids = torch.tensor(
        [[0] * pad + list(row.prompt) for pad, row in zip(padding, continuations, strict=True)],
        device=model.device,
    )
    attended = torch.arange(longest, device=model.device) >= torch.tensor(
        padding, device=model.device
    ).unsqueeze(1)
    settings: Any = model.generation_config
    # A chat model's end of turn may be known to its tokenizer alone.
    end_tokens = _token_set(settings.eos_token_id) | _token_set(tokenizer.eos_token_id)
    config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(row.config.max_tokens for row in continuations),
        do_sample=False,
        eos_token_id=sorted(end_tokens) or None,
        bos_token_id=settings.bos_token_id,
        pad_token_id=settings.pad_token_id if settings.pad_token_id is not None else 0,
    )
    sampling = _Sampling(continuations, model.device)
    rows_done = _RowsDone(tokenizer, continuations, end_tokens)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=attended.long(),
            generation_config=config,
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([rows_done]),
        )


def split_to_fit(
    continuations: Sequence[Continuation], context_length: int
) -> Iterator[tuple[int, int]]:
    """Split continuations into runs that fit into the context together.

    A row that is done grows with the others of its run, beyond the end of its answer, and some
    models have no positions there.

    Yields:
        The first index of each run, and the index after its last.
    """
    first = 0
    longest = new = 0
    for index, continuation in enumerate(continuations):
        longest = max(longest, len(continuation.prompt))
        new = max(new, continuation.config.max_tokens)
        if index > first and longest + new > context_length:
            yield first, index
            first = index
            longest, new = len(continuation.prompt), continuation.config.max_tokens
    if first < len(continuations):
        yield first, len(continuations)


def _token_set(token_ids: int | Sequence[int] | None) -> frozenset[int]:
    if token_ids is None:
        return frozenset()
    return frozenset([token_ids] if isinstance(token_ids, int) else token_ids)


class _Sampling(LogitsProcessor):
    """Makes the likeliest token a sample, for rows with a temperature above 0.

    With Gumbel noise added to log p / temperature, the largest is a draw from the softmax
    (Gumbel 1954; Maddison et al., arXiv 1411.0030). Each row has a generator of its own, so its
    sample depends neither on the other rows nor on other threads of the process.
    """

    def __init__(self, continuations: Sequence[Continuation], device: torch.device) -> None:
        self._temperatures = [_in_float32(row.config.temperature) for row in continuations]
        self._generators = []
        for row in continuations:
            generator = torch.Generator(device)
            if row.config.seed is None:
                generator.seed()
            else:
                generator.manual_seed(row.config.seed)
            self._generators.append(generator)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        if not any(self._temperatures):
            return scores
        scores = scores.float().clone()
        for row, temperature in enumerate(self._temperatures):
            if temperature > 0:
                noise = torch.empty_like(scores[row])
                noise.exponential_(generator=self._generators[row]).log_().neg_()
                # With a maximum of 0, the score of the likeliest token cannot overflow.
                scores[row] = (scores[row] - scores[row].max()) / temperature + noise
        return scores


def _in_float32(temperature: float) -> float:
    """Return the nearest finite temperature that float32 has; 0 stays 0, others stay above."""
    range_ = torch.finfo(torch.float32)
    return 0.0 if temperature == 0 else min(max(temperature, range_.tiny), range_.max)


class _RowsDone(StoppingCriteria):
    """Passes each row's new token to its continuation, and returns which rows are done."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        continuations: Sequence[Continuation],
        end_tokens: frozenset[int],
    ) -> None:
        self._rows = [(c, AnswerDecoder(tokenizer, c.config, end_tokens)) for c in continuations]
        self._done = [False] * len(self._rows)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: object) -> torch.Tensor:
        del scores
        for row, token_id in enumerate(input_ids[:, -1].tolist()):
            if not self._done[row]:
                continuation, decoder = self._rows[row]
                stopped = continuation.on_text(decoder.add(token_id))
                if stopped or decoder.finish_reason is not None:
                    self._done[row] = True
                    continuation.on_end(decoder.tokens, decoder.finish_reason or "stop")
        return torch.tensor(self._done, device=input_ids.device)
