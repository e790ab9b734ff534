"""Fine-tune one frozen model for each request, answer, and reset it.

The path of a request, from the client's thread to the engine's thread and back:

    admission   reserve room for the request, or refuse it at once
    engine      check the prompt, tokenize the documents (model/tokens)
    tickets     submit the request as a ticket; the client iterates over its events
    batching    queue -> a batch of requests with tasks of the same type
      teacher     with the objective "distill": the base model writes, and rates tokens
      worker      one slot per request: LoRA weights, gradients, AdamW state (training/slots)
      training    per document: forward, loss, backward, step     -> Step    (trainer, lora, loss)
      generation  one pass over each prompt; the texts to score   (answering)
      generation  per token: forward, sample, decode              -> str
      worker      complete the ticket, release its reservation    -> Outcome
      worker      reset each slot and verify it bit for bit; if one is in doubt, replace them all

One thread of the engine runs all batches, and only this thread touches the modules with the
slots, so a request never sees another. The base weights are never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NoReturn

from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, PromptTooLong
from langchain_sift.ttft.admission import Admission, Reservation
from langchain_sift.ttft.answer_room import check_room
from langchain_sift.ttft.batching import Batcher
from langchain_sift.ttft.documents import check_material, with_documents
from langchain_sift.ttft.memory.budget import MemoryBudget
from langchain_sift.ttft.memory.use import peak_bytes
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import EncodedText
from langchain_sift.ttft.openmp import release_helper_threads
from langchain_sift.ttft.requests import EngineStatus, GenerationTask, Outcome, Pairs, Request, Task
from langchain_sift.ttft.sampling import with_recommended
from langchain_sift.ttft.tickets import Ticket
from langchain_sift.ttft.training.adapted_model import check_shape
from langchain_sift.ttft.training.drift import check_drift_texts
from langchain_sift.ttft.training.lessons import Teaching
from langchain_sift.ttft.training.target_layers import TargetLayers
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.worker import Worker


class Engine:
    """One model with slots: fine-tunes it for each request, answers, and resets the slots."""

    def __init__(
        self, language_model: LanguageModel, config: FineTuneConfig, limits: Limits | None = None
    ) -> None:
        """Allocate the first slot.

        Args:
            language_model: The model, which may have other users. It never changes.
            config: Default settings of the training. A request may have others, except for those
                that shape the adapter: `lora_rank`, `lora_alpha`, `target_modules` and
                `gradient_checkpointing`.
            limits: Maximum batch size, load and memory. None means `Limits()`.

        Raises:
            ArgumentError: If a layer that `config.target_modules` names cannot get an adapter, or
                one of `config.drift_texts` is too short for a loss.
        """
        check_drift_texts(config.drift_texts, language_model.tokenizer)
        self.language_model = language_model
        self.config = config
        self.limits = limits or Limits()
        self.admission = Admission(self.limits)
        self.memory = MemoryBudget(language_model, config, self.limits.max_memory_gb)
        """Estimates of the memory that batches need."""
        self._worker = Worker(language_model, config, self.memory)
        self._batcher = Batcher(self._worker.run, self._worker.rest, self.admission, self.limits)

    def request(
        self,
        texts: Sequence[str | EncodedText] | TrainedAdapter | None = None,
        task: Task | None = None,
        *,
        config: FineTuneConfig | None = None,
        keep_adapter: bool = False,
        teaching: Teaching | None = None,
        skip_reason: str | None = None,
        start: TrainedAdapter | None = None,
    ) -> Request:
        """Check a task and tokenize its documents, for `submit`.

        Args:
            texts: Documents to train on, most informative first, with repeats; or a trained
                adapter to use instead. None means that `with_texts` adds them.
            task: Task of the fine-tuned model. An answer has at most as many tokens as the
                model's context has room for. None means to train only.
            config: Settings of the training. None means those of the engine.
            keep_adapter: If True, the outcome contains the trained adapter.
            teaching: Plans the lessons about the texts, for the objective "distill".
            skip_reason: Reason not to train on the texts, for the record. None means to train.
            start: An adapter to train on from; it does not change. None means a new one.

        Raises:
            PromptTooLong: If the prompt fills the model's context, or leaves no room for the
                shortest answer that follows the grammar.
            MemoryExceeded: If the request does not fit into `Limits.max_memory_gb`.
            ArgumentError: If the config needs adapters of another shape than the engine's, a text
                of its `drift_texts` is too short, the prompt is empty, a token is not in the
                vocabulary, no decoder supports the grammar, or `max_tokens` is too small for it.
        """
        config = config or self.config
        check_shape(config, self.config)
        if config.drift_texts != self.config.drift_texts:
            check_drift_texts(config.drift_texts, self.language_model.tokenizer)
        if isinstance(task, GenerationTask):
            task = self._fit_context(task)
        if task is not None:
            self._check_pairs(task.pairs)
        adapter = texts if isinstance(texts, TrainedAdapter) else start
        if adapter is not None:
            targets, slots = self._worker.targets, self._worker.slots
            adapter.check_fits(targets.names, slots.shapes, self.config.lora_alpha)
            record = replace(adapter.training, seconds=0.0, seconds_teacher=0.0)
            adapter = replace(adapter, training=record)
        request = Request((), config, task, adapter=adapter, keep_adapter=keep_adapter)
        if texts is None or isinstance(texts, TrainedAdapter):
            return self._fitting(request)
        return self.with_texts(request, texts, teaching=teaching, skip_reason=skip_reason)

    def with_texts(
        self,
        request: Request,
        texts: Sequence[str | EncodedText],
        *,
        teaching: Teaching | None = None,
        skip_reason: str | None = None,
    ) -> Request:
        """Tokenize documents and add them to a request that has none.

        Args:
            request: The request, whose task is checked.
            texts: As in `request`.
            teaching: As in `request`.
            skip_reason: As in `request`.

        Raises:
            MemoryExceeded: If the request does not fit into `Limits.max_memory_gb`.
            ArgumentError: If the texts do not fit the objective, a token is not in the model's
                vocabulary, or no gradient passes the model.
        """
        check_material(texts, request.config, taught=teaching is not None)
        if skip_reason is not None:
            return replace(request, skip_reason=skip_reason)
        return self._fitting(with_documents(request, texts, self.language_model, teaching))

    def _fitting(self, request: Request) -> Request:
        self.memory.check(request)
        return request

    def submit(
        self,
        request: Request,
        *,
        reservation: Reservation | None = None,
        timeout: float | None = None,
        started: float | None = None,
    ) -> Ticket:
        """Queue a request and return its ticket; iterate over it for the events.

        Args:
            request: A request made by `request`.
            reservation: Room for the request, from `admission`. None means to reserve it now.
            timeout: Seconds until the request must be done. None means no limit.
            started: Start of these seconds, by `time.perf_counter`. None means now.

        Raises:
            EngineOverloaded: If there is no room for the request.
            RequestCancelled: If the engine is closed.
        """
        reservation = reservation or self.admission.admit(request.training_tokens)
        try:
            reservation.resize(request.training_tokens)
            ticket = Ticket(request, reservation, timeout=timeout, started=started)
            release_helper_threads()  # this thread now waits
            self._batcher.put(ticket)
        except BaseException:
            reservation.release()
            raise
        return ticket

    def outcome(
        self,
        request: Request,
        *,
        reservation: Reservation | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Run a request and return its outcome; the arguments are those of `submit`."""
        events = self.submit(request, reservation=reservation, timeout=timeout)
        return next(event for event in events if isinstance(event, Outcome))

    async def aoutcome(
        self,
        request: Request,
        *,
        reservation: Reservation | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Run a request without blocking the event loop, and return its outcome."""
        ticket = self.submit(request, reservation=reservation, timeout=timeout)
        async with aclosing(aiter(ticket)) as events:
            outcomes = [event async for event in events if isinstance(event, Outcome)]
        return outcomes[0]

    def finetune(
        self, texts: Sequence[str], *, config: FineTuneConfig | None = None
    ) -> TrainedAdapter:
        """Train on the texts and return the adapter, to save it or to use it in a request.

        Args:
            texts: Documents, most informative first.
            config: Settings of the training. None means those of the engine.

        Raises:
            EngineOverloaded: If there is no room for the request.
            TrainingError: If training failed, or there was no document to train on.
        """
        config = replace(config or self.config, on_failure="raise")
        return self.outcome(self.request(texts, config=config, keep_adapter=True)).trained()

    def _fit_context(self, task: GenerationTask) -> GenerationTask:
        """Check the prompt, complete the settings, and limit the answer to the model's context."""
        limit, length = self.language_model.context_length, len(task.prompt)
        most = limit - min(1, task.config.max_tokens)
        if not 0 < length <= most:
            bounds = f"must have from 1 to {most} tokens, got {length}"
            if length:
                # langchain-openai recognizes these words in the error of a server.
                raise PromptTooLong(f"the prompt is too long: it {bounds}")
            raise ArgumentError(f"the prompt {bounds}")
        self.language_model.check_token_ids(task.prompt)
        config = with_recommended(task.config, self.language_model.model)
        max_tokens = min(config.max_tokens, limit - length)
        check_room(self.language_model, task, max_tokens)
        return replace(task, config=replace(config, max_tokens=max_tokens))

    def _check_pairs(self, pairs: Pairs) -> None:
        limit = self.language_model.context_length
        for context, target in pairs:
            if not context or not target or len(context) + len(target) > limit:
                raise ArgumentError(
                    f"context and target must have at least one token each, and {limit} together, "
                    f"got {len(context)} and {len(target)}"
                )
            self.language_model.check_token_ids([*context, *target])

    def status(self) -> EngineStatus:
        """Return the current load and the number of quarantines."""
        return EngineStatus(
            admitted=self.admission.requests,
            admitted_tokens=self.admission.tokens,
            waiting=self._batcher.waiting,
            at_work=self._batcher.at_work,
            idle_seconds=self._batcher.idle_seconds,
            quarantined=self._worker.quarantined,
            estimated_memory=self.memory.estimated_peak,
            peak_memory=peak_bytes(self.language_model.device),
        )

    def __deepcopy__(self, memo: dict[int, object] | None = None) -> Engine:
        """Return the engine itself: copies of a model share it."""
        return self

    __copy__ = __deepcopy__

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: an engine has a thread, and the adapters of its requests."""
        raise TypeError(
            "an Engine cannot be pickled: make one in the process that uses it, from the model"
        )

    @property
    def target_layers(self) -> TargetLayers:
        """The layers that get an adapter, and the weights that cannot."""
        return self._worker.targets

    @property
    def adapter_bytes(self) -> int:
        """Number of bytes of a trained adapter."""
        size: int = self._worker.slots.size
        return 4 * size

    @property
    def closed(self) -> bool:
        """If True, the engine accepts no more requests."""
        return self._batcher.closed

    def close(self) -> None:
        """Refuse new requests, cancel all others, and wait for at most one step or token."""
        self._batcher.close()
