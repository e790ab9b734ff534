"""Measure the units of a comparison: batches that are trained and written together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from langchain_sift.auto_mode import AUTO
from langchain_sift.comparison.chains import ChainMeasurement, chain_rows
from langchain_sift.comparison.judgments import Labels
from langchain_sift.comparison.measurement import Measurement, MeasurementSettings
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.run_folder import Key, RunFolder
from langchain_sift.comparison.settings import ComparisonSettings
from langchain_sift.comparison.tasks import RETRIEVAL
from langchain_sift.config import Limits, fine_tunes
from langchain_sift.report.rows import CHAIN, Row

if TYPE_CHECKING:
    from langchain_sift.comparison.measurer import Measurer
    from langchain_sift.comparison.planner import Planner
    from langchain_sift.ttft import Engine, LanguageModel

# The protocol "retrieval" needs no PyTorch.
# ruff: noqa: PLC0415


@dataclass(frozen=True, slots=True, eq=False)  # a set of units compares no prompts
class Unit:
    """A family of methods on some prompts: trained in one batch, written together."""

    protocol: str
    prompts: tuple[Prompt, ...]

    methods: tuple[Method, ...]
    """They differ only in where they stop, so that one training serves all of them."""

    def keys(self, ks: Sequence[int]) -> list[Key]:
        """Return the keys of its rows."""
        return [key for prompt in self.prompts for key in self.keys_of(prompt, ks)]

    def keys_of(self, prompt: Prompt, ks: Sequence[int]) -> list[Key]:
        """Return the keys of the rows of one prompt."""
        return [
            (self.protocol, prompt.id, method.name, k)
            for method in self.methods
            for k in (ks if method.selection else (0,))
        ]


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """The work of a unit, with documents chosen."""

    rows: tuple[Row, ...] = ()
    """Rows that are complete: of prompts for which planning failed, and of the protocol
    "retrieval", which measures the choice alone."""

    measurements: tuple[Measurement, ...] = ()
    chains: tuple[ChainMeasurement, ...] = ()

    is_repeat: bool = False
    """True if its rows are known, and only what later units share with it is wanted."""


Measure = Callable[[Iterable[PlannedUnit]], Iterator[list[Row]]]


def units_of(prompts: Sequence[Prompt], settings: ComparisonSettings, labels: Labels) -> list[Unit]:
    """Return all units in the order in which they are measured.

    Args:
        prompts: The prompts.
        settings: The settings of the comparison.
        labels: The labels of prompts, for the protocol "retrieval".
    """
    units = []
    for protocol in settings.protocols:
        families: dict[Method, list[Method]] = {}
        for method in settings.methods_of(protocol):
            is_family = method.mode == "ttft" and protocol != RETRIEVAL
            families.setdefault(method.family if is_family else method, []).append(method)
        # A training for "ttft" passes through all that "both" needs.
        ordered = sorted(families.values(), key=lambda family: family[0].mode == "both")
        measured = [p for p in prompts if protocol != RETRIEVAL or p.id in labels.by_prompt]
        # Prompts of similar length are read together with little padding.
        measured.sort(key=lambda prompt: len(prompt.text))
        units += [
            Unit(protocol, tuple(measured[start : start + settings.jobs]), tuple(family))
            for start in range(0, len(measured), settings.jobs)
            for family in ordered
        ]
    return units


def run(
    planner: Planner,
    units: Sequence[Unit],
    measure: Measure,
    folder: RunFolder | None,
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Measure the units that are not complete in the folder, and return the rows of all.

    A unit with a missing or failed row, or one that the judge failed on, is measured again as a
    whole, and after the units that it shares work with. So its batches are the same as in a run
    without interruption; of the units that are complete, the rows stay.
    """
    repeats: set[Unit] = set()
    rows: list[Row] = []
    if folder is not None:
        done = {key for key, row in folder.rows.items() if not (row.failure or row.judge_failure)}
        complete = {unit for unit in units if done.issuperset(unit.keys(planner.settings.ks))}
        folder.keep({key for unit in complete for key in unit.keys(planner.settings.ks)})
        rows = list(folder.rows.values())
        # Actors of Ray share no work across units in a fixed order.
        repeats = _shared_with(units, complete) if planner.settings.ray is None else set()
        units = [unit for unit in units if unit not in complete or unit in repeats]
    for row in rows:
        on_row(row)
    if not units:  # no actor has to start
        return rows
    known = {row.key for row in rows}
    planned = (replace(planner.plan(unit), is_repeat=unit in repeats) for unit in units)
    for measured in measure(planned):
        new = [row for row in measured if row.key not in known]
        if folder is not None:
            folder.add(new, planner.texts)
        rows += new
        for row in new:
            on_row(row)
    return rows


def _shared_with(units: Sequence[Unit], complete: Collection[Unit]) -> set[Unit]:
    """Return the complete units whose work later units of the same prompts take over."""
    repeats: set[Unit] = set()
    later: list[Unit] = []  # those to measure, of the same prompts
    for unit in reversed(units):
        later = [other for other in later if other.prompts == unit.prompts]
        if unit not in complete:
            later.append(unit)
        elif any(_shares(unit, other) for other in later):
            repeats.add(unit)
            later.append(unit)
    return repeats


def _shares(unit: Unit, later: Unit) -> bool:
    """Return True if a later unit may take over what `SharedWork` keeps of a unit."""
    first, second = unit.methods[0], later.methods[0]
    if RETRIEVAL in {unit.protocol, later.protocol} or CHAIN in {first.mode, second.mode}:
        return False
    if first.fine_tunes and second.fine_tunes and first.training == second.training:
        return True
    untuned = {first.mode, second.mode} - {AUTO}
    return unit.protocol == later.protocol and not any(map(fine_tunes, untuned))


def engine_of(settings: ComparisonSettings, language_model: LanguageModel | None) -> Engine | None:
    """Return the engine of a comparison in this process; None if it needs none."""
    if language_model is None or settings.ray is not None:
        return None
    from langchain_sift.ttft import shared_engine

    engine = shared_engine(language_model, settings.finetune, settings.limits())
    engine.memory.watch()
    return engine


def peaks_of(engine: Engine) -> dict[str, int]:
    """Return the bytes in use at the peak so far, as estimated and as measured."""
    status = engine.status()
    return {"estimated": status.estimated_memory or 0, "measured": status.peak_memory}


def measure_with(
    settings: ComparisonSettings, language_model: LanguageModel | None, engine: Engine | None
) -> Measure:
    """Return the function that measures units, here with an engine or on Ray."""
    if language_model is None:
        return measure_nothing
    shared = MeasurementSettings(
        settings.finetune,
        settings.max_tokens,
        dict(settings.chat_template_kwargs),
        dict(settings.scorers),
        settings.judge,
        settings.modes,
    )
    if engine is None:
        actors = settings.ray or 1
        return partial(measure_on_ray, actors, language_model, settings.limits(), shared)
    from langchain_sift.comparison.measurer import Measurer

    return partial(measure_here, Measurer(engine, shared))


def measure_nothing(planned: Iterable[PlannedUnit]) -> Iterator[list[Row]]:
    """Yield the rows of units that are complete when they are planned."""
    for unit in planned:
        yield list(unit.rows)


def measure_here(measurer: Measurer, planned: Iterable[PlannedUnit]) -> Iterator[list[Row]]:
    """Yield the rows of each unit, measured by this process."""
    for unit in planned:
        yield [
            *unit.rows,
            *measurer.rows(unit.measurements, graded=not unit.is_repeat),
            *chain_rows(unit.chains, measurer.settings),
        ]


def measure_on_ray(
    actors: int,
    language_model: LanguageModel,
    limits: Limits,
    settings: MeasurementSettings,
    planned: Iterable[PlannedUnit],
) -> Iterator[list[Row]]:
    """Yield the rows of each unit, measured by Ray actors; chains run in this process."""
    from langchain_sift.comparison.ray_pool import ActorModel, RayPool

    local: list[list[Row]] = []

    def for_actors() -> Iterator[PlannedUnit]:
        """Yield the units with a measurement; measure the chains of the others here."""
        for unit in planned:
            if unit.measurements:
                yield unit
            else:  # a chain may hold a connection, which cannot be sent to another process
                local.append([*unit.rows, *chain_rows(unit.chains, settings)])

    model = ActorModel.like(language_model, limits=limits, settings=settings)
    with RayPool(model, actors) as pool:
        for rows in pool.rows(for_actors()):
            yield rows
            yield from local
            local.clear()
    yield from local
