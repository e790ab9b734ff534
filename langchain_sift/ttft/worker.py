"""What is done with a batch of requests: train together, do the tasks together, forget."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import TrainingError
from langchain_sift.ttft.generation import Continuation, fitting, generate, own_settings
from langchain_sift.ttft.jobs import Job, without_frames
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import TokenizedDocument, plain_tokens
from langchain_sift.ttft.requests import GenerationTask, Milestone, Pairs, ScoringTask
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.slots import add_slots, share_weights
from langchain_sift.ttft.training.tasks import NO_DOCUMENT, TrainingTask
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.training.trainer import Trainer

_MOST_DRIFT_TEXTS = 64  # different sets, whose base losses are remembered
_OUT_OF_MEMORY = "the memory did not suffice"


class Worker:
    """The model with its slots. One thread at a time."""

    def __init__(self, language_model: LanguageModel, config: FineTuneConfig) -> None:
        """Share the model's weights, and put slots beside them.

        Raises:
            ArgumentError: If `config.target_modules` names no layer of the model.
        """
        self._name = language_model.name
        self._tokenizer: PreTrainedTokenizerBase = language_model.tokenizer
        self._context_length = language_model.context_length
        with torch.inference_mode(mode=False):  # else the adapters could never be trained
            self._model = share_weights(language_model.model)
            self.slots, self.names = add_slots(self._model, config)
        self._model.generation_config = own_settings(self._model)
        layers = [self._model.get_submodule(name) for name in self.names]
        self._transposed = any(isinstance(layer.base, Conv1D) for layer in layers)
        self._trainer = Trainer(
            self._model, self.slots, checkpointing=config.gradient_checkpointing
        )
        self.quarantined = 0
        self._base_losses: dict[tuple[str, ...], float] = {}

    def do(self, tickets: Sequence[Ticket]) -> None:
        """Do the requests, all of one kind, and finish their tickets."""
        # The longest first: those that train on are then the first slots.
        jobs = [Job(ticket) for ticket in sorted(tickets, key=_steps, reverse=True)]
        failure: BaseException | None = None
        try:
            self._do(jobs)
        except BaseException as error:  # noqa: BLE001 - goes to whoever asked
            failure = without_frames(error)
        for job in jobs:
            job.ticket.finish(failure or TrainingError("the request was lost: a bug of ours"))

    def _do(self, jobs: list[Job]) -> None:
        """Do the jobs; where it fails, do them in parts, so that only the bad one fails."""
        if len(jobs) > 1 and not self._is_batchable():
            self._do_in_parts(jobs, 1)
            return
        failure = self._attempt(jobs)
        if failure is None:
            return
        # Outside the handler: an exception's frames hold the tensors of the failed step.
        out_of_memory = isinstance(failure, torch.OutOfMemoryError)
        if out_of_memory:
            _free_memory()
        if len(jobs) == 1 and (jobs[0].text or not out_of_memory):
            jobs[0].ticket.finish(failure)
        left = [job.retry(failure) for job in jobs if not job.ticket.done.is_set()]
        if len(jobs) > 1:
            self._do_in_parts(left, len(jobs) // 2 if out_of_memory else 1)
        elif left:
            self._do_with_less(left[0])

    def _is_batchable(self) -> bool:
        try:
            return self._trainer.batchable
        except torch.OutOfMemoryError:  # asked again next time
            return False

    def _do_in_parts(self, jobs: list[Job], size: int) -> None:
        for start in range(0, len(jobs), size):
            self._do(jobs[start : start + size])

    def _do_with_less(self, job: Job) -> None:
        """Learn from the first half of each document; if even that is too much, from nothing."""
        request = job.ticket.request
        longest = max((len(d.token_ids) for d in request.documents), default=0)
        failure = self._attempt([job], max_length=max(2, longest // 2))
        if failure is None:
            return
        if isinstance(failure, torch.OutOfMemoryError):
            _free_memory()
            if request.config.on_failure == "base" and not job.text:
                failure = self._attempt([job.retry(failure)], skip_reason=_OUT_OF_MEMORY)
                if failure is None:
                    return
            else:
                failure = TrainingError(f"{_OUT_OF_MEMORY}, even for half of each document")
        job.ticket.finish(failure)

    def _attempt(
        self, jobs: list[Job], *, max_length: int | None = None, skip_reason: str | None = None
    ) -> BaseException | None:
        """Do the jobs once; return what failed. The slots are at rest afterwards."""
        try:
            for slot, job in enumerate(jobs):
                job.slot, job.began, job.batch_size = slot, time.perf_counter(), len(jobs)
            self._train(jobs, max_length, skip_reason)
            self._do_tasks(jobs)
        except BaseException as error:  # noqa: BLE001 - goes to whoever asked
            return without_frames(error)
        finally:
            self._bring_to_rest(len(jobs))
        return None

    # --- training -------------------------------------------------------------------------

    def _train(self, jobs: list[Job], max_length: int | None, skip_reason: str | None) -> None:
        self._trainer.reserve(len(jobs))
        tasks = [self._training_task(job, max_length, skip_reason) for job in jobs]
        for job, record in zip(jobs, self._trainer.train(tasks), strict=True):
            request = job.ticket.request
            reason = skip_reason or request.skip_reason
            job.training = record if reason is None else replace(record, fallback=reason)
            if request.adapter is not None:
                self.slots.load(job.slot, request.adapter.weights)
                job.training = request.adapter.training
            self._guard(job)
            if request.keep_adapter and job.training.fallback is None:
                job.adapter = self._kept(job, max_length or request.config.max_length)
            fine = job.training.fallback in {None, NO_DOCUMENT, reason}
            if not (fine or job.ticket.should_stop()) and request.config.on_failure == "raise":
                job.ticket.finish(TrainingError(f"training failed: {job.training.fallback}"))

    def _training_task(
        self, job: Job, max_length: int | None, skip_reason: str | None
    ) -> TrainingTask:
        ticket, request = job.ticket, job.ticket.request
        documents = [] if skip_reason else request.documents
        if max_length is not None:
            documents = [_cut(document, max_length) for document in documents]
        asked = request.task.after if isinstance(request.task, ScoringTask) else ()
        counts: dict[int, list[int]] = {}
        for count in asked:
            # A document that is too short counts, but no step is taken on it.
            trained = sum(document.index < count for document in documents)
            counts.setdefault(trained * request.config.steps_per_document, []).append(count)
        return TrainingTask(
            documents=documents,
            config=request.config,
            should_stop=ticket.should_stop,
            on_step=job.report_step,
            milestones={n: functools.partial(self._reach, job, counts[n]) for n in counts},
            skipped=request.skipped,
            omitted=request.omitted,
        )

    def _reach(self, job: Job, counts: Sequence[int], seconds: float) -> None:
        """Score a job's pairs in the middle of its training, after so many documents."""
        task = job.ticket.request.task
        assert isinstance(task, ScoringTask)  # noqa: S101 - nothing else has milestones
        nats = self._score(job, task.pairs)
        request = job.ticket.request
        lengths = {document.index: len(document.token_ids) for document in request.documents}
        for count in counts:
            tokens = sum(length for index, length in lengths.items() if index < count)
            tokens *= request.config.steps_per_document
            job.milestones.append(Milestone(count, nats, tokens, seconds))

    def _kept(self, job: Job, max_length: int) -> TrainedAdapter:
        return TrainedAdapter(
            self.slots.weights[job.slot].to("cpu", copy=True),
            self.names,
            self.slots.shapes,
            replace(job.ticket.request.config, max_length=max_length),
            job.training,
            self._name,
            self._transposed,
        )

    def _guard(self, job: Job) -> None:
        """Let no adapter answer that predicts the drift texts much worse than the base model."""
        config = job.ticket.request.config
        if not config.drift_texts or job.training.fallback is not None:
            return
        texts = config.drift_texts
        if texts not in self._base_losses:
            if len(self._base_losses) == _MOST_DRIFT_TEXTS:
                self._base_losses.clear()
            self.slots.rest()
            self._base_losses[texts] = self._mean_loss(texts)
        self.slots.use(job.slot, job.slot + 1)
        drift = self._mean_loss(texts) - self._base_losses[texts]
        job.training = replace(job.training, drift=drift)
        if not drift <= config.max_drift:
            self.slots.reset(job.slot)
            reason = f"the loss on drift_texts rose by {drift:.3g} nats, above {config.max_drift}"
            job.training = replace(job.training, fallback=reason, update_norm=0.0)

    def _mean_loss(self, texts: Sequence[str]) -> float:
        nats, tokens = 0.0, 0
        for text in texts:
            token_ids = plain_tokens(self._tokenizer, text)[: self._context_length]
            if len(token_ids) > 1:
                pair = (token_ids[:1], token_ids[1:])
                nats += negative_log_likelihoods(self._model, self._trainer.head, [pair])[0]
                tokens += len(token_ids) - 1
        return nats / max(1, tokens)

    # --- tasks ----------------------------------------------------------------------------

    def _do_tasks(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        for job in jobs:
            task = job.ticket.request.task
            if task is not None and task.pairs:
                job.nats = self._score(job, task.pairs)
        if jobs[0].ticket.request.task_type is GenerationTask:
            if all(job.training.fallback is not None for job in jobs):
                self.slots.rest()  # the base model exactly, and faster
            else:
                self.slots.use(0, len(jobs))
            self._answer(jobs, began)
        for job in jobs:
            job.finish(began)

    def _answer(self, jobs: list[Job], began: float) -> None:
        continuations = []
        for job in jobs:
            task = job.ticket.request.task
            assert isinstance(task, GenerationTask)  # noqa: S101 - one batch has one kind
            continuations.append(
                Continuation(
                    task.prompt,
                    task.config,
                    should_stop=_stops(job.ticket),
                    on_text=job.report_text,
                    on_end=functools.partial(job.finish, began),
                )
            )
        for first, last in fitting(continuations, self._context_length):
            if self.slots.in_use:
                self.slots.use(first, last)
            generate(self._model, self._tokenizer, continuations[first:last])

    def _score(self, job: Job, pairs: Pairs) -> tuple[float, ...]:
        if job.training.fallback is not None:
            self.slots.rest()  # the base model exactly
        else:
            self.slots.use(job.slot, job.slot + 1)
        return tuple(negative_log_likelihoods(self._model, self._trainer.head, pairs))

    # --- forgetting -----------------------------------------------------------------------

    def _bring_to_rest(self, count: int) -> None:
        """Reset the slots and verify it; where one is not at rest, all are made anew."""
        used = range(min(count, self.slots.count))
        try:
            self.slots.rest()
            for slot in used:
                self.slots.reset(slot)
            at_rest = all(self.slots.is_at_rest(slot) for slot in used)
        except BaseException:  # noqa: BLE001 - whatever it was: a slot in doubt is not used again
            at_rest = False
        if not at_rest:
            self.quarantined += 1
            self._trainer.renew_slots()


def _steps(ticket: Ticket) -> int:
    return len(ticket.request.documents) * ticket.request.config.steps_per_document


def _cut(document: TokenizedDocument, length: int) -> TokenizedDocument:
    if len(document.token_ids) <= length:
        return document
    return TokenizedDocument(document.index, document.token_ids[:length], truncated=True)


def _stops(ticket: Ticket) -> Callable[[], bool]:
    """Return whether the answer ends: it is no longer wanted, or an error was told already."""
    return lambda: ticket.done.is_set() or ticket.should_stop()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
