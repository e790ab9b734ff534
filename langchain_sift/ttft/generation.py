"""Generate the answers to several prompts at once, each with its own length, end and seed.

The loop, the cache and the masks are those of transformers' `generate`. A logits processor
samples each row's next token; a stopping criterion decodes it and ends the rows that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from langchain_sift.ttft.constraints import (
    Constraint,
    FormatChoice,
    FormatMask,
    constraints_of,
)
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.model.turn_ends import turn_ends
from langchain_sift.ttft.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt to continue, and the callbacks for its answer."""

    prompt: Sequence[int]
    """Token ids. The model's context has room for them and `config.max_tokens` more."""

    config: GenerationConfig

    on_text: Callable[[str], bool]
    """Called after each token with the text that it completes, perhaps none, up to the first stop
    string. If it returns True, the answer ends there."""

    on_end: Callable[..., object]
    """Called with the number of tokens and the reason, "stop" or "length", when the answer is
    complete. Its keyword `early` is True if the grammar was completed early to fit
    `max_tokens`. Other rows may go on."""

    grammar: str | None = None
    """The grammar that the answer follows, as llguidance takes it. None means any text."""


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
    constraints = constraints_of(
        [row.grammar for row in continuations],
        [row.config.max_tokens for row in continuations],
        tokenizer,
        end_tokens,
    )
    processors: list[Any] = [sampling]
    if constraints:
        processors = [FormatMask(constraints), sampling, FormatChoice(constraints)]
    rows_done = _RowsDone(tokenizer, continuations, end_tokens, constraints)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=attended.long(),
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
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
        constraints: Mapping[int, Constraint],
    ) -> None:
        self._constraints = constraints
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
                text = decoder.add(token_id)
                constraint = self._constraints.get(row)
                shortened = False
                if constraint is not None and constraint.complete:
                    text += decoder.end(constraint.finish_reason)
                    shortened = constraint.shortened
                stopped = bool(decoder.reasoning) and continuation.on_text(decoder.reasoning)
                stopped = continuation.on_text(text) or stopped
                if stopped or decoder.finish_reason is not None:
                    self._done[row] = True
                    reason = decoder.finish_reason or "stop"
                    continuation.on_end(decoder.tokens, reason, early=shortened)
        return torch.tensor(self._done, device=input_ids.device)
