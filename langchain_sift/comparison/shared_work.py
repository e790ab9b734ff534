"""Keep what one method computed for the prompts of a unit, for methods that need the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from langchain_sift.ttft import Outcome, Request, TrainedAdapter

_MOST_BYTES = 1 << 30  # of adapters; further ones are trained again


@dataclass(slots=True)
class SharedWork:
    """Trained adapters and answers, while the units that follow one another have equal prompts."""

    _prompts: frozenset[str] = frozenset()
    _adapters: dict[Hashable, TrainedAdapter] = field(default_factory=dict)
    _answers: dict[Hashable, tuple[str, Outcome]] = field(default_factory=dict)

    def begin(self, prompts: frozenset[str]) -> None:
        """Forget the work on other prompts."""
        if prompts != self._prompts:
            self._prompts = prompts
            self._adapters.clear()
            self._answers.clear()

    def with_adapter(self, request: Request) -> Request:
        """Replace the training of a request by the adapter that the same training gave before.

        Its record keeps the seconds of that training, which are the cost of this method as well.
        """
        adapter = self._adapters.get(_training_of(request))
        if adapter is None:
            return replace(request, keep_adapter=True)
        return request.with_adapter(adapter, keep_seconds=True)

    def keep_adapter(self, request: Request, outcome: Outcome) -> None:
        """Keep the adapter of an outcome, if it has one and there is room."""
        kept = sum(adapter.weights.nbytes for adapter in self._adapters.values())
        if outcome.adapter is not None and kept + outcome.adapter.weights.nbytes <= _MOST_BYTES:
            self._adapters[_training_of(request)] = outcome.adapter

    def answer(self, key: Hashable) -> tuple[str, Outcome] | None:
        """Return the text and the outcome of the base model for a key, if it was kept."""
        return self._answers.get(key)

    def keep_answer(self, key: Hashable, text: str, outcome: Outcome) -> None:
        """Keep a text and an outcome of the base model."""
        self._answers[key] = text, outcome


def _training_of(request: Request) -> Hashable:
    """Return what the trained adapter depends on."""
    texts = tuple((document.token_ids, document.counted) for document in request.documents)
    return texts, request.lessons, request.config
