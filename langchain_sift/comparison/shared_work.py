"""Keep what one method computed for the prompts of a unit, for methods that need the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from langchain_sift.ttft import Milestone, Outcome, Request, TrainedAdapter, TrainingRecord

_MOST_BYTES = 1 << 30  # of adapters; further ones are trained again


@dataclass(slots=True)
class SharedWork:
    """Trained adapters and answers, while the units that follow one another have equal prompts."""

    _prompts: frozenset[str] = frozenset()
    _adapters: dict[Hashable, TrainedAdapter] = field(default_factory=dict)
    _answers: dict[Hashable, tuple[str, Outcome]] = field(default_factory=dict)

    def begin(self, prompts: frozenset[str]) -> None:
        """Forget the work on other prompts. A chain has none here, and ends nothing."""
        if prompts and prompts != self._prompts:
            self._prompts = prompts
            self._adapters.clear()
            self._answers.clear()

    def with_adapter(self, request: Request, *, anew: bool) -> Request:
        """Replace the training of a request by the adapter that the same training gave before.

        Its record keeps the seconds of that training, which are the cost of this method as well:
        the share of this prompt in its batch.

        Args:
            request: The request.
            anew: If True, it trains in any case, and its adapters are kept.
        """
        adapter = None if anew else self._adapters.get(_training_of(request))
        if adapter is None:
            return replace(request, keep_adapter=True)
        return request.with_adapter(adapter, keep_seconds=True)

    def keep_adapter(self, request: Request, outcome: Outcome) -> None:
        """Keep the adapter of an outcome and those of its milestones, while there is room."""
        if outcome.adapter is None:
            return
        found: dict[int, TrainedAdapter] = {}
        for milestone in outcome.milestones:
            steps = sum(document.index < milestone.documents for document in request.documents)
            if milestone.adapter is not None:
                found[steps] = replace(
                    outcome.adapter,
                    weights=milestone.adapter,
                    training=_record_at(milestone, outcome.adapter),
                )
        found[len(request.documents)] = outcome.adapter
        kept = sum(adapter.weights.nbytes for adapter in self._adapters.values())
        for count, adapter in found.items():
            kept += adapter.weights.nbytes
            if kept <= _MOST_BYTES:
                seconds = adapter.training.seconds / outcome.batch_size
                record = replace(adapter.training, seconds=seconds)
                key = _training_of(request, count)
                self._adapters[key] = replace(adapter, training=record)

    def answer(self, key: Hashable) -> tuple[str, Outcome] | None:
        """Return the text and the outcome of the base model for a key, if it was kept."""
        return self._answers.get(key)

    def keep_answer(self, key: Hashable, text: str, outcome: Outcome) -> None:
        """Keep a text and an outcome of the base model."""
        self._answers[key] = text, outcome


def _record_at(milestone: Milestone, adapter: TrainedAdapter) -> TrainingRecord:
    """Return the record of an adapter's training as it was at a milestone."""
    record = adapter.training
    trained = tuple(index for index in record.trained if index < milestone.documents)
    steps = len(trained) * adapter.config.steps_per_document
    return replace(
        record,
        trained=trained,
        losses=record.losses[:steps],
        tokens=milestone.tokens,
        seconds=milestone.seconds,
    )


def _training_of(request: Request, count: int | None = None) -> Hashable:
    """Return the key of an adapter trained on this many documents, or on all: all it depends on."""
    texts = tuple((document.token_ids, document.counted) for document in request.documents[:count])
    return texts, request.lessons, request.config
