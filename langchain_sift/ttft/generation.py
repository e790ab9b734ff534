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
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.model.turn_ends import turn_ends
from langchain_sift.ttft.sampling import Sampling
from langchain_sift.ttft.stop_strings import StopStrings


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
    # A chat model's end of turn may be known to its tokenizer or its template alone.
    end_tokens = _token_set(settings.eos_token_id) | _token_set(tokenizer.eos_token_id)
    end_tokens |= turn_ends(tokenizer).token_ids
    config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(row.config.max_tokens for row in continuations),
        do_sample=False,
        eos_token_id=sorted(end_tokens) or None,
        bos_token_id=settings.bos_token_id,
        pad_token_id=settings.pad_token_id if settings.pad_token_id is not None else 0,
    )
    sampling = Sampling(
        [row.config for row in continuations],
        [len(row.prompt) for row in continuations],
        model.device,
    )
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


class _RowsDone(StoppingCriteria):
    """Passes each row's new token to its continuation, and returns which rows are done."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        continuations: Sequence[Continuation],
        end_tokens: frozenset[int],
    ) -> None:
        self._rows = [
            (row, AnswerDecoder(tokenizer, row.config, end_tokens, prompt=row.prompt))
            for row in continuations
        ]
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


_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose other bytes are to come


_MAX_DECODED = 16  # with more tokens than this, drop those that no longer matter


class AnswerDecoder:
    """Turns the tokens of one answer into its text, and finds the answer's end."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        end_tokens: frozenset[int],
        *,
        prompt: Sequence[int] = (),
    ) -> None:
        """Start without tokens.

        Args:
            tokenizer: The model's tokenizer.
            config: Settings of the answer: `max_tokens`, `stop` and `keep_special_tokens`.
            end_tokens: Tokens that end an answer.
            prompt: Tokens before the answer.
        """
        self.tokens = 0
        """Number of tokens so far."""
        self.finish_reason: str | None = None
        """"stop" or "length" once the answer is complete."""
        self._max_tokens = config.max_tokens
        self._end_tokens = end_tokens
        self._text = TextDecoder(
            tokenizer, keep_special_tokens=config.keep_special_tokens, prompt=prompt
        )
        self._stop = StopStrings(config.stop) if config.stop else None

    def add(self, token_id: int) -> str:
        """Append a token and return the text that it completes."""
        self.tokens += 1
        if token_id in self._end_tokens:
            return self._finish("stop")
        text = self._text.add(token_id)
        if self._stop is not None:
            text = self._stop.add(text)
        if self._stop is not None and self._stop.reached:
            self.finish_reason = "stop"
        elif self.tokens >= self._max_tokens:
            text += self._finish("length")
        return text

    def _finish(self, reason: str) -> str:
        self.finish_reason = reason
        text = self._text.flush()
        if self._stop is not None:
            text = self._stop.add(text) + self._stop.flush()
            if self._stop.reached:
                self.finish_reason = "stop"
        return text


class TextDecoder:
    """Decodes tokens one by one. A piece of text ends where a character ends."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep_special_tokens: bool,
        prompt: Sequence[int] = (),
    ) -> None:
        """Start without tokens.

        Args:
            tokenizer: The model's tokenizer.
            keep_special_tokens: If True, special tokens are text as well.
            prompt: Tokens before the first. The text can be appended to that of the prompt: some
                tokenizers decode a space before a word only if something precedes it.
        """
        self._tokenizer = tokenizer
        self._skip_special_tokens = not keep_special_tokens
        special = set(tokenizer.all_special_ids)
        self._token_ids = [token for token in prompt[-_MAX_DECODED:] if token not in special][-8:]
        self._text = self._decode(self._token_ids) if self._token_ids else ""
        if self._text.endswith(_INCOMPLETE):
            self._token_ids, self._text = [], ""

    def add(self, token_id: int) -> str:
        """Append a token and return the text that it completes."""
        self._token_ids.append(token_id)
        text = self._decode(self._token_ids)
        if text.endswith(_INCOMPLETE):
            return ""
        piece = text[len(self._text) :]
        self._text = text
        if len(self._token_ids) > _MAX_DECODED and piece:
            self._drop_old_tokens()
        return piece

    def flush(self) -> str:
        """Return the text that was not complete."""
        return self._decode(self._token_ids)[len(self._text) :]

    def _drop_old_tokens(self) -> None:
        """Keep only the last tokens, if decoding them alone gives the end of the text.

        It does not if the first of them is inside a character, which has up to four bytes. Some
        tokenizers drop the space before a first token, so several tokens are kept.
        """
        for count in range(8, 12):
            end = self._decode(self._token_ids[-count:])
            if _INCOMPLETE not in end and self._text.endswith(end):
                self._token_ids = self._token_ids[-count:]
                self._text = end
                return

    def _decode(self, token_ids: list[int]) -> str:
        text: Any = self._tokenizer.decode(
            token_ids,
            skip_special_tokens=self._skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return str(text)
