"""Answering, token by token: several prompts at once, each with its own length, end and seed.

The loop, the cache and the masks are those of transformers' `generate`. What differs from row
to row is done where it allows it: a logits processor samples, a stopping criterion hands each
row its token and says which rows are done.
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
from langchain_sift.ttft.decoding import StopStrings, TextDecoder

# Of a model's own settings, those that say which tokens are special and change how likely the next
# one is. All others change how an answer is looked for (beams, drafts), kept or ended.
_OWN_SETTINGS = (
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
    """A prompt, and what to do with its answer as it comes."""

    prompt: Sequence[int]
    """Token ids; with `config.max_tokens` no more than the model's context holds."""

    config: GenerationConfig

    should_stop: Callable[[], bool]
    """Asked at each token; where it returns True, the answer ends there."""

    on_text: Callable[[str], None]
    """Told each piece of the text, up to the first stop string."""

    on_end: Callable[[int, str], None]
    """Told the number of tokens and why there are no more, "stop" or "length", once the answer is
    complete; others may go on."""


def own_settings(model: PreTrainedModel) -> transformers.GenerationConfig:
    """Return what of the model's own settings may go into each answer.

    transformers' `generate` takes from the model whatever it is not told, as a number of beams.
    """
    kept = {name: getattr(model.generation_config, name, None) for name in _OWN_SETTINGS}
    return transformers.GenerationConfig(**kept)  # type: ignore[no-untyped-call]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    continuations: Sequence[Continuation],
) -> None:
    """Answer all continuations; row i of the batch is continuation i.

    Args:
        model: Any causal language model, its `generation_config` no more than `own_settings`.
        tokenizer: Its tokenizer.
        continuations: At least one.
    """
    longest = max(len(continuation.prompt) for continuation in continuations)
    # On the left, so that each row's next token follows its prompt.
    padding = [longest - len(continuation.prompt) for continuation in continuations]
    input_ids = torch.tensor(
        [[0] * pad + list(q.prompt) for pad, q in zip(padding, continuations, strict=True)],
        device=model.device,
    )
    attended = torch.arange(longest, device=model.device) >= torch.tensor(
        padding, device=model.device
    ).unsqueeze(1)
    own: Any = model.generation_config
    # A chat model's end of turn may be known to its tokenizer alone.
    ends = _as_set(own.eos_token_id) | _as_set(tokenizer.eos_token_id)
    config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(continuation.config.max_tokens for continuation in continuations),
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        bos_token_id=own.bos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else 0,
    )
    rows = [_Row(tokenizer, continuation, ends) for continuation in continuations]
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=attended.long(),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Sampling(continuations, model.device)]),
            stopping_criteria=StoppingCriteriaList([_RowsAreDone(rows)]),
        )


def fitting(
    continuations: Sequence[Continuation], context_length: int
) -> Iterator[tuple[int, int]]:
    """Yield runs of continuations, first and one after the last, that fit the context together.

    A row that is done goes on beside those that are not, beyond where its own answer ended; some
    models have no positions there.
    """
    first = 0
    longest = new = 0
    for number, continuation in enumerate(continuations):
        longest = max(longest, len(continuation.prompt))
        new = max(new, continuation.config.max_tokens)
        if number > first and longest + new > context_length:
            yield first, number
            first = number
            longest, new = len(continuation.prompt), continuation.config.max_tokens
    if first < len(continuations):
        yield first, len(continuations)


def _as_set(token_ids: int | Sequence[int] | None) -> frozenset[int]:
    if token_ids is None:
        return frozenset()
    return frozenset([token_ids] if isinstance(token_ids, int) else token_ids)


def _in_float32(temperature: float) -> float:
    """Return the nearest temperature that float32 has, above 0 and finite; 0 as it is."""
    range_ = torch.finfo(torch.float32)
    return 0.0 if temperature == 0 else min(max(temperature, range_.tiny), range_.max)


class _Sampling(LogitsProcessor):
    """Makes the likeliest token a sample, for rows of a temperature above 0.

    With Gumbel noise added to log p / temperature, the largest is a draw from the softmax
    (Gumbel 1954; Maddison et al., arXiv 1411.0030). Each row has a generator of its own: what
    it draws does not depend on the rows beside it, nor on other threads of the process.
    """

    def __init__(self, continuations: Sequence[Continuation], device: torch.device) -> None:
        self._temperatures = [
            _in_float32(continuation.config.temperature) for continuation in continuations
        ]
        self._generators = []
        for continuation in continuations:
            generator = torch.Generator(device)
            if continuation.config.seed is None:
                generator.seed()
            else:
                generator.manual_seed(continuation.config.seed)
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
                # With 0 as the largest, the likeliest token's does not overflow.
                scores[row] = (scores[row] - scores[row].max()) / temperature + noise
        return scores


class _RowsAreDone(StoppingCriteria):
    """Hands each row its new token, and returns which rows are done."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.take(token_id)
        return torch.tensor([row.done for row in self._rows], device=input_ids.device)


class _Row:
    """One answer while it is generated."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, continuation: Continuation, ends: frozenset[int]
    ) -> None:
        self.done = False
        self._continuation = continuation
        self._ends = ends
        self._text = TextDecoder(
            tokenizer, keep_special_tokens=continuation.config.keep_special_tokens
        )
        self._until = StopStrings(continuation.config.stop)
        self._tokens = 0

    def take(self, token_id: int) -> None:
        if self.done:
            return
        if self._continuation.should_stop():
            self._finish("")
            return
        self._tokens += 1
        if token_id in self._ends:
            self._finish(self._text.flush())
            return
        self._say(self._until.add(self._text.add(token_id)))
        if self._until.reached:
            self._end("stop")
        elif self._tokens >= self._continuation.config.max_tokens:
            self._finish(self._text.flush(), "length")

    def _finish(self, last: str, reason: str = "stop") -> None:
        self._say(self._until.add(last))
        self._say(self._until.flush())
        self._end("stop" if self._until.reached else reason)

    def _end(self, reason: str) -> None:
        self.done = True
        self._continuation.on_end(self._tokens, reason)

    def _say(self, text: str) -> None:
        if text:
            self._continuation.on_text(text)
