"""Let the base model, with documents in its context, teach: write texts, and rate their tokens."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.config import FineTuneConfig, GenerationConfig, ReasoningMarkers
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.generation import generate, split_to_fit
from langchain_sift.ttft.model.reasoning_markers import before_content, markers_after
from langchain_sift.ttft.model.tokens import TokenizedDocument, plain_tokens, tokens_after
from langchain_sift.ttft.model.turn_ends import end_of_answer, turn_ends
from langchain_sift.ttft.reasoning import ReasoningText
from langchain_sift.ttft.training.lessons import (
    ANSWER_TOKENS,
    AT_ONCE,
    QUESTION_TOKENS,
    Lesson,
    Taught,
)
from langchain_sift.ttft.training.output_layer import OutputLayer
from langchain_sift.ttft.training.tasks import BUDGET_SPENT, time_was_up
from langchain_sift.ttft.training.top_logits import TopLogits

_SHARE_OF_SECONDS = 0.5  # of `max_train_seconds`; the steps have the rest


@dataclass(slots=True)
class _Text:
    """A text that the teacher writes."""

    before: Sequence[int]
    """The tokens between the prompt and the text: they leave reasoning empty."""

    reasoning: ReasoningMarkers | None
    pieces: list[str] = field(default_factory=list)
    ended: bool = False
    """True if it is complete, False if it is as long as it may be."""


class Teacher:
    """The base model as a teacher. It works on one request at a time, so that none sees another."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: OutputLayer | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int,
    ) -> None:
        """Prepare for a model, whose slots are at rest whenever it teaches."""
        self._model = model
        self._head = head
        self._tokenizer = tokenizer
        self._context_length = context_length

    def teach(
        self, lessons: Sequence[Lesson], config: FineTuneConfig, should_stop: Callable[[], bool]
    ) -> Taught:
        """Return the student's rows of the lessons, in order, with the teacher's next tokens.

        The teacher leaves out a lesson for which it writes nothing, lessons beyond
        `max_train_tokens`, and those that it has not taught by half of `max_train_seconds`. It
        always rates the first text that is given. Repeats are the same object.

        Args:
            lessons: The lessons of one request.
            config: The limits of the training.
            should_stop: Called after each token and each row; if it returns True, there is no more.
        """
        began, limit = time.perf_counter(), config.max_train_seconds
        until = math.inf if limit is None else began + _SHARE_OF_SECONDS * limit

        def is_over() -> bool:
            """Return True if the request should stop, or the teacher's time is up."""
            return should_stop() or time.perf_counter() >= until

        rows: dict[int, TokenizedDocument | None] = {}
        for group in _groups(lessons):
            for number, row in self._rows(lessons, _fitting(lessons, group, rows, config), is_over):
                rows[number] = row
                if is_over():
                    break
            if len(rows) <= group[-1] or is_over():
                break
        taught = [(number, row) for number, row in sorted(rows.items()) if row is not None]
        ended = None
        if len(rows) < len(lessons):
            is_late = time.perf_counter() >= until
            ended = time_was_up(limit) if limit is not None and is_late else BUDGET_SPENT
        return Taught(
            [row for number, row in taught for _ in range(lessons[number].repeats)],
            ended=ended,
            seconds=time.perf_counter() - began,
        )

    def _rows(
        self, lessons: Sequence[Lesson], numbers: Sequence[int], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, TokenizedDocument | None]]:
        """Yield the rows of some lessons: given texts first. None means that nothing was written.

        Texts that were not complete when the teacher had to stop are left out.
        """
        for number in numbers:
            if not lessons[number].is_written:
                yield number, self._row(lessons[number], [], [], lessons[number].text)
        writing = [number for number in numbers if lessons[number].is_written]
        questions = self._questions([lessons[number] for number in writing], should_stop)
        asked = [
            (lessons[number], question) for number, question in zip(writing, questions, strict=True)
        ]
        texts = self._texts(asked, should_stop)
        if should_stop():
            return
        for number, (lesson, question), (before, text) in zip(writing, asked, texts, strict=True):
            yield number, self._row(lesson, question, before, text) if text else None

    def _questions(
        self, lessons: Sequence[Lesson], should_stop: Callable[[], bool]
    ) -> list[list[int]]:
        """Return the question of each lesson: the first line that the teacher writes."""
        asking = [number for number, lesson in enumerate(lessons) if lesson.ask]
        written = self._write([lessons[n].ask for n in asking], QUESTION_TOKENS, should_stop)
        questions: list[list[int]] = [[] for _ in lessons]
        for number, text in zip(asking, written, strict=True):
            line = "".join(text.pieces).strip().partition("\n")[0].strip()
            questions[number] = plain_tokens(self._tokenizer, line)[:QUESTION_TOKENS]
        return questions

    def _texts(
        self, asked: Sequence[tuple[Lesson, list[int]]], should_stop: Callable[[], bool]
    ) -> list[tuple[list[int], list[int]]]:
        """Return for each lesson the end of both prompts, and the text after it.

        There is no text if the teacher has not written a question that it should ask.
        """
        answerable = [bool(question) or not lesson.ask for lesson, question in asked]
        texts: list[tuple[list[int], list[int]]] = [
            ([], list(lesson.text) if has_question else [])
            for (lesson, _), has_question in zip(asked, answerable, strict=True)
        ]
        writing = [n for n, (lesson, _) in enumerate(asked) if answerable[n] and not lesson.text]
        prompts = [asked[n][0].teacher.around(asked[n][1]) for n in writing]
        end = end_of_answer(self._tokenizer)
        written = self._write(prompts, ANSWER_TOKENS, should_stop)
        for number, prompt, text in zip(writing, prompts, written, strict=True):
            before, content = [*text.before], "".join(text.pieces).rstrip()
            whole = [*prompt, *before]
            token_ids = tokens_after(self._tokenizer, whole, content) if content else []
            if text.ended and token_ids and end is not None:
                # It is not read, and stands for the end that the teacher expects there.
                token_ids.append(end)
            # The same text may have more tokens than the model wrote.
            texts[number] = before, token_ids[: ANSWER_TOKENS - len(before)]
        return texts

    def _write(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, should_stop: Callable[[], bool]
    ) -> list[_Text]:
        """Return the text that the teacher writes after each prompt, greedily.

        It does not reason: its texts are too short for reasoning and an answer.
        """
        tokenizer = self._tokenizer
        has_template = bool(tokenizer.chat_template)
        stop = turn_ends(tokenizer).strings if has_template else ("\n",)
        whole = [before_content(tokenizer, prompt) for prompt in prompts]
        texts = [
            _Text(before[len(prompt) :], markers_after(tokenizer, before) if has_template else None)
            for prompt, before in zip(prompts, whole, strict=True)
        ]
        continuations = [
            Continuation(
                prompt,
                GenerationConfig(
                    max_tokens=max(1, max_tokens - len(text.before)),
                    stop=stop,
                    reasoning=text.reasoning,
                ),
                on_text=functools.partial(_add, text, should_stop),
                on_end=functools.partial(_end, text),
            )
            for prompt, text in zip(whole, texts, strict=True)
        ]
        for start in range(0, len(continuations), AT_ONCE):
            some = continuations[start : start + AT_ONCE]
            for first, last in split_to_fit(some, self._context_length):
                if not should_stop():
                    generate(self._model, tokenizer, some[first:last])
        return texts

    def _row(
        self, lesson: Lesson, question: Sequence[int], before: Sequence[int], text: Sequence[int]
    ) -> TokenizedDocument:
        """Return the student's row of a lesson: what it reads, and the teacher's next tokens."""
        prompt = [*lesson.student.around(question), *before]
        first = max(1, len(prompt))
        token_ids = (*prompt, *text)
        counted = tuple(range(first, len(token_ids)))
        whole = [*lesson.teacher.around(question), *before, *text]
        teacher = self._next_tokens(whole, len(counted))
        return TokenizedDocument(
            lesson.document, token_ids, lesson.truncated, counted=counted, teacher=teacher
        )

    def _next_tokens(self, token_ids: Sequence[int], count: int) -> TopLogits:
        """Return the teacher's next tokens at the positions before the last `count` tokens."""
        row = torch.tensor([list(token_ids)], device=self._model.device)
        with torch.inference_mode():
            if self._head is None:
                logits = self._model(input_ids=row, use_cache=False).logits[0, -count - 1 : -1]
                return TopLogits.of(logits)
            states = self._model.base_model(input_ids=row, use_cache=False)[0][0, -count - 1 : -1]
            size = self._head.block_rows(count)
            return TopLogits.joined(
                [TopLogits.of(self._head(block)) for block in states.split(size)]
            )


def _groups(lessons: Sequence[Lesson]) -> Iterator[list[int]]:
    """Yield the numbers of successive lessons, as many as the teacher writes for at once."""
    group: list[int] = []
    written = 0
    for number, lesson in enumerate(lessons):
        if lesson.is_written and written == AT_ONCE:
            yield group
            group, written = [], 0
        group.append(number)
        written += lesson.is_written
    if group:
        yield group


def _fitting(
    lessons: Sequence[Lesson],
    group: Sequence[int],
    rows: Mapping[int, TokenizedDocument | None],
    config: FineTuneConfig,
) -> Sequence[int]:
    """Return the first lessons of a group: those of which a step may be within the budget.

    Args:
        lessons: All lessons.
        group: The numbers of successive lessons.
        rows: The rows of the lessons before, by their numbers.
        config: Has the budget, `max_train_tokens`.
    """
    if config.max_train_tokens is None:
        return group
    spent = sum(len(row.token_ids) * lessons[n].repeats for n, row in rows.items() if row)
    for place, number in enumerate(group):
        lesson = lessons[number]
        if spent * config.steps_per_document + lesson.least_tokens > config.max_train_tokens:
            return group[:place]
        if not lesson.is_written:  # nothing else has a known length
            spent += lesson.tokens * lesson.repeats
    return group


def _add(text: _Text, should_stop: Callable[[], bool], piece: str) -> bool:
    """Append a piece of a text; reasoning is no part of it."""
    if not isinstance(piece, ReasoningText):
        text.pieces.append(piece)
    return should_stop()


def _end(text: _Text, tokens: int, reason: str, **_: object) -> None:
    """Note the end of a text."""
    del tokens
    text.ended = reason == "stop"
