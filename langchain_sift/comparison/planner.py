"""Choose the documents of units, before they are measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from langchain_sift.auto_mode import AUTO
from langchain_sift.comparison.chains import ChainMeasurement
from langchain_sift.comparison.choice import MethodChoice
from langchain_sift.comparison.judgments import Labels
from langchain_sift.comparison.measurement import Measurement, WantedRow, failed_row
from langchain_sift.comparison.methods import OUR_SELECTORS, Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.selection import Corpus
from langchain_sift.comparison.settings import ComparisonSettings
from langchain_sift.comparison.tasks import PROTOCOLS, RETRIEVAL, Task
from langchain_sift.comparison.units import PlannedUnit, Unit
from langchain_sift.report.rows import CHAIN, Row
from langchain_sift.selection.arguments import Array

logger = logging.getLogger(__name__)
SHOWN_CHARACTERS = 600


@dataclass(slots=True)
class Planner:
    """Choose the documents of units."""

    corpus: Corpus
    settings: ComparisonSettings

    labels: Labels
    """The labels of prompts, for the protocol "retrieval"."""

    texts: dict[str, str] = field(default_factory=dict)
    """The beginning of each document that was chosen, by its id."""

    _queries: dict[str, tuple[Array, float]] = field(default_factory=dict)

    def plan(self, unit: Unit) -> PlannedUnit:
        """Choose the documents of a unit; a failure affects the rows of one prompt alone."""
        rows: list[Row] = []
        measurements: list[Measurement] = []
        chains: list[ChainMeasurement] = []
        for prompt in unit.prompts:
            empty = self._empty_rows(unit, prompt)
            try:
                if unit.methods[0].mode == CHAIN:
                    chains.append(self._chain(unit.methods[0], prompt, empty[0]))
                elif unit.protocol == RETRIEVAL:
                    rows += self._ranked(unit.methods[0], prompt, empty)
                else:
                    measurements += self._measurements(unit, prompt, empty)
            except Exception as error:
                logger.warning("%s on %s", unit.methods[0].name, prompt.id, exc_info=True)
                rows += [failed_row(row, error) for row in empty]
        return PlannedUnit(tuple(rows), tuple(measurements), tuple(chains))

    def _empty_rows(self, unit: Unit, prompt: Prompt) -> list[Row]:
        return [
            Row(protocol, identifier, prompt.group, method, k, prompt.source)
            for protocol, identifier, method, k in unit.keys_of(prompt, self.settings.ks)
        ]

    def _chain(self, method: Method, prompt: Prompt, row: Row) -> ChainMeasurement:
        return ChainMeasurement(prompt, row, self.settings.chains[method.name])

    def _ranked(self, method: Method, prompt: Prompt, empty: Sequence[Row]) -> list[Row]:
        """Return the rows of the protocol "retrieval", which are complete."""
        label, task = self.labels.by_prompt[prompt.id], PROTOCOLS[RETRIEVAL](prompt)
        rows = []
        for row, choice in zip(empty, self._choices(method, task, prompt, empty), strict=True):
            used = choice.first(_count(method, choice, row.k))
            count = len(used.chosen)
            ranked = WantedRow(row, count).with_choice(used, range(count))
            rows.append(replace(ranked, scores=label.scores(used.labels, used.texts, row.k)))
        return rows

    def _measurements(self, unit: Unit, prompt: Prompt, empty: Sequence[Row]) -> list[Measurement]:
        method, task = unit.methods[0], PROTOCOLS[unit.protocol](prompt)
        if not method.selection:
            return [Measurement(prompt, task, method, (WantedRow(empty[0], 0),))]
        choices = self._choices(method, task, prompt, empty)
        by_name = {member.name: member for member in unit.methods}
        wanted = [
            WantedRow(row, _count(by_name[row.method], choice, row.k))
            for row, choice in zip(empty, choices, strict=True)
        ]
        taught = self.settings.finetune.objective == "distill"
        peers = [other.training for other in self.settings.methods_of(unit.protocol)]
        shares = method.fine_tunes and peers.count(method.training) > 1
        if method.nested and method.mode == "ttft" and not task.generates and not taught:
            # One training passes through all numbers of documents.
            everything = tuple(wanted)
            return [
                Measurement(prompt, task, method, everything, choices[0], shares_training=shares)
            ]
        return [
            Measurement(
                prompt,
                task,
                method,
                (row,),
                choice.first(row.documents),
                shown=self._shown(method, task, prompt, row.row),
                shares_training=shares,
            )
            for row, choice in zip(wanted, choices, strict=True)
        ]

    def _shown(self, method: Method, task: Task, prompt: Prompt, row: Row) -> MethodChoice | None:
        """Return the documents of RAG for a method of the mode "auto"; None if it has the same."""
        has_them = self.settings.retrieval is None and not method.repeats
        if method.mode != AUTO or has_them:
            return None
        rag = replace(method, mode="rag")
        (choice,) = self._choices(rag, task, prompt, [row])
        return choice.first(_count(rag, choice, row.k))

    def _choices(
        self, method: Method, task: Task, prompt: Prompt, rows: Sequence[Row]
    ) -> list[MethodChoice]:
        """Return the choice for each row; a smaller k has the beginning of a larger choice."""
        if not method.nested:
            return [self._choose(method, task, prompt, row.k) for row in rows]
        return [self._choose(method, task, prompt, max(self.settings.ks))] * len(rows)

    def _embed(self, query: str) -> tuple[Array, float]:
        """Return the query's vector and the seconds that it took; each query is embedded once."""
        if query not in self._queries:
            began = time.perf_counter()
            self._queries[query] = self.corpus.embed(query), time.perf_counter() - began
        return self._queries[query]

    def _choose(self, method: Method, task: Task, prompt: Prompt, k: int) -> MethodChoice:
        if method.selection in OUR_SELECTORS:
            query, seconds = self._embed(task.query)
            choice = self.corpus.choose(
                method,
                query,
                k=k,
                fetch_k=self.settings.fetch_k,
                **self.settings.kernel_of(for_training=method.fine_tunes),
                seed=f"{self.settings.finetune.seed} {prompt.id}",
            )
            choice = replace(choice, seconds=choice.seconds + seconds)
        else:
            retriever = self.settings.retrievers[method.selection]
            choice = self.corpus.choose_with(retriever, task.query, k=k)
        for document, text in zip(choice.chosen, choice.texts, strict=True):
            self.texts.setdefault(document.id, text[:SHOWN_CHARACTERS])
        return choice


def _count(method: Method, choice: MethodChoice, k: int) -> int:
    """Return the number of documents that a method uses: at most k, fewer if it stops earlier."""
    first = choice.first(k)
    if method.stopping_alpha is None:
        return len(first.chosen)
    return first.stopping_point(method.stopping_alpha)
