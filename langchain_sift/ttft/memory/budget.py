"""Keep the batches of an engine within a limit of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import MemoryExceeded
from langchain_sift.ttft.memory.estimate import Footprint, Load, batch_bytes
from langchain_sift.ttft.memory.footprint import measure_footprint
from langchain_sift.ttft.memory.use import return_to_system, used_bytes
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.requests import GenerationTask, Request
from langchain_sift.ttft.training.lessons import ANSWER_TOKENS, AT_ONCE, QUESTION_TOKENS, Lesson

_GB = 1e9
# What a batch takes on a CPU beside PyTorch's tensors: space for products, and gaps between blocks.
# SmolLM2 measured 0.2 to 0.35 GB.
_BESIDE = 300_000_000


class MemoryBudget:
    """The memory that batches need by estimate, and the limit of it."""

    def __init__(
        self, language_model: LanguageModel, config: FineTuneConfig, limit_gb: float | None
    ) -> None:
        """Measure the model if there is a limit; otherwise `watch` does.

        Args:
            language_model: The model.
            config: The settings that shape the adapter.
            limit_gb: Maximum memory in GB, the model included. None means no limit.
        """
        self._language_model = language_model
        self._config = config
        self._limit_gb = limit_gb
        self._device = language_model.device
        self._rest = 0
        self._footprint: Footprint | None = None
        self.estimated_peak: int | None = None
        """Bytes in use at the peak so far, by estimate. None means that nothing was estimated."""
        if limit_gb is not None:
            self.watch()

    @property
    def is_limited(self) -> bool:
        """True if there is a limit."""
        return self._limit_gb is not None

    def watch(self) -> Footprint:
        """Measure the model and the memory in use, so that batches are estimated from now on."""
        if self._footprint is None:
            footprint = measure_footprint(self._language_model, self._config)
            self._rest = self.estimated_peak = used_bytes(self._device)
            self._footprint = footprint
        return self._footprint

    def renew(self, slots: int) -> None:
        """Measure the memory in use between two batches.

        Args:
            slots: Bytes of the slots, which belong to the batches.
        """
        # Other users of a GPU come and go, and PyTorch counts them as well.
        if self._device.type == "cpu":
            return_to_system()
            self._rest = used_bytes(self._device) - slots

    def check(self, request: Request) -> None:
        """Check that a request fits if it is alone.

        Raises:
            MemoryExceeded: If it does not.
        """
        if self._limit_gb is None:
            return
        peak = self._peak(self.watch(), [load_of(request)])
        if peak > self._limit_gb * _GB:
            raise MemoryExceeded(
                f"the request needs about {peak / _GB:.2f} GB of memory, {self._rest / _GB:.2f} GB "
                f"of them without any request, and max_memory_gb is {self._limit_gb:g}: raise "
                "Limits.max_memory_gb, or lower max_length, lora_rank, max_tokens or the length of "
                "the prompt"
            )

    def room_beside(self, load: Load) -> int | None:
        """Return the bytes that one request leaves below the limit, at least 0; None: no limit."""
        if self._limit_gb is None:
            return None
        return max(0, int(self._limit_gb * _GB) - self._peak(self.watch(), [load]))

    def fitting(self, requests: Sequence[Request]) -> int:
        """Return how many of the first requests fit into one batch, at least one."""
        if self._footprint is None:
            return len(requests)
        loads = [load_of(request) for request in requests]
        count, peak = len(loads), self._peak(self._footprint, loads)
        while self._limit_gb is not None and count > 1 and peak > self._limit_gb * _GB:
            count -= 1
            peak = self._peak(self._footprint, loads[:count])
        self.estimated_peak = max(peak, self.estimated_peak or 0)
        return count

    def _peak(self, footprint: Footprint, loads: Sequence[Load]) -> int:
        beside = _BESIDE if self._device.type == "cpu" else 0
        return self._rest + beside + batch_bytes(footprint, loads)


def _longest(lessons: Sequence[Lesson]) -> tuple[Load, ...]:
    """Return the longest texts that a teacher writes together."""
    loads = []
    for lesson in lessons:
        prompt = max(len(lesson.ask), len(lesson.teacher) + (QUESTION_TOKENS if lesson.ask else 0))
        whole = len(lesson.teacher) + lesson.written
        answer = len(lesson.text) or ANSWER_TOKENS
        written = 0 if lesson.text else ANSWER_TOKENS
        loads.append(
            Load(
                prompt=prompt if written else 0,
                answer=written,
                scored=whole,
                longest=whole,
                targets=answer,
            )
        )
    loads.sort(key=lambda load: load.longest)
    return (*[load for load in loads if load.prompt][-AT_ONCE:], *loads[-1:])


def load_of(request: Request) -> Load:
    """Return the lengths that determine the memory of a request."""
    task = request.task
    lengths = [(len(c), len(t)) for c, t in task.pairs] if task is not None else []
    whole = [context + target for context, target in lengths]
    documents = [len(document.token_ids) for document in request.documents]
    load = Load(
        document=max([lesson.tokens for lesson in request.lessons] or documents, default=0),
        lessons=_longest(request.lessons),
        has_adapter=request.adapter is not None,
        targets=sum(target for _, target in lengths),
    )
    if isinstance(task, GenerationTask):
        answer = task.config.max_tokens
        return replace(load, prompt=len(task.prompt), answer=answer, copies=sum(whole))
    longest = max(whole, default=0)
    return replace(load, scored=len(whole) * longest, longest=longest)
