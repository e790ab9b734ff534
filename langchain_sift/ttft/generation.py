"""Score texts after several prompts and generate the answers, with one pass over each prompt.

Each answer has its own length, end and seed. The tokens are those that transformers' `generate`
gives for each prompt alone. A model whose cache is of a kind of its own is left to `generate`, one
prompt at a time, and so is a text beyond the length at which the model encodes positions otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.ttft.answering.key_values import KeyValues
from langchain_sift.ttft.answering.reading import Reader, Route, read_prompts, reader_of
from langchain_sift.ttft.answering.rows import AnswerRow, Continuation
from langchain_sift.ttft.answering.scoring import Following, following, nats_after
from langchain_sift.ttft.answering.token_scores import prompt_scores
from langchain_sift.ttft.answering.with_transformers import generate_with_transformers
from langchain_sift.ttft.model.language_model import changes_scores
from langchain_sift.ttft.model.turn_ends import answer_ends
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.output_layer import OutputLayer, linear_head

# Steps of one row that take as long as the copy of another row's cache.
_STEPS_PER_COPY = 2


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    continuations: Sequence[Continuation],
    route: Route | None = None,
) -> None:
    """Score the pairs of all continuations, then generate all answers.

    Args:
        model: Any causal language model. Its `generation_config` comes from `model_settings`.
        tokenizer: The model's tokenizer.
        continuations: At least one. `split_to_fit` finds those that fit into the context together.
        route: None means that all rows go through the model as it is.
    """
    end_tokens = answer_ends(model, tokenizer)
    rows = [AnswerRow(one, tokenizer, end_tokens, model.device) for one in continuations]
    order = sorted(range(len(rows)), key=lambda number: len(continuations[number].prompt))
    with torch.inference_mode():
        reader = reader_of(model)
        head = None if reader is None else reader.head
        if reader is None and any(one.score_prompt or one.pairs for one in continuations):
            head = linear_head(model)
        _score_prompts(model, head, continuations, route or _everywhere)
        for batch in _batches(continuations, order, reader):
            parts = [continuations[number] for number in batch], [rows[number] for number in batch]
            own = None if route is None else _part_of(route, batch)
            is_changed = changes_scores(model.generation_config)
            if reader is None or is_changed or _longest(parts[0]) > reader.switch:
                own = own or _everywhere
                _answer_without_reader(model, *parts, end_tokens, own, head=head)
            else:
                _answer(model, reader, *parts, own)


def _batches(
    continuations: Sequence[Continuation], order: Sequence[int], reader: Reader | None
) -> list[Sequence[int]]:
    """Return the numbers of the continuations, sorted by length, that are answered together."""
    if reader is None or not reader.can_join:
        return [[number] for number in order]
    runs = split_to_fit([continuations[number] for number in order], reader.switch)
    return [order[first:last] for first, last in runs]


def _longest(continuations: Sequence[Continuation]) -> int:
    """Return the largest number of tokens of a prompt with its answer, or a text to score."""
    answers = [len(one.prompt) + one.config.max_tokens for one in continuations]
    scored = [len(context) + len(target) for one in continuations for context, target in one.pairs]
    return max(answers + scored)


def _part_of(route: Route, numbers: Sequence[int]) -> Route:
    def part(rows: Sequence[int], *, one_token: bool = False) -> None:
        route([numbers[row] for row in rows], one_token=one_token)

    return part


def _everywhere(rows: Sequence[int], *, one_token: bool = False) -> None:
    """Let all rows go through the model as it is."""
    del rows, one_token


def _score_prompts(
    model: PreTrainedModel,
    head: OutputLayer | None,
    continuations: Sequence[Continuation],
    route: Route,
) -> None:
    """Score the tokens of the prompts whose scores are asked for."""
    for row, continuation in enumerate(continuations):
        if continuation.score_prompt:
            route([row])
            top = continuation.top_scores or 0
            continuation.on_prompt_scores(prompt_scores(model, head, continuation.prompt, top))


def _answer_without_reader(
    model: PreTrainedModel,
    continuations: Sequence[Continuation],
    rows: Sequence[AnswerRow],
    end_tokens: frozenset[int],
    route: Route,
    *,
    head: OutputLayer | None,
) -> None:
    for row, continuation in enumerate(continuations):
        if continuation.pairs:
            route([row])
            nats = negative_log_likelihoods(model, head, continuation.pairs)
            continuation.on_scores(tuple(nats))
    route(range(len(rows)))
    for answer in rows:
        answer.end_if_empty()
    prompts = [continuation.prompt for continuation in continuations]
    if not all(row.done for row in rows):
        generate_with_transformers(model, rows, prompts, end_tokens)


def _answer(
    model: PreTrainedModel,
    reader: Reader,
    continuations: Sequence[Continuation],
    rows: Sequence[AnswerRow],
    route: Route | None,
) -> None:
    """Answer prompts that are sorted by length."""
    prompts = [continuation.prompt for continuation in continuations]
    state = read_prompts(model, reader, prompts, route)
    _score(model, reader, state, continuations, route)
    for row in rows:
        row.end_if_empty()
    # On an accelerator, transformers has faster products of experts for single tokens.
    faster = getattr(model, "_optimize_model_for_decode", nullcontext)
    with faster():
        _decode(model, reader, state, rows, route)


def _decode(
    model: PreTrainedModel,
    reader: Reader,
    state: KeyValues,
    rows: Sequence[AnswerRow],
    route: Route | None,
) -> None:
    """Generate token by token; rows that are done leave the batch when that pays."""
    going_on: Sequence[int] = range(len(rows))
    state.make_room(max(row.left for row in rows))
    if route is not None:
        route(going_on, one_token=True)
    while True:
        active = [rows[number] for number in going_on]
        token_ids = _next_tokens(state.logits, active)
        left = max((row.left for row in active if not row.done), default=0)
        if left == 0:
            return
        kept = _rows_to_keep(active, left)
        if len(kept) < len(active):
            going_on, token_ids = [going_on[place] for place in kept], token_ids[kept]
            state = state.select(kept)
            state.make_room(left)
            if route is not None:
                route(going_on, one_token=True)
        reader.step(model, token_ids, state)


def _next_tokens(logits: torch.Tensor, rows: Sequence[AnswerRow]) -> torch.Tensor:
    """Choose the next token of each row, and pass it on."""
    token_ids = logits.argmax(dim=-1)
    for number, row in enumerate(rows):
        if not row.is_greedy:
            token_ids[number] = row.choose(logits[number])
    for number, (row, token_id) in enumerate(zip(rows, token_ids.tolist(), strict=True)):
        if not row.done:
            row.logits = logits[number] if row.is_scored else None
            row.add(token_id)
    return token_ids


def _rows_to_keep(rows: Sequence[AnswerRow], left: int) -> list[int]:
    """Return the rows to go on with: without those that are done, if a smaller batch pays.

    The copy of the cache for the other rows must not take longer than the steps of the rows that
    leave.
    """
    going_on = [number for number, row in enumerate(rows) if not row.done]
    leaving = len(rows) - len(going_on)
    return going_on if leaving * left >= _STEPS_PER_COPY * len(going_on) else [*range(len(rows))]


def _score(
    model: PreTrainedModel,
    reader: Reader,
    state: KeyValues,
    continuations: Sequence[Continuation],
    route: Route | None,
) -> None:
    """Score the pairs of all continuations, whose prompts have been read."""
    nats: dict[tuple[int, int], float] = {}
    texts: dict[tuple[int, int], Following] = {}
    for row, continuation in enumerate(continuations):
        for number, pair in enumerate(continuation.pairs):
            text = following(row, continuation.prompt, pair)
            if text is not None:
                texts[row, number] = text
                continue
            if route is not None:
                route([row])
            (nats[row, number],) = negative_log_likelihoods(model, reader.head, [pair])
    if texts:
        after = nats_after(model, reader, state, list(texts.values()), route)
        nats |= zip(texts, after, strict=True)
    for row, continuation in enumerate(continuations):
        if continuation.pairs:
            scores = tuple(nats[row, number] for number in range(len(continuation.pairs)))
            continuation.on_scores(scores)


def split_to_fit(continuations: Sequence[Continuation], length: float) -> Iterator[tuple[int, int]]:
    """Split continuations into runs that fit into a length together; one that is longer is alone.

    A row that is done grows with the others of its run, beyond the end of its answer, and some
    models have no positions there.

    Args:
        continuations: The continuations.
        length: Number of tokens, such as that of the model's context.

    Yields:
        The first index of each run, and the index after its last.
    """
    first = 0
    longest = new = 0
    for index, continuation in enumerate(continuations):
        longest = max(longest, len(continuation.prompt))
        new = max(new, continuation.config.max_tokens)
        if index > first and longest + new > length:
            yield first, index
            first = index
            longest, new = len(continuation.prompt), continuation.config.max_tokens
    if first < len(continuations):
        yield first, len(continuations)
