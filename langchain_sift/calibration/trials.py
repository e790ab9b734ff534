"""Fine-tune on held-out prompts, each trial once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from langchain_sift.calibration.held_out import HeldOut
from langchain_sift.config import FineTuneConfig
from langchain_sift.selection.arguments import Array
from langchain_sift.ttft import Engine, Outcome, Request, ScoringTask

_TRIALS_AT_ONCE = 32  # submitted together, so that the engine trains them in batches


@dataclass(frozen=True, slots=True)
class Trial:
    """One fine-tuning; two λ' that choose the same documents have the same trial."""

    prompt: int
    documents: tuple[int, ...]
    """Indices of candidates, in the order of training."""

    learning_rate: float


class Trials:
    """The trials on held-out prompts, and their measurements.

    Attributes:
        steps: Number of gradient steps so far.
    """

    def __init__(
        self,
        engine: Engine,
        config: FineTuneConfig,
        prompts: Sequence[HeldOut],
        counts: Sequence[int],
        *,
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Create the trials; nothing runs yet.

        Args:
            engine: The engine that fine-tunes; it may be shared.
            config: The settings of fine-tuning, except for the learning rate.
            prompts: The prompts to predict.
            counts: Numbers of documents after which to measure, ascending.
            on_steps: Called after each trial with the number of gradient steps so far.
        """
        self.engine = engine
        self.config = config
        self.prompts = prompts
        self.counts = tuple(counts)
        self.steps = 0
        self._on_steps = on_steps
        self._documents: dict[tuple[int, float], tuple[int, ...]] = {}
        self._base: dict[int, float] = {}
        self._percents: dict[Trial, Array] = {}

    def documents(self, prompt: int, noise_variance: float) -> tuple[int, ...]:
        """Return the candidates that SIFT chooses for a prompt; computed once."""
        key = (prompt, noise_variance)
        if key not in self._documents:
            self._documents[key] = self.prompts[prompt].choose(self.counts[-1], noise_variance)
        return self._documents[key]

    def trial(self, prompt: int, noise_variance: float, learning_rate: float) -> Trial:
        """Return the trial of a pair of settings on a prompt."""
        return Trial(prompt, self.documents(prompt, noise_variance), learning_rate)

    def run(self, trials: Iterable[Trial]) -> None:
        """Run those of the trials that are not done."""
        new = [trial for trial in dict.fromkeys(trials) if not self.is_done(trial)]
        for prompt in sorted({trial.prompt for trial in new} - self._base.keys()):
            request = self.engine.request([], self._scoring_task(prompt))
            self._base[prompt] = self.engine.outcome(request).nats[0]
        for start in range(0, len(new), _TRIALS_AT_ONCE):
            batch = new[start : start + _TRIALS_AT_ONCE]
            tickets = [self.engine.submit(self._request(trial)) for trial in batch]
            for trial, ticket in zip(batch, tickets, strict=True):
                outcome = next(event for event in ticket if isinstance(event, Outcome))
                self._record(trial, outcome)

    def is_done(self, trial: Trial) -> bool:
        """Return True if the trial has a measurement."""
        return trial in self._percents

    def percents(self, trial: Trial) -> Array:
        """Return the bits in percent of the base model's, after each count of documents."""
        return self._percents[trial]

    def _scoring_task(self, prompt: int, after: Sequence[int] = ()) -> ScoringTask:
        tokens = self.prompts[prompt].tokens
        return ScoringTask([(tokens.without_documents(), tokens.target)], after=after)

    def _request(self, trial: Trial) -> Request:
        texts = self.prompts[trial.prompt].texts
        return self.engine.request(
            [texts[index] for index in trial.documents],
            self._scoring_task(trial.prompt, self.counts),
            config=replace(self.config, learning_rate=trial.learning_rate),
        )

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        # Counts that training did not reach have the outcome's value; after a failure that is the
        # value of the base model.
        measured = {milestone.documents: milestone.nats[0] for milestone in outcome.milestones}
        nats = [measured.get(count, outcome.nats[0]) for count in self.counts[:-1]]
        self._percents[trial] = 100 * np.array([*nats, outcome.nats[0]]) / self._base[trial.prompt]
        self.steps += len(outcome.training.losses)
        self._on_steps(self.steps)
