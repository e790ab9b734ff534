"""Ray actors that train and answer, so that a comparison is not one process's alone.

What is asked is handed out in pieces, and a piece whose actor died is handed out again: a piece
may be done twice, but the first result that comes back is the only one that counts.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_sift.comparison.measurement import Asked, Asker, Prepared, Scorer
from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, EngineError, ModelLoadError, require
from langchain_sift.report.rows import Row
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine

require("ray", "ray")

# Before Ray is imported, which reads them once. Nothing is reported to its makers unless asked.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray  # noqa: E402
from ray.exceptions import (  # noqa: E402
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_PATIENCE = 600.0  # seconds without a single actor, loading its model or at work
_DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


@dataclass(frozen=True, slots=True)
class ActorModel:
    """What an actor loads and does, as plain values: the same in all of them, and here."""

    name: str
    revision: str | None
    dtype: str
    recipe: FineTuneConfig
    limits: Limits
    max_tokens: int
    scorers: dict[str, Scorer]

    @classmethod
    def like(cls, language_model: LanguageModel, **settings: Any) -> ActorModel:
        """Return how an actor gets the model that is loaded here.

        Raises:
            ArgumentError: If it has no name by which it could be loaded once more.
        """
        weights = language_model.model
        if language_model.name == type(weights).__name__:
            raise ArgumentError(
                "Ray's actors load the model themselves: give its name or folder, and not "
                f"a loaded {language_model.name}"
            )
        folder = Path(language_model.name)
        # The hub's files are kept in a folder named after their commit.
        revision = None if folder.is_dir() else Path(str(weights.name_or_path)).name
        name = str(folder.resolve()) if folder.is_dir() else language_model.name
        dtype = str(weights.dtype).removeprefix("torch.")
        return cls(name, revision, dtype, **settings)


class _Actor:
    """One process with its own copy of the model, and an engine."""

    def __init__(self, model: ActorModel) -> None:
        language_model = load_language_model(model.name, revision=model.revision, dtype=model.dtype)
        engine = shared_engine(language_model, model.recipe, model.limits)
        self._asker = Asker(
            engine, recipe=model.recipe, max_tokens=model.max_tokens, scorers=model.scorers
        )

    def is_ready(self) -> bool:
        return True

    def rows(self, asked: Sequence[Asked]) -> list[Row]:
        return self._asker.rows(asked)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is handed to one actor at a time."""

    there: Sequence[Row]
    """Rows of the same unit that need no actor."""

    asked: Sequence[Asked]
    attempts: int = 0


class RayPool:
    """Actors on a Ray cluster; use as a context manager.

    The cluster is the one that `RAY_ADDRESS` names or this process is connected to already;
    else this machine becomes one, until the end.
    """

    def __init__(self, model: ActorModel, count: int) -> None:
        """Take what the actors load, and how many there are to be."""
        self._model = model
        self._count = count
        self._began_here = False
        self._deaths_at_start = 0
        self._again: deque[_Piece] = deque()
        self._free: deque[Any] = deque()
        self._at_work: dict[Any, tuple[Any, _Piece | None]] = {}
        """Actors by what they will return; those that still load the model have no piece."""

    def __enter__(self) -> RayPool:
        """Connect to Ray, and start the actors.

        Raises:
            ArgumentError: If the cluster has fewer GPUs, or CPUs, than actors are asked for.
        """
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            self._began_here = True
        try:
            actor: Any = ray.remote(_Actor)
            self._make = actor.options(**_share(_nodes(), self._count)).remote
            for _ in range(self._count):
                self._start_actor()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the actors, and Ray if it was begun here."""
        for actor in [*self._free, *(actor for actor, _ in self._at_work.values())]:
            with suppress(*_DEATHS):
                ray.kill(actor)
        self._free.clear()
        self._at_work.clear()
        if self._began_here:
            ray.shutdown()

    def rows(self, pieces: Iterable[Prepared]) -> Iterator[list[Row]]:
        """Yield the rows of each piece, once, in the order in which they are done.

        Pieces are taken when an actor is free. One whose actors died three times gets rows that
        say so.

        Raises:
            ModelLoadError: If an actor cannot load the model.
            EngineError: If for ten minutes there is no actor, or one after another dies before
                it is ready.
        """
        waiting = iter(pieces)
        while True:
            while self._free and (piece := self._next(waiting)) is not None:
                actor = self._free.popleft()
                self._at_work[actor.rows.remote(piece.asked)] = actor, piece
            if not any(piece for _, piece in self._at_work.values()) and self._free:
                return
            for rows in map(self._finished, self._wait()):
                if rows is not None:
                    yield rows

    def _next(self, waiting: Iterator[Prepared]) -> _Piece | None:
        if self._again:
            return self._again.popleft()
        prepared = next(waiting, None)
        return None if prepared is None else _Piece(*prepared)

    def _wait(self) -> list[Any]:
        """Return what is done; wait for at least one, for ever only while an actor works."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            done: list[Any]
            done, _ = ray.wait(list(self._at_work), timeout=1.0)
            if done:
                return done
            at_work = any(piece for _, piece in self._at_work.values())
            if not at_work and time.monotonic() > deadline:
                raise EngineError(
                    f"the Ray cluster had no room for an actor for {_PATIENCE:.0f} s: "
                    "see `ray status`"
                )

    def _finished(self, reference: Any) -> list[Row] | None:
        """Return the rows of a piece that is done; where its actor died, see to both."""
        actor, piece = self._at_work.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            raise cause from None
        except _DEATHS as error:
            if "creation task" in str(error):  # not a death: it would fail again
                raise ModelLoadError(
                    f"a Ray actor cannot load {self._model.name!r}: {_last_line(error)}"
                ) from error
            with suppress(*_DEATHS):
                ray.kill(actor)  # one that is only out of reach would go on for nobody
            self._start_actor()
            if piece is None:
                self._unborn(error)
                return None
            return self._died(piece, error)
        self._free.append(actor)
        self._deaths_at_start = 0
        return None if piece is None else [*piece.there, *result]

    def _start_actor(self) -> None:
        actor = self._make(self._model)
        self._at_work[actor.is_ready.remote()] = actor, None

    def _unborn(self, error: Exception) -> None:
        """Count an actor that was killed while it loaded the model, for want of memory perhaps."""
        self._deaths_at_start += 1
        if self._deaths_at_start >= _ATTEMPTS * self._count:
            kind = type(error).__name__
            raise EngineError(
                f"{self._deaths_at_start} actors in a row died while they loaded "
                f"{self._model.name!r}, the last with {kind}: is there memory for so many?"
            ) from error

    def _died(self, piece: _Piece, error: Exception) -> list[Row] | None:
        logger.warning("an actor died: %s", type(error).__name__)
        if piece.attempts + 1 < _ATTEMPTS:
            self._again.append(replace(piece, attempts=piece.attempts + 1))
            return None
        last = type(error).__name__
        reason = EngineError(f"{_ATTEMPTS} actors died over it, the last with {last}")
        return [*piece.there, *(row for one in piece.asked for row in one.failed(reason))]


def _nodes() -> list[dict[str, float]]:
    """Return what each node of the cluster has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _share(nodes: Sequence[dict[str, float]], count: int) -> dict[str, float]:
    """Return what one of so many actors gets: a GPU where there are any, and equal CPUs.

    Raises:
        ArgumentError: If there is not enough for all.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        if count > gpus:
            raise ArgumentError(
                f"each Ray actor needs a GPU, and the cluster has {gpus}: ask for no more"
            )
        return {"num_gpus": 1, "num_cpus": 1}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fitting = [
        size for size in range(1, max(cpus, default=0) + 1) if sum(n // size for n in cpus) >= count
    ]
    if not fitting:
        raise ArgumentError(
            f"each Ray actor needs a CPU, and the cluster has {sum(cpus)}: ask for no more"
        )
    return {"num_cpus": max(fitting)}


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
