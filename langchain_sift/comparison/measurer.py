"""Measure prompts under a method, with the engine."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from langchain_sift.auto_mode import AUTO, choose_mode
from langchain_sift.comparison.judging import GradedAnswer
from langchain_sift.comparison.measurement import Measurement, MeasurementSettings, WantedRow
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.shared_work import SharedWork
from langchain_sift.comparison.tasks import Task
from langchain_sift.config import GenerationConfig
from langchain_sift.errors import SIFTError
from langchain_sift.language_models.chat_templates.conversations import for_conversation
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.context import FittedPrompt
from langchain_sift.language_models.modes import distinct
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.report.metrics import ACCURACY, ACCURACY_BY_LENGTH
from langchain_sift.report.rows import Row
from langchain_sift.ttft import Engine, GenerationTask, Outcome, Request, ScoringTask, Ticket
from langchain_sift.ttft.reasoning import ReasoningText

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _EngineInput:
    """A measurement as a request to the engine."""

    request: Request
    tokens: ScoredText
    context: Sequence[int]
    in_context: tuple[int, ...]
    """Indices of the chosen documents that the context holds."""

    shown: tuple[str, ...]
    """Their texts."""

    known: tuple[str, Outcome] | None = None
    """The text and the outcome, if a method before gave the model the same context."""


@dataclass(slots=True)
class Measurer:
    """Measure prompts with one engine."""

    engine: Engine
    settings: MeasurementSettings
    _shared: SharedWork = field(default_factory=SharedWork, init=False)

    def rows(self, measurements: Sequence[Measurement], *, graded: bool = True) -> list[Row]:
        """Return the rows of all measurements; a failure affects the rows of one alone.

        With `graded=False`, the judge is not asked.
        """
        device = self.engine.language_model.model.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._shared.begin(frozenset(measurement.prompt.id for measurement in measurements))
        measurements = [self._with_mode(measurement) for measurement in measurements]
        inputs = [self._prepare(measurement) for measurement in measurements]
        tickets = iter(self._submit([i for i in inputs if isinstance(i, _EngineInput)]))
        answers: list[GradedAnswer] = []
        for measurement, prepared in zip(measurements, inputs, strict=True):
            if isinstance(prepared, Exception):
                answers += _report_failure(measurement, prepared)
                continue
            # A prompt that cannot be measured must not discard the results of the others.
            try:
                text, outcome = prepared.known or _wait(next(tickets))
                self._keep(measurement, prepared, text, outcome)
                filled = [
                    self._row(measurement, wanted, prepared, text, outcome)
                    for wanted in measurement.wanted
                ]
                memory = _peak_memory(device)
                answers += [
                    GradedAnswer(
                        replace(row, peak_memory=memory), measurement.prompt, prepared.shown
                    )
                    for row in filled
                ]
            except Exception as error:  # noqa: BLE001
                answers += _report_failure(measurement, error)
        if graded and self.settings.judge is not None:
            return self.settings.judge.grade(answers)
        return [answer.row for answer in answers]

    def _submit(self, inputs: Sequence[_EngineInput]) -> list[Ticket]:
        """Submit all requests so that the engine trains them in one batch."""
        # Reserve all before the first is submitted: the last digits of a result depend on its
        # batch, and the batch must not depend on the pace of a thread.
        asked = [item.request for item in inputs if item.known is None]
        reservations = [self.engine.admission.admit(0) for _ in asked]
        return [
            self.engine.submit(request, reservation=reservation)
            for request, reservation in zip(asked, reservations, strict=True)
        ]

    def _keep(
        self, measurement: Measurement, prepared: _EngineInput, text: str, outcome: Outcome
    ) -> None:
        """Keep what the next method may need again."""
        if measurement.shares_training:
            self._shared.keep_adapter(prepared.request, outcome)
        elif not measurement.method.fine_tunes:
            key = measurement.task, tuple(prepared.context)
            self._shared.keep_answer(key, text, outcome)

    def _prepare(self, measurement: Measurement) -> _EngineInput | Exception:
        try:
            return self._engine_input(measurement)
        except (SIFTError, ValueError) as error:
            return error

    def _with_mode(self, measurement: Measurement) -> Measurement:
        """Return the measurement with the mode that a method of the mode "auto" chooses."""
        method, choice = measurement.method, measurement.choice
        if method.mode != AUTO or choice is None:
            return measurement
        chosen = choice.first(measurement.most_documents)
        texts = [chosen.texts[index] for index in distinct(chosen.texts)]
        answer = self._answer_tokens(measurement.task)
        try:
            tokens = self._tokens(measurement.task)
            fitting = len(self._fitted(tokens, texts, answer).used)
        except (SIFTError, ValueError):
            fitting = 0  # the same error follows in any mode
        mode = choose_mode(
            chosen.uncertainty, len(texts), fitting, self.settings.modes, chosen.unrelated_gain
        ).mode
        method = replace(method, mode=mode)
        shares = measurement.shares_training and method.fine_tunes
        measurement = replace(measurement, method=method, shares_training=shares)
        shown = measurement.shown
        return measurement if mode != "rag" or shown is None else measurement.showing(shown)

    def _tokens(self, task: Task) -> ScoredText:
        model = self.engine.language_model
        return ScoredText.of(
            task,
            model.tokenizer,
            model.context_length,
            answer=self._answer_tokens(task),
            arguments=TemplateArguments(self.settings.chat_template_kwargs),
        )

    def _fitted(self, tokens: ScoredText, texts: Sequence[str], answer: int) -> FittedPrompt:
        model = self.engine.language_model
        return tokens.with_documents(
            texts,
            model.tokenizer,
            window=model.context_length,
            max_length=self.settings.finetune.max_length,
            answer=answer,
        )

    def _answer_tokens(self, task: Task) -> int:
        return self.settings.max_tokens if task.generates else 0

    def _engine_input(self, measurement: Measurement) -> _EngineInput:
        task, method = measurement.task, measurement.method
        model = self.engine.language_model
        arguments = TemplateArguments(self.settings.chat_template_kwargs)
        tokens = self._tokens(task)
        documents = () if measurement.choice is None else measurement.choice.documents
        texts = [document.page_content for document in documents]
        context, in_context = tokens.without_documents(), []
        if method.adds_context:
            indices = distinct(texts)[: method.context_k]
            answer = self._answer_tokens(task)
            fitted = self._fitted(tokens, [texts[index] for index in indices], answer)
            context = fitted.token_ids
            in_context = [indices[position] for position in fitted.used]
        config = self.settings.finetune_for(method)
        learned = documents[: measurement.most_documents] if method.fine_tunes else ()
        prompt = functools.partial(tokens.prompt, model.tokenizer) if task.generates else None
        material = training_material(learned, config, model, arguments, prompt)
        request = self.engine.request(
            material.texts,
            self._engine_task(measurement, tokens, context),
            config=config,
            teaching=material.teaching,
        )
        shown = tuple(texts[index] for index in in_context)
        known = None
        if measurement.shares_training:
            passes = len(measurement.wanted) > 1  # through the adapters of smaller numbers
            request = self._shared.with_adapter(request, anew=passes)
        elif not method.fine_tunes:
            known = self._shared.answer((task, tuple(context)))
        return _EngineInput(request, tokens, context, tuple(in_context), shown, known)

    def _engine_task(
        self, measurement: Measurement, tokens: ScoredText, context: Sequence[int]
    ) -> GenerationTask | ScoringTask:
        pairs = tokens.pairs(context)
        if measurement.task.generates:
            tokenizer = self.engine.language_model.tokenizer
            # A model without a chat template goes on with a question of its own.
            stop = () if tokenizer.chat_template else ("\n",)
            # Greedy, whatever the checkpoint recommends: no figure depends on chance.
            config = GenerationConfig(max_tokens=self.settings.max_tokens, stop=stop)
            config = for_conversation(config, tokenizer, context)
            return GenerationTask(context, config, pairs)
        counts = {wanted.documents for wanted in measurement.wanted}
        after = sorted(n for n in counts if 0 < n < measurement.most_documents)
        return ScoringTask(pairs, after=after)

    def _row(
        self,
        measurement: Measurement,
        wanted: WantedRow,
        prepared: _EngineInput,
        text: str,
        outcome: Outcome,
    ) -> Row:
        training, fine_tunes = outcome.training, measurement.method.fine_tunes
        nats, trained_tokens, seconds = outcome.nats, training.tokens, training.seconds
        for milestone in outcome.milestones:
            if milestone.documents == wanted.documents:
                nats, seconds = milestone.nats, milestone.seconds
                trained_tokens = milestone.tokens
        trained = tuple(index for index in training.trained if index < wanted.documents)
        # Each request of a batch counts with its equal share of the time. An adapter has that of
        # the batch that it was trained in.
        share = outcome.batch_size if prepared.request.adapter is None else 1
        seconds = training.seconds_teacher + seconds / share
        used = trained if fine_tunes else prepared.in_context
        row = replace(
            wanted.with_choice(measurement.choice, used),
            seconds_training=seconds if fine_tunes else 0.0,
            tokens_training=trained_tokens,
            tokens_context=len(prepared.context),
            seconds_answering=outcome.seconds_task / outcome.batch_size,
            tokens_answer=outcome.tokens,
            failure=training.fallback if fine_tunes else None,
        )
        tokens = prepared.tokens
        if tokens.target:
            row = replace(
                row,
                bits=nats[0] / math.log(2),
                bytes=tokens.target_bytes,
                tokens=len(tokens.target),
            )
        scores = _accuracy(tokens, measurement.prompt, nats)
        if measurement.task.generates:
            answer = text.strip()
            scores |= self.settings.scores(answer, measurement.prompt)
            row = replace(row, answer=answer)
        return replace(row, scores=scores)


def _report_failure(measurement: Measurement, error: Exception) -> list[GradedAnswer]:
    name, prompt = measurement.method.name, measurement.prompt.id
    logger.warning("%s on %s", name, prompt, exc_info=error)
    return [GradedAnswer(row, measurement.prompt, ()) for row in measurement.failed(error)]


def _accuracy(tokens: ScoredText, prompt: Prompt, nats: Sequence[float]) -> dict[str, float]:
    """Return 1 if the correct choice is the most likely one, else 0; nothing without choices."""
    if not tokens.choices or prompt.correct is None:
        return {}
    losses = nats[-len(tokens.choices) :]
    by_length = [n / length for n, length in zip(losses, tokens.choice_lengths, strict=True)]
    return {
        ACCURACY: float(losses.index(min(losses)) == prompt.correct),
        ACCURACY_BY_LENGTH: float(by_length.index(min(by_length)) == prompt.correct),
    }


def _peak_memory(device: torch.device) -> int | None:
    """Return the maximum number of bytes that PyTorch allocated on a GPU; None on a CPU.

    On a CPU, only the memory of the process can be measured. It never shrinks, so its figure
    depends on the methods that ran before.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _wait(ticket: Ticket) -> tuple[str, Outcome]:
    """Return the generated text, without reasoning, and the outcome."""
    pieces = []
    for event in ticket:
        if isinstance(event, str):
            if not isinstance(event, ReasoningText):
                pieces.append(event)
        elif isinstance(event, Outcome):
            return "".join(pieces), event
    raise SIFTError("the engine returned no outcome")
