"""Score texts after prompts that a model has read already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from langchain_sift.ttft.answering.key_values import KeyValues
from langchain_sift.ttft.answering.reading import TOKENS_PER_PASS, Reader, Route, read_prompts
from langchain_sift.ttft.requests import Pairs
from langchain_sift.ttft.training.loss import row_losses
from langchain_sift.ttft.training.targets import make_targets

# Maximum number of tokens in the copies of a cache, for texts that follow the same prompt.
_TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Following:
    """A text that follows a prompt."""

    row: int
    """Row of the prompt."""

    tokens: Sequence[int]
    """At least one token id."""

    first: int
    """Index of the first token that is scored."""


def following(
    row: int, prompt: Sequence[int], pair: tuple[Sequence[int], Sequence[int]]
) -> Following | None:
    """Return the tokens of a context and a target after a prompt; None if they do not follow it."""
    context, target = pair
    if list(context[: len(prompt)]) != list(prompt):
        return None
    rest = context[len(prompt) :]
    return Following(row, [*rest, *target], len(rest))


def is_worth_sharing(pairs: Pairs) -> bool:
    """Return True if pairs have one context, and reading it once saves more than a pass costs."""
    context = list(pairs[0][0])
    same = all(list(other) == context for other, _ in pairs)
    return same and len(context) * (len(pairs) - 1) >= TOKENS_PER_PASS


def nats_of_pairs(model: PreTrainedModel, reader: Reader, pairs: Pairs) -> list[float]:
    """Return the negative log-likelihood of each target after the context that all pairs have."""
    with torch.inference_mode():
        state = read_prompts(model, reader, [pairs[0][0]])
        texts = [Following(0, target, 0) for _, target in pairs]
        return nats_after(model, reader, state, texts)


def nats_after(
    model: PreTrainedModel,
    reader: Reader,
    state: KeyValues,
    texts: Sequence[Following],
    route: Route | None = None,
) -> list[float]:
    """Return the negative log-likelihood of the scored tokens of each text, in nats.

    Equal to that of a pass over the prompt and the text. The state stays as it is.

    Args:
        model: The model.
        reader: Its reader.
        state: The state after the prompts.
        texts: At least one text.
        route: As in `read_prompts`.
    """
    log_p = torch.log_softmax(state.logits.float(), dim=-1)
    at_once = [
        -log_p[text.row, text.tokens[0]] if text.first == 0 else log_p.new_zeros(())
        for text in texts
    ]
    nats = torch.stack(at_once)
    longer = sorted(
        (number for number, text in enumerate(texts) if len(text.tokens) > 1),
        key=lambda number: len(texts[number].tokens),
    )
    for numbers in _parts(longer, state.attended.shape[1], texts):
        chosen = [texts[number] for number in numbers]
        if route is not None:
            route([text.row for text in chosen])
        nats[list(numbers)] += _nats_of(model, reader, state, chosen)
    result: list[float] = nats.tolist()
    return result


def _nats_of(
    model: PreTrainedModel, reader: Reader, state: KeyValues, texts: Sequence[Following]
) -> torch.Tensor:
    """Return the same without each text's first token, which the prompt predicts."""
    copied = state.select([text.row for text in texts])
    targets = make_targets(
        [text.tokens for text in texts],
        counted=[range(max(1, text.first), len(text.tokens)) for text in texts],
        mean=False,
        device=model.device,
    )
    longest = targets.token_ids.shape[1]
    ends = torch.tensor([[len(text.tokens)] for text in texts], device=model.device)
    attended = (torch.arange(longest, device=model.device) < ends).to(copied.attended.dtype)
    copied.attended = torch.cat([copied.attended, attended], dim=1)
    copied.is_padded |= not bool(attended.all())
    return row_losses(model, reader.head, targets, reader.inputs(longest, copied))


def _parts(
    numbers: Sequence[int], length: int, texts: Sequence[Following]
) -> Iterator[Sequence[int]]:
    """Split texts, sorted by length, into parts of bounded size."""
    start = 0
    for end in range(1, len(numbers) + 1):
        following_ = len(texts[numbers[end]].tokens) if end < len(numbers) else 0
        if end == len(numbers) or (end + 1 - start) * (length + following_) > _TOKENS_AT_ONCE:
            yield numbers[start:end]
            start = end
