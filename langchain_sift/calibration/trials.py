"""Real fine-tunings for held-out documents, each done once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from langchain_sift.calibration.held_out import HeldOut
from langchain_sift.config import FineTuneConfig
from langchain_sift.selection.arguments import Array
from langchain_sift.ttft import Engine, Outcome, Request, ScoringTask

# Handed in together, so that the engine trains several at once.
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Trial:
    """One fine-tuning. Two λ' that choose the same documents are the same trial."""

    prompt: int
    documents: tuple[int, ...]
    """Places of candidates, in the order of training."""

    learning_rate: float


class Trials:
    """Fine-tunes for prompts, each trial once, and remembers what it led to.

    Attributes:
        steps: Gradient steps so far.
        on_trial: Called after each trial.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: FineTuneConfig,
        prompts: Sequence[HeldOut],
        counts: Sequence[int],
    ) -> None:
        """Take the prompts.

        Args:
            engine: Trains.
            recipe: How, but for the learning rate. The engine may be shared by others with
                another one.
            prompts: What is predicted.
            counts: Numbers of documents after which it is measured, ascending.
        """
        self.engine = engine
        self.recipe = recipe
        self.prompts = prompts
        self.counts = tuple(counts)
        self.steps = 0
        self.on_trial: Callable[[], None] = lambda: None
        self._choices: dict[tuple[int, float], tuple[int, ...]] = {}
        self._base: dict[int, float] = {}
        self._percents: dict[Trial, Array] = {}

    def of(self, prompt: int, noise_variance: float, learning_rate: float) -> Trial:
        """Return the trial of some settings on a prompt."""
        key = (prompt, noise_variance)
        if key not in self._choices:
            self._choices[key] = self.prompts[prompt].choose(self.counts[-1], noise_variance)
        return Trial(prompt, self._choices[key], learning_rate)

    def run(self, wanted: Iterable[Trial]) -> None:
        """Do the trials that were not done before."""
        new = [trial for trial in dict.fromkeys(wanted) if trial not in self._percents]
        for prompt in sorted({trial.prompt for trial in new} - self._base.keys()):
            request = self.engine.request([], self._scoring(prompt))
            self._base[prompt] = self.engine.outcome(request).nats[0]
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            tickets = [self.engine.submit(self._request(trial)) for trial in some]
            for trial, ticket in zip(some, tickets, strict=True):
                *_, outcome = ticket
                assert isinstance(outcome, Outcome)  # noqa: S101 - a ticket ends with it, or raises
                self._note(trial, outcome)

    def is_done(self, trial: Trial) -> bool:
        """Return whether it was run."""
        return trial in self._percents

    def percents(self, trial: Trial) -> Array:
        """Return the bits in percent of the base model's, after each count of documents."""
        return self._percents[trial]

    def _scoring(self, prompt: int, after: Sequence[int] = ()) -> ScoringTask:
        tokens = self.prompts[prompt].tokens
        return ScoringTask([(tokens.without_documents(), tokens.target)], after=after)

    def _request(self, trial: Trial) -> Request:
        texts = self.prompts[trial.prompt].texts
        return self.engine.request(
            [texts[place] for place in trial.documents],
            self._scoring(trial.prompt, self.counts),
            config=replace(self.recipe, learning_rate=trial.learning_rate),
        )

    def _note(self, trial: Trial, outcome: Outcome) -> None:
        # Where training broke down the base model answers, whatever was measured on the way.
        reached = {milestone.documents: milestone.nats[0] for milestone in outcome.milestones}
        nats = [reached.get(count, outcome.nats[0]) for count in self.counts[:-1]]
        self._percents[trial] = 100 * np.array([*nats, outcome.nats[0]]) / self._base[trial.prompt]
        self.steps += len(outcome.training.losses)
        self.on_trial()
