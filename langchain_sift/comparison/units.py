"""Plan and measure the units of a comparison: batches that are trained and written together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from langchain_sift.comparison.chains import ChainMeasurement, chain_rows
from langchain_sift.comparison.measurement import (
    Measurement,
    MeasurementSettings,
    Measurer,
    WantedRow,
    failed_row,
)
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.run_folder import Key, RunFolder
from langchain_sift.comparison.selection import Corpus, MethodChoice, choose_with
from langchain_sift.comparison.settings import ComparisonSettings
from langchain_sift.comparison.tasks import PROTOCOLS, Task
from langchain_sift.config import Limits
from langchain_sift.report.rows import CHAIN, Row
from langchain_sift.selection import SELECTORS
from langchain_sift.selection.arguments import Array
from langchain_sift.ttft import LanguageModel

logger = logging.getLogger(__name__)
SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
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

    failed: tuple[Row, ...] = ()
    """Rows of prompts for which planning failed."""

    measurements: tuple[Measurement, ...] = ()
    chains: tuple[ChainMeasurement, ...] = ()


Measure = Callable[[Iterable[PlannedUnit]], Iterator[list[Row]]]


def units_of(prompts: Sequence[Prompt], settings: ComparisonSettings) -> list[Unit]:
    """Return all units in the order in which they are measured."""
    families: dict[Method, list[Method]] = {}
    for method in settings.methods:
        key = method.family if method.mode == "ttft" else method
        families.setdefault(key, []).append(method)
    return [
        Unit(protocol, tuple(prompts[start : start + settings.jobs]), tuple(family))
        for protocol in settings.protocols
        for start in range(0, len(prompts), settings.jobs)
        for family in families.values()
    ]


def run(
    planner: Planner,
    units: Sequence[Unit],
    measure: Measure,
    folder: RunFolder | None,
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Measure the units that are not complete in the folder, and return the rows of all.

    A unit with a missing or failed row is measured again as a whole. So its batch is the same as
    in a run without interruption.
    """
    rows: list[Row] = []
    if folder is not None:
        done = {key for key, row in folder.rows.items() if row.failure is None}
        complete = [unit for unit in units if done.issuperset(unit.keys(planner.settings.ks))]
        folder.keep({key for unit in complete for key in unit.keys(planner.settings.ks)})
        rows = list(folder.rows.values())
        units = [unit for unit in units if unit not in complete]
    for row in rows:
        on_row(row)
    if not units:  # no actor has to start
        return rows
    for new in measure(map(planner.plan, units)):
        if folder is not None:
            folder.add(new, planner.texts)
        rows += new
        for row in new:
            on_row(row)
    return rows


def measure_here(measurer: Measurer, planned: Iterable[PlannedUnit]) -> Iterator[list[Row]]:
    """Yield the rows of each unit, measured by this process."""
    for unit in planned:
        yield [
            *unit.failed,
            *measurer.rows(unit.measurements),
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
    from langchain_sift.comparison.ray_pool import ActorModel, RayPool  # noqa: PLC0415 - an extra

    local: list[list[Row]] = []

    def for_actors() -> Iterator[PlannedUnit]:
        for unit in planned:
            if unit.measurements:
                yield unit
            else:  # a chain may hold a connection, which cannot be sent to another process
                local.append([*unit.failed, *chain_rows(unit.chains, settings)])

    model = ActorModel.like(language_model, limits=limits, settings=settings)
    with RayPool(model, actors) as pool:
        for rows in pool.rows(for_actors()):
            yield rows
            yield from local
            local.clear()
    yield from local


@dataclass(slots=True)
class Planner:
    """Choose the documents of units."""

    corpus: Corpus
    settings: ComparisonSettings
    noise_variance: float

    texts: dict[str, str] = field(default_factory=dict)
    """The beginning of each document that was chosen, by its id."""

    _queries: dict[str, tuple[Array, float]] = field(default_factory=dict)

    def plan(self, unit: Unit) -> PlannedUnit:
        """Choose the documents of a unit; a failure affects the rows of one prompt alone."""
        failed: list[Row] = []
        measurements: list[Measurement] = []
        chains: list[ChainMeasurement] = []
        for prompt in unit.prompts:
            empty = self._empty_rows(unit, prompt)
            try:
                if unit.methods[0].mode == CHAIN:
                    chains.append(self._chain(unit.methods[0], prompt, empty[0]))
                else:
                    measurements += self._measurements(unit, prompt, empty)
            except Exception as error:
                logger.warning("%s on %s", unit.methods[0].name, prompt.id, exc_info=True)
                failed += [failed_row(row, error) for row in empty]
        return PlannedUnit(tuple(failed), tuple(measurements), tuple(chains))

    def _empty_rows(self, unit: Unit, prompt: Prompt) -> list[Row]:
        return [
            Row(protocol, identifier, prompt.group, method, k, prompt.source)
            for protocol, identifier, method, k in unit.keys_of(prompt, self.settings.ks)
        ]

    def _chain(self, method: Method, prompt: Prompt, row: Row) -> ChainMeasurement:
        return ChainMeasurement(prompt, row, self.settings.chains[method.name])

    def _measurements(self, unit: Unit, prompt: Prompt, empty: Sequence[Row]) -> list[Measurement]:
        method, task = unit.methods[0], PROTOCOLS[unit.protocol](prompt)
        if not method.selection:
            return [Measurement(prompt, task, method, (WantedRow(empty[0], 0),))]
        by_name = {member.name: member for member in unit.methods}
        if not method.nested:
            choices = [self._choose(method, task, prompt, row.k) for row in empty]
        else:
            choices = [self._choose(method, task, prompt, max(self.settings.ks))] * len(empty)
        wanted = [
            WantedRow(row, _count(by_name[row.method], choice, row.k))
            for row, choice in zip(empty, choices, strict=True)
        ]
        if method.nested and method.mode == "ttft" and not task.generates:
            # One training passes through all numbers of documents.
            return [Measurement(prompt, task, method, tuple(wanted), choices[0])]
        return [
            Measurement(prompt, task, method, (row,), choice.first(row.documents))
            for row, choice in zip(wanted, choices, strict=True)
        ]

    def _embed(self, query: str) -> tuple[Array, float]:
        """Return the query's vector and the seconds that it took; each query is embedded once."""
        if query not in self._queries:
            began = time.perf_counter()
            self._queries[query] = self.corpus.embed(query), time.perf_counter() - began
        return self._queries[query]

    def _choose(self, method: Method, task: Task, prompt: Prompt, k: int) -> MethodChoice:
        if method.selection in SELECTORS:
            query, seconds = self._embed(task.query)
            choice = self.corpus.choose(
                method,
                query,
                k=k,
                fetch_k=self.settings.fetch_k,
                noise_variance=self.noise_variance,
                seed=f"{self.settings.finetune.seed} {prompt.id}",
            )
            choice = replace(choice, seconds=choice.seconds + seconds)
        else:
            choice = choose_with(self.settings.retrievers[method.selection], task.query, k=k)
        for document, text in zip(choice.chosen, choice.texts, strict=True):
            self.texts.setdefault(document.id, text[:SHOWN_CHARACTERS])
        return choice


def _count(method: Method, choice: MethodChoice, k: int) -> int:
    """Return the number of documents that a method uses: at most k, fewer if it stops earlier."""
    first = choice.first(k)
    if method.stopping_alpha is None:
        return len(first.chosen)
    return first.stopping_point(method.stopping_alpha)
