"""Answering, token by token; whatever ends it, the thread that generates ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from langchain_sift.config import GenerationConfig


class _StopOnRequest(StoppingCriteria):
    """Ends generation at the next token once somebody asks for it."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any
    ) -> torch.BoolTensor:
        del scores
        rows = (input_ids.shape[0],)
        return torch.full(rows, self._should_stop(), device=input_ids.device)  # type: ignore[return-value]


class TokenStream:
    """The text of an answer as it is generated, and the number of its tokens."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        config: GenerationConfig,
        *,
        should_stop: Callable[[], bool],
    ) -> None:
        """Prepare to answer; iterating does it.

        Args:
            model: Any causal language model.
            tokenizer: Its tokenizer.
            prompt: Token ids, fewer than the model's context holds.
            config: Length, temperature and stop strings.
            should_stop: Asked at each token; where it returns True, the answer ends there.
        """
        self.tokens = 0
        self._model = model
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._config = config
        self._closed = threading.Event()
        self._should_stop = lambda: self._closed.is_set() or should_stop()

    def __iter__(self) -> Iterator[str]:
        """Yield the text in pieces, up to the first stop string."""
        streamer = _CountingStreamer(self._tokenizer)
        failures: list[BaseException] = []

        def generate() -> None:
            try:
                self._generate(streamer)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
                failures.append(error)
            finally:
                streamer.text_queue.put(streamer.stop_signal)

        thread = threading.Thread(target=generate, name="langchain-sift-generate", daemon=True)
        thread.start()
        try:
            yield from _until(streamer, self._config.stop)
        finally:
            self._closed.set()
            thread.join()
            self.tokens = streamer.tokens
        if failures:
            raise failures[0]

    def _generate(self, streamer: TextIteratorStreamer) -> None:
        input_ids = torch.tensor([list(self._prompt)], device=self._model.device)
        own = self._model.generation_config
        sampling = {"temperature": self._config.temperature, "top_k": 0, "top_p": 1.0}
        config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._config.max_tokens,
            do_sample=self._config.temperature > 0,
            eos_token_id=own.eos_token_id,
            bos_token_id=own.bos_token_id,
            pad_token_id=own.pad_token_id if own.pad_token_id is not None else 0,
            **(sampling if self._config.temperature > 0 else {}),
        )
        with torch.inference_mode():
            self._model.generate(  # type: ignore[operator]
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=config,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_StopOnRequest(self._should_stop)]),
            )


class _CountingStreamer(TextIteratorStreamer):
    """Decodes as transformers does, and counts the tokens of the answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tokens = 0

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.tokens += value.numel()
        super().put(value)  # type: ignore[no-untyped-call]


def _until(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield the text before the first stop string, which may lie across pieces."""
    held_back = max((len(string) for string in stop), default=1) - 1
    text = ""
    for piece in pieces:
        text += piece
        ends = [place for place in (text.find(string) for string in stop) if place >= 0]
        if ends:
            yield text[: min(ends)]
            return
        safe = len(text) - held_back
        if safe > 0:
            yield text[:safe]
            text = text[safe:]
    if text:
        yield text
