"""Run the tasks of a batch whose slots are trained: score texts, and answer."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langchain_sift.ttft.answering.reading import reader_of
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.answering.scoring import is_worth_sharing, nats_of_pairs
from langchain_sift.ttft.generation import generate, split_to_fit
from langchain_sift.ttft.jobs import Job
from langchain_sift.ttft.requests import GenerationTask, Outcome, Pairs, ScoringTask
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.output_layer import OutputLayer
from langchain_sift.ttft.training.slots import Slots


class TaskRunner:
    """Runs tasks, each in the slot of its job, or in the base model if training failed."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: OutputLayer | None,
        tokenizer: PreTrainedTokenizerBase,
        slots: Slots,
        *,
        context_length: int,
    ) -> None:
        """Prepare for a model with slots."""
        self._model = model
        self._head = head
        self._tokenizer = tokenizer
        self._slots = slots
        self._context_length = context_length

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the tasks of all jobs, and complete their tickets."""
        began = time.perf_counter()
        answering: list[Job] = []
        continuations = []
        for job in jobs:
            task = job.ticket.request.task
            if isinstance(task, ScoringTask):
                job.nats = self.score(job, task.pairs)
            if isinstance(task, GenerationTask):
                answering.append(job)
                continuations.append(self._continuation(job, task, began))
        if answering and not all(job.ticket.should_stop() for job in jobs):
            self._generate(answering, continuations)
        for job in jobs:
            if not job.ticket.done.is_set():
                self._complete(job, began)

    def _continuation(self, job: Job, task: GenerationTask, began: float) -> Continuation:
        return Continuation(
            task.prompt,
            task.config,
            on_text=job.ticket.report_text,
            on_end=functools.partial(self._complete, job, began),
            grammar=task.grammar,
            pairs=task.pairs,
            on_scores=functools.partial(setattr, job, "nats"),
            top_scores=task.top_scores,
            score_prompt=task.score_prompt,
            on_token_score=job.ticket.report_score,
            on_prompt_scores=job.ticket.report_prompt_scores,
        )

    def _generate(self, jobs: Sequence[Job], continuations: Sequence[Continuation]) -> None:
        self._slots.rest()
        reader_of(self._model)  # tries the base model
        all_fell_back = all(job.training.fallback is not None for job in jobs)
        for first, last in split_to_fit(continuations, self._context_length):
            self._slots.rest()  # exactly the base model, and faster
            route = None if all_fell_back else functools.partial(self._route, jobs[first:last])
            generate(self._model, self._tokenizer, continuations[first:last], route)

    def _route(self, jobs: Sequence[Job], rows: Sequence[int], *, one_token: bool = False) -> None:
        self._slots.use_rows([jobs[row].slot for row in rows], one_token=one_token)

    def score(self, job: Job, pairs: Pairs) -> tuple[float, ...]:
        """Return the negative log-likelihood of each target, in nats."""
        self._slots.rest()
        # A model is tried at rest.
        reader = reader_of(self._model) if is_worth_sharing(pairs) else None
        if job.training.fallback is None:
            self._slots.use(job.slot, job.slot + 1)
        longest = max(len(context) + len(target) for context, target in pairs)
        if reader is not None and longest <= reader.switch:
            return tuple(nats_of_pairs(self._model, reader, pairs))
        return tuple(negative_log_likelihoods(self._model, self._head, pairs))

    def _complete(
        self,
        job: Job,
        began: float,
        tokens: int = 0,
        reason: str = "stop",
        *,
        early: bool = False,
        reasoning_tokens: int = 0,
    ) -> None:
        """Complete a job whose task began at `began`, by `time.perf_counter`."""
        job.ticket.complete(
            Outcome(
                training=job.training,
                tokens=tokens,
                reasoning_tokens=reasoning_tokens,
                finish_reason=reason,
                shortened=early,
                nats=job.nats,
                milestones=tuple(job.milestones),
                adapter=job.adapter,
                batch_size=job.batch_size,
                seconds_waiting=job.began - job.ticket.submitted_at,
                seconds_task=time.perf_counter() - began,
            )
        )
