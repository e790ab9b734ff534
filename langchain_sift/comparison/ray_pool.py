"""Measure units on Ray actors, so that a comparison can use several processes and machines.

Each actor measures one unit at a time. The unit of an actor that died is given to another actor.
So a unit may be measured twice, but only the first result that comes back counts.
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

from langchain_sift.comparison.measurement import Measurement, MeasurementSettings
from langchain_sift.comparison.measurer import Measurer
from langchain_sift.comparison.units import PlannedUnit
from langchain_sift.config import Limits
from langchain_sift.errors import ArgumentError, EngineError, ModelLoadError, require
from langchain_sift.report.rows import Row
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine
from langchain_sift.ttft.model.names import join_gguf_file, parse_name

require("ray", "ray")

# Ray reads these once, when it is imported. Usage statistics are off unless the user sets them.
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
_PATIENCE = 600.0  # seconds without an actor that loads its model or measures
_DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


@dataclass(frozen=True, slots=True)
class ActorModel:
    """The model and the settings of an actor, as plain values."""

    name: str
    revision: str | None
    dtype: str
    quantization: str | None
    device: str | None
    """"cpu", "cuda" or another type of device. None means the default of the actor's machine."""
    limits: Limits
    settings: MeasurementSettings

    @classmethod
    def like(
        cls, language_model: LanguageModel, *, limits: Limits, settings: MeasurementSettings
    ) -> ActorModel:
        """Return the values with which an actor loads the same model.

        Raises:
            ArgumentError: If the model was given loaded, so that it has no name.
        """
        weights = language_model.model
        if language_model.name == type(weights).__name__:
            raise ArgumentError(
                f"a Ray actor cannot get a loaded {language_model.name}: give the name or folder "
                "of the model"
            )
        files = parse_name(language_model.name)
        # The hub's files are stored in a folder named after their commit.
        revision = None if files.is_folder else Path(str(weights.name_or_path)).name
        name = join_gguf_file(files.place, files.gguf_file)
        dtype = str(weights.dtype).removeprefix("torch.")
        asked = language_model.requested_device
        device = asked and asked.partition(":")[0]  # Ray numbers the GPUs of each actor anew
        quantization = language_model.quantization
        return cls(name, revision, dtype, quantization, device, limits, settings)


class _Actor:
    """A process with a copy of the model, and an engine."""

    def __init__(self, model: ActorModel) -> None:
        language_model = load_language_model(
            model.name,
            revision=model.revision,
            dtype=model.dtype,
            quantization=model.quantization,
            device=model.device,
        )
        engine = shared_engine(language_model, model.settings.finetune, model.limits)
        self._measurer = Measurer(engine, model.settings)

    def is_ready(self) -> bool:
        return True

    def rows(self, measurements: Sequence[Measurement]) -> list[Row]:
        return self._measurer.rows(measurements)


@dataclass(frozen=True, slots=True)
class _Job:
    """A unit for one actor."""

    unit: PlannedUnit
    attempts: int = 0
    """Number of actors that died over it."""


class RayPool:
    """Actors on a Ray cluster; use as a context manager.

    The cluster is the one that `RAY_ADDRESS` names, or that this process is connected to. Without
    any, Ray is started on this machine until the end.
    """

    def __init__(self, model: ActorModel, count: int) -> None:
        """Take the model of the actors, and their number."""
        self._model = model
        self._count = count
        self._started_ray = False
        self._deaths_at_start = 0
        self._retries: deque[_Job] = deque()
        self._free: deque[Any] = deque()
        self._busy: dict[Any, tuple[Any, _Job | None]] = {}
        """Actors by the reference of their result; an actor that loads the model has no job."""

    def __enter__(self) -> RayPool:
        """Connect to Ray, and start the actors.

        Raises:
            ArgumentError: If the cluster has fewer GPUs, or CPUs, than the number of actors.
        """
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            self._started_ray = True
        try:
            actor: Any = ray.remote(_Actor)
            share = _share(_nodes(), self._count, self._model.device)
            threads = {"OMP_NUM_THREADS": str(int(share["num_cpus"]))}
            self._create = actor.options(**share, runtime_env={"env_vars": threads}).remote
            for _ in range(self._count):
                self._start_actor()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the actors, and Ray if this pool started it."""
        for actor in [*self._free, *(actor for actor, _ in self._busy.values())]:
            with suppress(*_DEATHS):
                ray.kill(actor)
        self._free.clear()
        self._busy.clear()
        if self._started_ray:
            ray.shutdown()

    def rows(self, units: Iterable[PlannedUnit]) -> Iterator[list[Row]]:
        """Yield the rows of each unit, once, in the order in which they are finished.

        A unit is taken when an actor is free. If three actors die over a unit, its rows report
        this.

        Raises:
            ModelLoadError: If an actor cannot load the model.
            EngineError: If no actor starts for ten minutes, or actors repeatedly die before they
                are ready.
        """
        waiting = iter(units)
        while True:
            while self._free and (job := self._next_job(waiting)) is not None:
                actor = self._free.popleft()
                self._busy[actor.rows.remote(job.unit.measurements)] = actor, job
            if not any(job for _, job in self._busy.values()) and self._free:
                return
            for rows in map(self._collect, self._wait()):
                if rows is not None:
                    yield rows

    def _next_job(self, waiting: Iterator[PlannedUnit]) -> _Job | None:
        if self._retries:
            return self._retries.popleft()
        unit = next(waiting, None)
        return None if unit is None else _Job(unit)

    def _wait(self) -> list[Any]:
        """Return the results that are ready, at least one.

        There is a deadline only while no actor measures.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            done: list[Any]
            done, _ = ray.wait(list(self._busy), timeout=1.0)
            if done:
                return done
            measuring = any(job for _, job in self._busy.values())
            if not measuring and time.monotonic() > deadline:
                raise EngineError(
                    f"the Ray cluster had no room for an actor for {_PATIENCE:.0f} s: "
                    "see `ray status`"
                )

    def _collect(self, reference: Any) -> list[Row] | None:
        """Return the rows of a finished job; None if there are none yet."""
        actor, job = self._busy.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            raise cause from None
        except _DEATHS as error:
            if "creation task" in str(error):  # not a death: another actor would fail as well
                raise ModelLoadError(
                    f"a Ray actor cannot load {self._model.name!r}: {_last_line(error)}"
                ) from error
            with suppress(*_DEATHS):
                ray.kill(actor)  # it may only be out of reach, and would run on
            self._start_actor()
            if job is None:
                self._count_death_at_start(error)
                return None
            return self._retry(job, error)
        self._free.append(actor)
        self._deaths_at_start = 0
        return None if job is None else [*job.unit.rows, *result]

    def _start_actor(self) -> None:
        actor = self._create(self._model)
        self._busy[actor.is_ready.remote()] = actor, None

    def _count_death_at_start(self, error: Exception) -> None:
        """Count an actor that was killed while it loaded the model, often for lack of memory."""
        self._deaths_at_start += 1
        if self._deaths_at_start >= _ATTEMPTS * self._count:
            raise EngineError(
                f"{self._deaths_at_start} actors in a row died while they loaded "
                f"{self._model.name!r}, the last with {type(error).__name__}: use fewer actors, or "
                "more memory"
            ) from error

    def _retry(self, job: _Job, error: Exception) -> list[Row] | None:
        """Queue the job of a dead actor again; after the last attempt, return failed rows."""
        logger.warning("an actor died: %s", type(error).__name__)
        if job.attempts + 1 < _ATTEMPTS:
            self._retries.append(replace(job, attempts=job.attempts + 1))
            return None
        reason = EngineError(
            f"{_ATTEMPTS} actors died over it, the last with {type(error).__name__}"
        )
        failed = [row for item in job.unit.measurements for row in item.failed(reason)]
        return [*job.unit.rows, *failed]


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node of the cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _share(nodes: Sequence[dict[str, float]], count: int, device: str | None) -> dict[str, float]:
    """Return the resources of one actor: a GPU if the cluster has any, else an equal share of CPUs.

    On the device "cpu" an actor needs no GPU.

    Raises:
        ArgumentError: If the cluster has not enough for all.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus and device != "cpu":
        if count > gpus:
            raise ArgumentError(
                f"each Ray actor needs a GPU, and the cluster has {gpus}: use fewer actors"
            )
        return {"num_gpus": 1, "num_cpus": 1}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fitting = [
        size for size in range(1, max(cpus, default=0) + 1) if sum(n // size for n in cpus) >= count
    ]
    if not fitting:
        raise ArgumentError(
            f"each Ray actor needs a CPU, and the cluster has {sum(cpus)}: use at most as many "
            "actors"
        )
    return {"num_cpus": max(fitting)}


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
