"""One frozen model, and the slots in which prompts fine-tune it, several at a time.

A request is admitted or refused at once, waits in a queue, and is taken out of it with others
by the engine's one thread, which trains their slots together, does their tasks together, and
brings the slots to rest, verified. Only that thread touches the modules with the adapters, so
no request can see another; the base weights are never written to.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import weakref
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import torch

from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, PromptTooLong, TrainingError
from langchain_sift.ttft.admission import Admission, Reservation
from langchain_sift.ttft.batching import Batcher
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import check_texts, tokenize_documents, training_tokens
from langchain_sift.ttft.openmp import leave_cores_to_others
from langchain_sift.ttft.requests import GenerationTask, Outcome, Pairs, Request, ScoringTask
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.worker import Worker


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine is doing: at rest, zeros, but for what is counted started its start."""

    admitted: int
    """Requests that are admitted and not done."""

    admitted_tokens: int
    """Training tokens that they reserve."""

    waiting: int
    """Requests in the queue."""

    at_work: int
    """Requests in the batch that is being done."""

    quarantined: int
    """Times that a slot was not at rest after a request, and all slots were replaced."""


class Engine:
    """Fine-tunes one model for each prompt, answers, and forgets."""

    def __init__(
        self, language_model: LanguageModel, config: FineTuneConfig, limits: Limits | None = None
    ) -> None:
        """Prepare the slots.

        Args:
            language_model: Shared with whoever else uses it; never changed.
            config: The recipe. A request may bring another for the same adapter (`lora_rank`,
                `lora_alpha`, `target_modules`, `gradient_checkpointing`).
            limits: How much is done at once, and how much waits.

        Raises:
            ArgumentError: If `config.target_modules` names no layer of the model.
        """
        self.language_model = language_model
        self.config = config
        self.limits = limits or Limits()
        embeddings: Any = language_model.model.get_input_embeddings()
        self._vocabulary = int(embeddings.num_embeddings)
        self._worker = Worker(language_model, config)
        self.admission = Admission(self.limits)
        self._batcher = Batcher(self._worker.do, self.admission, self.limits)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's weights: what an adapter that is kept belongs to."""
        digest = hashlib.sha256()
        model = self.language_model.model
        for name, weights in [*model.named_parameters(), *model.named_buffers()]:
            digest.update(f"{name} {weights.dtype} {tuple(weights.shape)} ".encode())
            flat = weights.detach().contiguous().flatten().view(torch.uint8)
            digest.update(flat.cpu().numpy().tobytes())
        return digest.hexdigest()

    def request(
        self,
        texts: Sequence[str] | TrainedAdapter,
        task: GenerationTask | ScoringTask | None = None,
        *,
        config: FineTuneConfig | None = None,
        keep_adapter: bool = False,
        skip_reason: str | None = None,
    ) -> Request:
        """Tokenize the documents, and return what `submit` takes.

        Args:
            texts: Documents, most informative first; one may occur more than once. Or an
                adapter that was trained before.
            task: What to do with the model that learned from them. An answer is no longer than
                the model's context has room for.
            config: The recipe, where it is not the engine's.
            keep_adapter: Whether the outcome has the adapter's weights.
            skip_reason: Why nothing is to be learned from the texts, where that is so.

        Raises:
            ArgumentError: If the recipe needs another adapter than the engine's, the prompt is
                empty or too long, or a token is not in the model's vocabulary.
        """
        config = config or self.config
        if adapter_shape(config) != adapter_shape(self.config):
            raise ArgumentError(
                f"{config} needs another adapter than that of the engine's {self.config}"
            )
        if isinstance(task, GenerationTask):
            task = self._within_context(task)
        if task is not None:
            self._check_pairs(task.pairs)
        if isinstance(texts, TrainedAdapter):
            texts.check_fits(self._worker.names, self._worker.slots.shapes)
            return Request((), 0, config, task, adapter=texts, keep_adapter=keep_adapter)
        check_texts("texts", texts)
        texts = texts if skip_reason is None else ()
        documents = tokenize_documents(
            self.language_model.tokenizer,
            texts,
            max_length=min(config.max_length, self.language_model.context_length),
            max_documents=config.max_documents,
        )
        for document in documents:
            self._check_vocabulary(document.token_ids)
        return Request(
            documents, len(texts), config, task, keep_adapter=keep_adapter, skip_reason=skip_reason
        )

    def submit(
        self,
        request: Request,
        *,
        reservation: Reservation | None = None,
        timeout: float | None = None,
        started: float | None = None,
    ) -> Ticket:
        """Hand in a request; iterate over the ticket for what comes of it.

        Args:
            request: From `request`.
            reservation: From `admission.admit`; reserved now by default.
            timeout: Seconds after which it ends with an error; None: any time.
            started: When they began, by `time.perf_counter`; by default now.

        Raises:
            EngineOverloaded: If there is no room for it.
            RequestCancelled: If the engine is closed.
        """
        lengths = [len(document.token_ids) for document in request.documents]
        tokens = training_tokens(lengths, request.config)
        reservation = reservation or self.admission.admit(tokens)
        try:
            reservation.resize(tokens)
            ticket = Ticket(request, reservation, timeout=timeout, started=started)
            leave_cores_to_others()  # this thread waits now
            self._batcher.put(ticket)
        except BaseException:
            reservation.release()
            raise
        return ticket

    def outcome(self, request: Request, *, timeout: float | None = None) -> Outcome:
        """Hand in a request, and return its outcome."""
        *_, last = self.submit(request, timeout=timeout)
        assert isinstance(last, Outcome)  # noqa: S101 - a ticket ends with it, or raises
        return last

    async def aoutcome(self, request: Request, *, timeout: float | None = None) -> Outcome:
        """Do as `outcome` does, without blocking the event loop."""
        async with aclosing(aiter(self.submit(request, timeout=timeout))) as events:
            async for event in events:
                last = event
        assert isinstance(last, Outcome)  # noqa: S101 - a ticket ends with it, or raises
        return last

    def finetune(
        self, texts: Sequence[str], *, config: FineTuneConfig | None = None
    ) -> TrainedAdapter:
        """Learn from the texts; return the adapter, to be saved, or used again.

        Args:
            texts: Documents, most informative first.
            config: The recipe, where it is not the engine's.

        Raises:
            EngineOverloaded: If there is no room for the request.
            TrainingError: If nothing could be learned.
        """
        config = replace(config or self.config, on_failure="raise")
        outcome = self.outcome(self.request(texts, config=config, keep_adapter=True))
        if outcome.adapter is None:
            raise TrainingError(f"there is no adapter to keep: {outcome.training.fallback}")
        return outcome.adapter

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Reject a prompt that leaves no room for an answer.

        Raises:
            PromptTooLong: If the prompt fills the model's context.
            ArgumentError: If the prompt is empty, or has a token that is not in the model's
                vocabulary.
        """
        limit = self.language_model.context_length
        if not 0 < len(prompt) < limit:
            msg = f"the prompt must have from 1 to {limit - 1} tokens, got {len(prompt)}"
            raise PromptTooLong(msg) if prompt else ArgumentError(msg)
        self._check_vocabulary(prompt)

    def _within_context(self, task: GenerationTask) -> GenerationTask:
        self.check_prompt(task.prompt)
        room = self.language_model.context_length - len(task.prompt)
        if task.config.max_tokens <= room:
            return task
        return replace(task, config=replace(task.config, max_tokens=room))

    def _check_pairs(self, pairs: Pairs) -> None:
        limit = self.language_model.context_length
        for context, target in pairs:
            if not context or not target or len(context) + len(target) > limit:
                raise ArgumentError(
                    f"context and target must have at least one token each, and {limit} together, "
                    f"got {len(context)} and {len(target)}"
                )
            self._check_vocabulary([*context, *target])

    def _check_vocabulary(self, token_ids: Sequence[int]) -> None:
        # On a GPU, one index beyond the embedding makes the whole process useless.
        size = self._vocabulary
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < size:
                raise ArgumentError(f"token {token_id} is not in the model's vocabulary of {size}")

    def status(self) -> EngineStatus:
        """Return what the engine is doing."""
        return EngineStatus(
            admitted=self.admission.requests,
            admitted_tokens=self.admission.tokens,
            waiting=self._batcher.waiting,
            at_work=self._batcher.at_work,
            quarantined=self._worker.quarantined,
        )

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._batcher.closed

    def close(self) -> None:
        """Refuse what comes, cancel what is there, and wait for one step or token at most."""
        self._batcher.close()


def adapter_shape(config: FineTuneConfig) -> tuple[object, ...]:
    """Return what of a recipe decides about the slots; the rest is each request's own."""
    return (
        config.lora_rank,
        config.lora_alpha,
        config.target_modules,
        config.gradient_checkpointing,
    )


# Whoever asks for the same weights with the same adapter shares an engine: one queue, and
# batches of everybody's requests.
_engines: weakref.WeakValueDictionary[tuple[object, ...], Engine] = weakref.WeakValueDictionary()
_making = threading.Lock()


def shared_engine(
    language_model: LanguageModel, config: FineTuneConfig, limits: Limits | None = None
) -> Engine:
    """Return the engine of these weights, this tokenizer and adapter; one until it is closed.

    Raises:
        ArgumentError: As `Engine`.
    """
    limits = limits or Limits()
    weights = (id(language_model.model), id(language_model.tokenizer))
    key = (*weights, adapter_shape(config), limits)
    with _making:
        engine = _engines.get(key)
        if engine is None or engine.closed:
            engine = Engine(language_model, config, limits)
            _engines[key] = engine
        return engine
