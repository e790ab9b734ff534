"""Measure questions with the chains of a user."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from langchain_sift.comparison.invocation import invoke
from langchain_sift.comparison.judging import GradedAnswer
from langchain_sift.comparison.measurement import MeasurementSettings, failed_row
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.settings import Chain
from langchain_sift.errors import ArgumentError
from langchain_sift.report.rows import Row
from langchain_sift.retrieval.inputs import takes_mapping

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChainMeasurement:
    """A question to measure with a chain."""

    prompt: Prompt
    row: Row
    """The row to fill."""

    chain: Chain


def chain_rows(
    measurements: Sequence[ChainMeasurement], settings: MeasurementSettings
) -> list[Row]:
    """Return the rows of the chains; a failure affects one row alone."""
    rows = []
    for measurement in measurements:
        try:
            rows.append(_chain_row(measurement, settings))
        except Exception as error:
            logger.warning("%s on %s", measurement.row.method, measurement.prompt.id, exc_info=True)
            rows.append(failed_row(measurement.row, error))
    if settings.judge is None:
        return rows
    # The documents that a chain has read are not known.
    return settings.judge.grade(
        [
            GradedAnswer(row, measurement.prompt, ())
            for row, measurement in zip(rows, measurements, strict=True)
        ]
    )


def _chain_row(measurement: ChainMeasurement, settings: MeasurementSettings) -> Row:
    chain, question = measurement.chain, measurement.prompt.text
    value = input_of(chain, question)  # before the time counts: LangChain describes the chain
    began = time.perf_counter()
    answer = text_of(invoke(chain, value)).strip()
    seconds = time.perf_counter() - began
    scores = settings.scores(answer, measurement.prompt)
    return replace(measurement.row, answer=answer, scores=scores, seconds_answering=seconds)


def input_of(chain: Chain, question: str) -> object:
    """Return what a user's chain takes: the question, or as retrieval chains a mapping with it."""
    return {"input": question} if takes_mapping(chain) else question


def text_of(answer: object) -> str:
    """Return the text of what a user's chain returns: a string, a message, or {"answer": ...}.

    Without reasoning in known markers, such as <think>, as of the compared model.

    Raises:
        ArgumentError: If it is anything else.
    """
    if isinstance(answer, Mapping):
        answer = answer.get("answer")
    text = getattr(answer, "text", getattr(answer, "content", answer))
    if not isinstance(text, str):
        raise ArgumentError(
            f'a chain must return a string, a message or {{"answer": ...}}, got {type(answer)!r}'
        )
    return _without_reasoning(str(text))


def _without_reasoning(text: str) -> str:
    # A comparison of retrievals must not wait for PyTorch.
    from langchain_sift.ttft.model.reasoning_markers import markers_in  # noqa: PLC0415
    from langchain_sift.ttft.reasoning import content_of  # noqa: PLC0415

    markers = markers_in(text)
    return text if markers is None else content_of(text, markers)
