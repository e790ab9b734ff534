"""Fine-tune on held-out prompts, each trial once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from langchain_sift.calibration.held_out import HeldOut
from langchain_sift.config import FineTuneConfig, Mode, adds_context, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.selection.arguments import Array
from langchain_sift.ttft import Engine, Outcome, Request, ScoringTask
from langchain_sift.ttft.model.tokens import max_training_tokens
from langchain_sift.ttft.training.adapted_model import adapter_shape

_TRIALS_AT_ONCE = 32  # submitted together, so that the engine trains them in batches


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings to measure: those that choose the documents, and those that train on them."""

    noise_variance: float
    """λ' of SIFT."""

    config: FineTuneConfig


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement; two λ' that choose the same documents have the same trial."""

    prompt: int
    documents: tuple[int, ...]
    """Indices of candidates, in the order of training."""

    config: FineTuneConfig

    mode: Mode = "ttft"
    """The use of the documents. "ttft" is measured after each number of documents, the others
    after all."""


class Trials:
    """The trials on held-out prompts, and their measurements.

    Attributes:
        steps: Number of gradient steps so far.
        seconds: Time that they took so far.
        on_trial: Called after each trial.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[HeldOut],
        counts: Sequence[int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the trials; nothing runs yet.

        Args:
            engine: The engine that fine-tunes; it may be shared. A config that needs adapters of
                another shape gets an engine of its own.
            prompts: The prompts to predict.
            counts: Numbers of documents after which to measure, ascending.
            clock: Returns the time in seconds.
        """
        self.engine = engine
        self.prompts = prompts
        self.counts = tuple(counts)
        self.steps = 0
        self.seconds = 0.0
        self.on_trial: Callable[[], None] = lambda: None
        self._clock = clock
        self._engines: dict[tuple[object, ...], Engine] = {}
        self._documents: dict[tuple[int, float], tuple[int, ...]] = {}
        self._base: dict[int, float] = {}
        self._percents: dict[Trial, Array] = {}

    @property
    def decoder_layers(self) -> int:
        """Number of decoder layers of the model."""
        config = self.engine.language_model.model.config.get_text_config()
        return int(config.num_hidden_layers)

    def counts_of(self, config: FineTuneConfig) -> tuple[int, ...]:
        """Return the numbers of documents after which a training is measured.

        A teacher has all documents in its context: fewer of them are another training.
        """
        return self.counts[-1:] if config.objective == "distill" else self.counts

    def cost(self, setting: Setting) -> int:
        """Return the number of gradient steps of a trial, about."""
        # With the objective "distill" there are up to three lessons about each document.
        lessons = 3 if setting.config.objective == "distill" else 1
        return lessons * self.counts[-1] * setting.config.steps_per_document

    def documents(self, prompt: int, noise_variance: float) -> tuple[int, ...]:
        """Return the candidates that SIFT chooses for a prompt; computed once."""
        key = (prompt, noise_variance)
        if key not in self._documents:
            self._documents[key] = self.prompts[prompt].choose(self.counts[-1], noise_variance)
        return self._documents[key]

    def trial(self, prompt: int, setting: Setting) -> Trial:
        """Return the trial of settings on a prompt."""
        return Trial(prompt, self.documents(prompt, setting.noise_variance), setting.config)

    def fits(self, setting: Setting) -> bool:
        """Return True if the documents that SIFT chooses fit the objective of settings.

        "distill" is for questions: its teacher answers them.
        """
        if setting.config.objective == "distill" and not all(
            prompt.tokens.task.generates for prompt in self.prompts
        ):
            return False
        try:
            for prompt in range(len(self.prompts)):
                self._request(self.trial(prompt, setting))
        except ArgumentError:
            return False
        return True

    def run(self, trials: Iterable[Trial]) -> None:
        """Run those of the trials that are not done."""
        new = [trial for trial in dict.fromkeys(trials) if not self.is_done(trial)]
        began = self._clock()
        for prompt in sorted({trial.prompt for trial in new} - self._base.keys()):
            tokens = self.prompts[prompt].tokens
            task = ScoringTask([(tokens.without_documents(), tokens.target)])
            self._base[prompt] = self.engine.outcome(self.engine.request([], task)).nats[0]
        size = self._at_once(new)
        for start in range(0, len(new), size):
            batch = new[start : start + size]
            with ExitStack() as submitted:
                tickets = []
                for trial in batch:
                    ticket = self._engine_of(trial.config).submit(self._request(trial))
                    submitted.callback(ticket.cancel)  # nothing runs on after an error
                    tickets.append(ticket)
                for trial, ticket in zip(batch, tickets, strict=True):
                    outcome = next(event for event in ticket if isinstance(event, Outcome))
                    self._record(trial, outcome)
        self.seconds += self._clock() - began

    def _at_once(self, trials: Sequence[Trial]) -> int:
        """Return how many of the trials the engine admits together."""
        tokens = [max_training_tokens(len(each.documents), each.config) for each in trials]
        admitted = self.engine.limits.max_tokens // max(1, *tokens, 1)
        return max(1, min(_TRIALS_AT_ONCE, admitted))

    def keep_engine(self, config: FineTuneConfig | None) -> None:
        """Close the engines of other adapters than those of a config, for their memory."""
        kept = None if config is None else adapter_shape(config)
        for shape in self._engines.keys() - {kept}:
            self._engines.pop(shape).close()

    def _engine_of(self, config: FineTuneConfig) -> Engine:
        shape = adapter_shape(config)
        if shape == adapter_shape(self.engine.config):
            return self.engine
        if shape not in self._engines:
            self._engines[shape] = Engine(self.engine.language_model, config, self.engine.limits)
        return self._engines[shape]

    def is_done(self, trial: Trial) -> bool:
        """Return True if the trial has a measurement."""
        return trial in self._percents

    def percents(self, trial: Trial) -> Array:
        """Return the bits in percent of the base model's, after each count of documents."""
        return self._percents[trial]

    def _request(self, trial: Trial) -> Request:
        held_out, model = self.prompts[trial.prompt], self.engine.language_model
        chosen = [held_out.documents[index] for index in trial.documents]
        context, after = held_out.tokens.without_documents(), self.counts_of(trial.config)
        if adds_context(trial.mode):
            fitted = held_out.tokens.with_documents(
                [document.page_content for document in chosen],
                model.tokenizer,
                window=model.context_length,
                max_length=trial.config.max_length,
            )
            context = fitted.token_ids
        if trial.mode != "ttft":
            after = ()
        prompt = None
        if held_out.tokens.task.generates:
            prompt = partial(held_out.tokens.prompt, model.tokenizer)
        trained = chosen if fine_tunes(trial.mode) else []
        material = training_material(trained, trial.config, model, prompt=prompt)
        return self._engine_of(trial.config).request(
            material.texts,
            ScoringTask([(context, held_out.tokens.target)], after=after),
            config=trial.config,
            teaching=material.teaching,
        )

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        # Counts that training did not reach have the outcome's value; after a failure that is the
        # value of the base model.
        measured = {milestone.documents: milestone.nats[0] for milestone in outcome.milestones}
        counts = self.counts_of(trial.config)[:-1] if trial.mode == "ttft" else ()
        nats = [measured.get(count, outcome.nats[0]) for count in counts]
        self._percents[trial] = 100 * np.array([*nats, outcome.nats[0]]) / self._base[trial.prompt]
        self.steps += len(outcome.training.losses)
        self.on_trial()
