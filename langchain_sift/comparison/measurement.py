"""One prompt under one method: what is asked of the engine, and the rows that come of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from langchain_core.runnables import Runnable

from langchain_sift.comparison.memory import peak_memory
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.selection import Choice, answer_of
from langchain_sift.comparison.tasks import ScoredText, Task
from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import SIFTError
from langchain_sift.report.metrics import ANSWER_METRICS
from langchain_sift.report.rows import Row
from langchain_sift.ttft import Engine, GenerationTask, Outcome, Request, ScoringTask, Ticket

logger = logging.getLogger(__name__)

Scorer = Callable[[str, Prompt], float]

# HullFT computes the gradient of a repeat anew every second step (arXiv 2605.30337, section 4).
_HULL_REUSE = 2


@dataclass(slots=True)
class Asked:
    """A prompt that a method is asked about."""

    prompt: Prompt
    task: Task
    method: Method
    wanted: list[tuple[Row, int]]
    """Rows to fill, and with how many of the chosen documents each."""

    choice: Choice | None = None
    chain: Runnable[Any, Any] | None = None

    def failed(self, error: Exception) -> list[Row]:
        """Return its rows, where it could not be measured."""
        return [failed(row, error) for row, _ in self.wanted]


Prepared = tuple[Sequence[Row], Sequence[Asked]]
"""What is done together: rows that are there already, and what is to be asked for the others."""


@dataclass(slots=True)
class _Started:
    """One that was handed in."""

    asked: Asked
    asker: Asker
    request: Request | None = None
    ticket: Ticket | None = None
    tokens: ScoredText | None = None
    context: Sequence[int] = ()
    places: tuple[int, ...] = ()
    """Of the documents that stand in the context."""

    failure: Exception | None = None
    measure: peak_memory | None = None

    @property
    def prompt(self) -> Prompt:
        return self.asked.prompt

    @property
    def wanted(self) -> list[tuple[Row, int]]:
        return self.asked.wanted

    def rows(self) -> list[Row]:
        """Wait for it, and return its rows.

        Raises:
            SIFTError: If it failed.
        """
        if self.failure is not None:
            raise self.failure
        if self.asked.chain is not None:
            return [self._row_of_chain(self.asked.chain)]
        assert self.ticket is not None  # noqa: S101 - else it had failed
        text, outcome = _wait(self.ticket)
        return [self._row(row, count, text, outcome) for row, count in self.wanted]

    def _row(self, row: Row, count: int, text: str, outcome: Outcome) -> Row:
        asked, tokens, training = self.asked, self.tokens, outcome.training
        assert tokens is not None  # noqa: S101 - it was handed in
        if asked.choice is not None:
            row = _with_choice(row, asked.choice.first(count))
        nats, learned, seconds = outcome.nats, training.tokens, training.seconds
        steps = [place for place in training.trained if place < count]
        for milestone in outcome.milestones:
            if milestone.documents == count:
                nats, learned, seconds = milestone.nats, milestone.tokens, milestone.seconds
        row = replace(
            row,
            used_indices=tuple(steps) if asked.method.learns else self.places,
            # What is done together costs each its share, not all of it.
            seconds_training=seconds / outcome.batch_size if asked.method.learns else 0.0,
            tokens_training=learned,
            tokens_context=len(self.context),
            seconds_answering=outcome.seconds_task / outcome.batch_size,
            tokens_answer=outcome.tokens,
            peak_memory=0 if self.measure is None else self.measure.bytes,
            failure=training.fallback if asked.method.learns else None,
        )
        if tokens.target:
            row = replace(
                row,
                bits=nats[0] / math.log(2),
                bytes=tokens.target_bytes,
                tokens=len(tokens.target),
            )
        scores = {}
        if tokens.choices and self.prompt.correct is not None:
            of_choices = nats[-len(tokens.choices) :]
            likeliest = min(range(len(of_choices)), key=of_choices.__getitem__)
            scores["accuracy"] = float(likeliest == self.prompt.correct)
        if asked.task.asks:
            row = replace(row, answer=text.strip())
            scores |= self.asker.scores(text.strip(), self.prompt)
        return replace(row, scores=scores)

    def _row_of_chain(self, chain: Runnable[Any, Any]) -> Row:
        ((row, _),) = self.wanted
        began = time.perf_counter()
        answer = answer_of(chain, self.prompt.text).strip()
        seconds = time.perf_counter() - began
        scores = self.asker.scores(answer, self.prompt)
        return replace(row, answer=answer, scores=scores, seconds_answering=seconds)


@dataclass(slots=True)
class Asker:
    """Asks one engine, and chains."""

    engine: Engine | None
    """None where only chains are asked."""

    recipe: FineTuneConfig
    """Not always the engine's: it is shared by all whose adapters have one shape."""

    max_tokens: int
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    def rows(self, asked: Sequence[Asked]) -> list[Row]:
        """Return the rows of all; what fails on one prompt costs its rows alone."""
        rows: list[Row] = []
        # Handed in at once, so that the engine trains them together.
        for one in self.start(asked):
            try:
                rows += one.rows()
            # One prompt that cannot be measured must not cost the others their hours.
            except Exception as error:
                logger.warning("%s on %s", one.asked.method.name, one.prompt.id, exc_info=True)
                rows += one.asked.failed(error)
        return rows

    def start(self, asked: Sequence[Asked]) -> Iterator[_Started]:
        """Hand in all, and yield each when its turn has come to be waited for."""
        with peak_memory(self._device) as measure:
            started = [self._start(one, measure) for one in asked]
            # Announced before they are handed in: what is trained together, to whose rounding a
            # result owes its last digits, must not depend on the pace of a thread.
            ready = [one for one in started if one.request is not None]
            if self.engine is not None:
                reservations = [self.engine.admission.admit(0) for _ in ready]
                for one, reservation in zip(ready, reservations, strict=True):
                    assert one.request is not None  # noqa: S101 - see above
                    one.ticket = self.engine.submit(one.request, reservation=reservation)
            yield from started

    def scores(self, answer: str, prompt: Prompt) -> dict[str, float]:
        """Return what is measured of an answer; a scorer that returns NaN has measured nothing."""
        found = {}
        if prompt.answers:
            found = {name: of(answer, prompt.answers) for name, of in ANSWER_METRICS.items()}
        own = {name: float(of(answer, prompt)) for name, of in self.scorers.items()}
        return found | {name: value for name, value in own.items() if math.isfinite(value)}

    @property
    def _device(self) -> torch.device:
        if self.engine is None:
            return torch.device("cpu")
        return self.engine.language_model.model.device

    def _start(self, asked: Asked, measure: peak_memory) -> _Started:
        started = _Started(asked, self, measure=measure)
        if asked.chain is not None:
            return started
        try:
            self._prepare(started)
        except (SIFTError, ValueError) as error:
            started.failure = error
        return started

    def _prepare(self, started: _Started) -> None:
        asked, engine = started.asked, self.engine
        assert engine is not None  # noqa: S101 - it is no chain
        task, method, choice = asked.task, asked.method, asked.choice
        model = engine.language_model
        answer = self.max_tokens if task.asks else 0
        tokens = ScoredText.of(task, model.tokenizer, model.context_length, answer=answer)
        texts = [] if choice is None else list(choice.texts)
        context, places = tokens.without_documents(), []
        if method.reads:
            once = {text: place for place, text in reversed(list(enumerate(texts)))}
            context, fitted = tokens.with_documents(
                sorted(once, key=once.__getitem__),
                model.tokenizer,
                window=model.context_length,
                max_length=self.recipe.max_length,
                answer=answer,
            )
            places = [sorted(once.values())[index] for index in fitted]
        pairs = tokens.pairs(context)
        most = max(count for _, count in asked.wanted)
        doing: GenerationTask | ScoringTask
        if task.asks:
            config = GenerationConfig(max_tokens=self.max_tokens, stop=("\n",))
            doing = GenerationTask(context, config, pairs)
        else:
            after = sorted({count for _, count in asked.wanted if 0 < count < most})
            doing = ScoringTask(pairs, after=after)
        started.tokens, started.context, started.places = tokens, context, tuple(places)
        started.request = engine.request(
            texts[:most] if method.learns else [], doing, config=self._recipe(method)
        )

    def _recipe(self, method: Method) -> FineTuneConfig:
        recipe = self.recipe
        if method.selection == "hull" and recipe.gradient_reuse == 1:
            return replace(recipe, gradient_reuse=_HULL_REUSE)
        return recipe


def failed(row: Row, error: Exception) -> Row:
    """Return a row without a result, and why."""
    first = str(error).strip().partition("\n")[0]
    return replace(row, bits=math.nan, failure=f"{type(error).__name__}: {first}")


def _with_choice(row: Row, choice: Choice) -> Row:
    return replace(
        row,
        chosen=choice.chosen,
        prior_variance=choice.prior_variance,
        redundancy=choice.redundancy,
        seconds_retrieval=choice.seconds,
    )


def _wait(ticket: Ticket) -> tuple[str, Outcome]:
    """Return what was generated, and the outcome."""
    said = []
    for event in ticket:
        if isinstance(event, str):
            said.append(event)
        elif isinstance(event, Outcome):
            return "".join(said), event
    raise SIFTError("the engine gave no outcome")
