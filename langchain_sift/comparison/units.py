"""What is measured together, and what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from langchain_sift.comparison.measurement import Asked, Asker, Prepared, failed
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.run_folder import Key, RunFolder
from langchain_sift.comparison.selection import Choice, Corpus, choose_with
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
    """What is done, and written, together: a method on some prompts."""

    protocol: str
    prompts: tuple[Prompt, ...]
    methods: tuple[Method, ...]
    """They differ in where they stop, so that one training serves them all."""

    def keys(self, ks: Sequence[int]) -> list[Key]:
        """Return the keys of its rows."""
        return [
            (self.protocol, prompt.id, method.name, k)
            for prompt in self.prompts
            for method in self.methods
            for k in (ks if method.selection else (0,))
        ]


def units_of(
    prompts: Sequence[Prompt], protocols: Sequence[str], methods: Sequence[Method], jobs: int
) -> list[Unit]:
    """Return what is measured together, in the order in which it is."""
    families: dict[Method, list[Method]] = {}
    for method in methods:
        key = method.family if method.mode == "ttft" else method
        families.setdefault(key, []).append(method)
    return [
        Unit(protocol, tuple(prompts[start : start + jobs]), tuple(family))
        for protocol in protocols
        for start in range(0, len(prompts), jobs)
        for family in families.values()
    ]


def run(
    comparison: Comparison,
    units: Sequence[Unit],
    measure: Callable[[Iterable[Prepared]], Iterator[list[Row]]],
    folder: RunFolder | None,
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Do what is not done; a unit of which a row is missing or failed is done again as a whole.

    So what is trained together is the same as in a run that nobody interrupted.
    """
    rows: list[Row] = []
    if folder is not None:
        done = {key for key, row in folder.rows.items() if row.failure is None}
        whole = [unit for unit in units if done.issuperset(unit.keys(comparison.ks))]
        folder.keep({key for unit in whole for key in unit.keys(comparison.ks)})
        rows = list(folder.rows.values())
        units = [unit for unit in units if unit not in whole]
    for row in rows:
        on_row(row)
    if not units:  # nothing to start anybody for
        return rows
    for new in measure(map(comparison.prepare, units)):
        if folder is not None:
            folder.add(new, comparison.texts)
        rows += new
        for row in new:
            on_row(row)
    return rows


def here(asker: Asker, prepared: Iterable[Prepared]) -> Iterator[list[Row]]:
    """Yield the rows of each unit, measured by this process."""
    for rows, asked in prepared:
        yield [*rows, *asker.rows(asked)]


def on_ray(
    count: int,
    language_model: LanguageModel,
    limits: Limits,
    asking: Mapping[str, Any],
    prepared: Iterable[Prepared],
) -> Iterator[list[Row]]:
    """Yield the rows of each unit, measured by so many Ray actors; chains are asked from here."""
    from langchain_sift.comparison.ray_pool import ActorModel, RayPool  # noqa: PLC0415 - an extra

    chains = Asker(None, **asking)  # nobody's to send elsewhere: they hold connections
    of_chains: list[list[Row]] = []

    def for_actors() -> Iterator[Prepared]:
        for rows, asked in prepared:
            if any(one.chain is None for one in asked):
                yield rows, asked
            else:
                of_chains.append([*rows, *chains.rows(asked)])

    model = ActorModel.like(language_model, limits=limits, **asking)
    with RayPool(model, count) as pool:
        for rows in pool.rows(for_actors()):
            yield rows
            yield from of_chains
            of_chains.clear()
    yield from of_chains


@dataclass(slots=True)
class Comparison:
    """What all units share."""

    corpus: Corpus
    ks: tuple[int, ...]
    fetch_k: int
    noise_variance: float
    seed: int
    retrievers: Mapping[str, Runnable[str, list[Document]]]
    chains: Mapping[str, Runnable[Any, Any]]
    texts: dict[str, str] = field(default_factory=dict)
    """The beginning of each document that was chosen."""

    _queries: dict[str, tuple[Array, float]] = field(default_factory=dict)

    def prepare(self, unit: Unit) -> Prepared:
        """Choose, and return what is to be asked; rows as well, of prompts where that failed."""
        rows: list[Row] = []
        asked: list[Asked] = []
        for prompt in unit.prompts:
            empty = self._empty(unit, prompt)
            try:
                asked += self._prepare(unit, prompt, empty)
            except Exception as error:
                logger.warning("%s on %s", unit.methods[0].name, prompt.id, exc_info=True)
                rows += [failed(row, error) for row in empty]
        return rows, asked

    def _empty(self, unit: Unit, prompt: Prompt) -> list[Row]:
        return [
            Row(unit.protocol, prompt.id, prompt.group, method, k, prompt.source)
            for _, _, method, k in replace(unit, prompts=(prompt,)).keys(self.ks)
        ]

    def _prepare(self, unit: Unit, prompt: Prompt, empty: Sequence[Row]) -> list[Asked]:
        method, task = unit.methods[0], PROTOCOLS[unit.protocol](prompt)
        by_name = {one.name: one for one in unit.methods}
        if method.mode == CHAIN:
            return [Asked(prompt, task, method, [(empty[0], 0)], chain=self.chains[method.name])]
        if not method.selection:
            return [Asked(prompt, task, method, [(empty[0], 0)])]
        if method.nested:
            choice = self._choose(method, task, prompt, max(self.ks))
            counts = [_count(by_name[row.method], choice, row.k) for row in empty]
            wanted = list(zip(empty, counts, strict=True))
            if method.mode == "ttft" and not task.asks:
                return [Asked(prompt, task, method, wanted, choice)]  # one training for all k
            return [Asked(prompt, task, method, [one], choice.first(one[1])) for one in wanted]
        asked = []
        for row in empty:
            choice = self._choose(method, task, prompt, row.k)
            count = _count(by_name[row.method], choice, row.k)
            asked.append(Asked(prompt, task, method, [(row, count)], choice.first(count)))
        return asked

    def _embedded(self, query: str) -> tuple[Array, float]:
        """Return the query's vector, and how long it took to embed; the same for each method."""
        if query not in self._queries:
            began = time.perf_counter()
            self._queries[query] = self.corpus.embed(query), time.perf_counter() - began
        return self._queries[query]

    def _choose(self, method: Method, task: Task, prompt: Prompt, k: int) -> Choice:
        if method.selection in SELECTORS:
            query, seconds = self._embedded(task.query)
            choice = self.corpus.choose(
                method,
                query,
                k=k,
                fetch_k=self.fetch_k,
                noise_variance=self.noise_variance,
                seed=f"{self.seed} {prompt.id}",
            )
            choice = replace(choice, seconds=choice.seconds + seconds)
        else:
            choice = choose_with(self.retrievers[method.selection], task.query, k=k)
        for document, text in zip(choice.chosen, choice.texts, strict=True):
            self.texts.setdefault(document.id, text[:SHOWN_CHARACTERS])
        return choice


def _count(method: Method, choice: Choice, k: int) -> int:
    """Return how many of its documents a method takes where it may take k."""
    first = choice.first(k)
    if method.stopping_alpha is None:
        return len(first.chosen)
    return first.stops_after(method.stopping_alpha)
