"""Run batches of requests: train together, run the tasks together, reset the slots.

A failure never reaches another request. When a batch fails, its requests run again in smaller
batches, and a request that runs out of memory alone runs once more with shorter documents.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import TrainingError
from langchain_sift.ttft.jobs import Job, need, without_frames
from langchain_sift.ttft.memory.budget import MemoryBudget
from langchain_sift.ttft.memory.use import free_memory, is_out_of_memory, return_to_system
from langchain_sift.ttft.model.language_model import LanguageModel, model_settings
from langchain_sift.ttft.model.names import from_any_folder
from langchain_sift.ttft.model.tokens import TokenizedDocument, training_tokens
from langchain_sift.ttft.requests import Milestone, Pairs, ScoringTask
from langchain_sift.ttft.task_runner import TaskRunner
from langchain_sift.ttft.teacher import Teacher
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights
from langchain_sift.ttft.training.drift import DriftLosses
from langchain_sift.ttft.training.lessons import Taught
from langchain_sift.ttft.training.tasks import NO_DOCUMENT, TrainingRecord, TrainingTask
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.training.trainer import Trainer

_OUT_OF_MEMORY = "memory did not suffice"


class Worker:
    """The model with its slots. Only one thread at a time may use it."""

    def __init__(
        self, language_model: LanguageModel, config: FineTuneConfig, budget: MemoryBudget
    ) -> None:
        """Share the model's weights, and add slots to a copy of its modules.

        Args:
            language_model: The model.
            config: The settings that shape the adapter.
            budget: The memory of the batches.

        Raises:
            ArgumentError: If a layer that `config.target_modules` names cannot get an adapter.
        """
        self._name = from_any_folder(language_model.name)
        self._tokenizer = language_model.tokenizer
        self._context_length = language_model.context_length
        with torch.inference_mode(mode=False):  # inference tensors can never be trained
            self._model = share_weights(language_model.model)
            self.slots, self.targets = add_slots(self._model, config)
        self._model.generation_config = model_settings(self._model)
        self._transposed = any(isinstance(module, Conv1D) for module in self._model.modules())
        self._trainer = Trainer(
            self._model, self.slots, checkpointing=config.gradient_checkpointing
        )
        self._budget = budget
        self.quarantined = 0
        self._tasks = TaskRunner(
            self._model,
            self._trainer.head,
            self._tokenizer,
            self.slots,
            context_length=self._context_length,
        )
        self._teacher = Teacher(
            self._model,
            self._trainer.head,
            self._tokenizer,
            context_length=self._context_length,
        )
        self._drift_losses = DriftLosses(self._model, self._trainer.head, language_model)

    def rest(self) -> None:
        """Free memory that only requests need."""
        self._trainer.release_idle_slots()
        return_to_system()

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Run requests with tasks of one type, and finish their tickets."""
        # Most steps first: the requests that train longest then have the first slots, and those
        # without an adapter, which need no slot, come last.
        jobs = [Job(ticket) for ticket in sorted(tickets, key=need, reverse=True)]
        failure: BaseException | None = None
        try:
            self._run(jobs)
        except BaseException as error:  # noqa: BLE001 - goes to the clients
            failure = without_frames(error)
        for job in jobs:
            if not job.ticket.done.is_set():
                job.ticket.finish(failure or job.ticket.failure)

    def _run(self, jobs: list[Job]) -> None:
        """Run the jobs; if they fail, run them in parts, so that only the bad one fails."""
        if len(jobs) > 1 and not self._is_batchable():
            self._run_in_parts(jobs, 1)
            return
        fitting = self._fitting(jobs)
        if fitting < len(jobs):
            self._run_in_parts(jobs, fitting)
            return
        failure = self._attempt(jobs)
        if failure is None:
            return
        # Not inside the handler: an exception's frames hold the tensors of the failed step.
        out_of_memory = is_out_of_memory(failure)
        if out_of_memory:
            self._trainer.release_slots()
            free_memory()
        if len(jobs) == 1 and (jobs[0].ticket.text or not out_of_memory):
            jobs[0].ticket.finish(failure)
        left = [job.retry(failure) for job in jobs if not job.ticket.done.is_set()]
        if len(jobs) > 1:
            self._run_in_parts(left, len(jobs) // 2 if out_of_memory else 1)
        elif left:
            self._run_with_less(left[0])

    def _is_batchable(self) -> bool:
        try:
            return self._trainer.batchable
        except RuntimeError as error:
            if is_out_of_memory(error):  # try again with the next batch
                return False
            raise

    def _fitting(self, jobs: list[Job]) -> int:
        """Return how many of the first jobs fit into the memory together."""
        if self._budget.is_limited:
            if self.slots.count > sum(need(job.ticket) > (0, False) for job in jobs):
                self._trainer.release_slots()
            self._budget.renew(self.slots.nbytes)
        return self._budget.fitting([job.ticket.request for job in jobs])

    def _run_in_parts(self, jobs: list[Job], size: int) -> None:
        for start in range(0, len(jobs), size):
            self._run(jobs[start : start + size])

    def _run_with_less(self, job: Job) -> None:
        """Train on the first half of each document; if that is still too much, do not train."""
        ticket, request = job.ticket, job.ticket.request
        longest = max((len(d.token_ids) for d in request.documents), default=0)
        failure = self._attempt([job], max_length=max(2, longest // 2))
        if failure is None:
            return
        if is_out_of_memory(failure):
            self._trainer.release_slots()
            free_memory()
            if request.config.on_failure == "base" and not ticket.text:
                failure = self._attempt([job.retry(failure)], skip_reason=_OUT_OF_MEMORY)
                if failure is None:
                    return
            else:
                failure = TrainingError(f"{_OUT_OF_MEMORY}, even for half of each document")
        ticket.finish(failure)

    def _attempt(
        self, jobs: list[Job], *, max_length: int | None = None, skip_reason: str | None = None
    ) -> BaseException | None:
        """Run the jobs once, bring their slots to rest, and return the error if there is one."""
        try:
            for slot, job in enumerate(jobs):
                job.slot, job.began, job.batch_size = slot, time.perf_counter(), len(jobs)
            self._train(jobs, max_length, skip_reason)
            self._tasks.run(jobs)
        except BaseException as error:  # noqa: BLE001 - goes to the clients
            return without_frames(error)
        finally:
            self._bring_to_rest(len(jobs))
        return None

    def _bring_to_rest(self, count: int) -> None:
        """Reset the slots and verify them; if one is not at rest, release them all."""
        used = range(min(count, self.slots.count))
        try:
            self.slots.rest()
            for slot in used:
                self.slots.reset(slot)
            at_rest = all(self.slots.is_at_rest(slot) for slot in used)
        except BaseException:  # noqa: BLE001 - a slot in doubt is never used again
            at_rest = False
        if not at_rest:
            self.quarantined += 1
            self._trainer.release_slots()

    def _train(self, jobs: list[Job], max_length: int | None, skip_reason: str | None) -> None:
        tasks = [self._training_task(job, max_length, skip_reason) for job in jobs]
        adapted = [
            number
            for number, (job, task) in enumerate(zip(jobs, tasks, strict=True), start=1)
            if task.fallback is None or job.ticket.request.adapter is not None
        ]
        self._trainer.reserve(max(adapted, default=0))
        for job, record in zip(jobs, self._trainer.train(tasks), strict=True):
            request = job.ticket.request
            reason = skip_reason or request.skip_reason
            job.training = self.targets.add_to(record, weights=self.slots.size)
            if reason is not None:
                job.training = replace(job.training, fallback=reason)
            if request.adapter is not None and not request.documents:
                self.slots.load(job.slot, request.adapter.weights)
                job.training = request.adapter.training
            if request.config.drift_texts and job.training.fallback is None:
                job.training = self._check_drift(job)
            if request.keep_adapter and job.training.fallback is None:
                job.adapter = self._adapter(job, max_length or request.config.max_length)
            if request.config.on_failure == "raise":
                expected = {None, NO_DOCUMENT, reason}
                if job.training.fallback not in expected and not job.ticket.should_stop():
                    job.ticket.finish(TrainingError(f"training failed: {job.training.fallback}"))

    def _training_task(
        self, job: Job, max_length: int | None, skip_reason: str | None
    ) -> TrainingTask:
        ticket, request = job.ticket, job.ticket.request
        taught = Taught() if skip_reason else self._taught(job)
        documents = taught.documents
        if max_length is not None:
            cut = [document.truncate(max_length) for document in documents]
            documents = [document for document in cut if document.counted != ()]
        return TrainingTask(
            documents=documents,
            config=request.config,
            on_step=ticket.report_step,
            milestones=self._milestones(job, documents),
            start=None if request.adapter is None else request.adapter.weights,
            skipped=request.skipped,
            omitted=request.omitted,
            seconds_teacher=taught.seconds,
            teacher_ended=taught.ended,
        )

    def _taught(self, job: Job) -> Taught:
        """Return the documents to train on, or the lessons that the teacher makes of them."""
        request = job.ticket.request
        if not request.lessons:
            return Taught(request.documents)
        self.slots.rest()  # the teacher is the base model
        return self._teacher.teach(request.lessons, request.config, job.ticket.report_progress)

    def _milestones(
        self, job: Job, documents: Sequence[TokenizedDocument]
    ) -> dict[int, Callable[[float], None]]:
        """Return, by the number of steps after which it is due, each scoring during training."""
        task, config = job.ticket.request.task, job.ticket.request.config
        if not isinstance(task, ScoringTask):
            return {}
        due: dict[int, list[tuple[int, int]]] = {}
        for count in task.after:
            # A document that is too short counts, but no step is taken on it.
            lengths = [len(d.token_ids) for d in documents if d.index < count]
            tokens = training_tokens(lengths, config)
            due.setdefault(len(lengths) * config.steps_per_document, []).append((count, tokens))
        return {
            steps: functools.partial(self._reach, job, task.pairs, counts)
            for steps, counts in due.items()
        }

    def _reach(
        self, job: Job, pairs: Pairs, counts: Sequence[tuple[int, int]], seconds: float
    ) -> None:
        nats = self._tasks.score(job, pairs)
        keeps = job.ticket.request.keep_adapter
        weights = self.slots.read(job.slot).cpu() if keeps else None
        job.milestones += [
            Milestone(count, nats, tokens, seconds, weights) for count, tokens in counts
        ]

    def _adapter(self, job: Job, max_length: int) -> TrainedAdapter:
        return TrainedAdapter(
            self.slots.read(job.slot).cpu(),
            self.targets.names,
            self.slots.shapes,
            replace(job.ticket.request.config, max_length=max_length),
            job.training,
            self._name,
            self._transposed,
        )

    def _check_drift(self, job: Job) -> TrainingRecord:
        """Measure the loss on `drift_texts`; above `max_drift`, let the base model answer."""
        texts, limit = job.ticket.request.config.drift_texts, job.ticket.request.config.max_drift
        self.slots.rest()
        base = self._drift_losses.base(texts)
        self.slots.use(job.slot, job.slot + 1)
        drift = self._drift_losses.mean(texts) - base
        if drift <= limit:
            return replace(job.training, drift=drift)
        self.slots.reset(job.slot)
        reason = f"the loss on drift_texts rose by {drift:.3g} nats, above max_drift ({limit})"
        return replace(job.training, drift=drift, fallback=reason, update_norm=0.0)
