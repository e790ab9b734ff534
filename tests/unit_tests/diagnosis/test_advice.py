"""Test that the advice on SIFT says what the interval of its gain says."""

from __future__ import annotations

import pytest

from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.calibration.cross_validation import HeldOutScores
from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
from langchain_sift.diagnosis.advice import advice_for
from langchain_sift.diagnosis.row_counts import RowCounts
from langchain_sift.diagnosis.similarities import Distribution, Similarities
from langchain_sift.report.intervals import Interval


@pytest.mark.parametrize(
    ("low", "high", "copies", "duplicates", "advice"),
    [
        (0.01, 0.2, 0.0, 0.5, "SIFT will pay. "),
        (0.01, 0.2, 0.0, 0.0, "SIFT will pay for questions of several parts"),
        (0.01, 0.2, 0.5, 0.0, "SIFT will pay. 50% of the rows repeat"),
        (-0.2, -0.01, 0.0, 0.5, "SIFT will not pay. "),
        (-0.2, -0.01, 0.5, 0.5, "SIFT will not pay, except that it leaves out copies. "),
        (-0.02, 0.03, 0.0, 0.0, "SIFT will change little. "),
        (-0.02, 0.03, 0.05, 0.0, "SIFT will change little. "),
        (0.0, 0.0, 0.0, 0.0, "SIFT will change little. "),
        (0.0, 0.0, 0.8, 0.0, "SIFT will pay where the store's own search returns copies. 80% of"),
        (-0.02, 0.2, 0.0, 0.0, "The trial does not show whether SIFT will pay. "),
        (-0.02, 0.2, 0.8, 0.0, "SIFT will pay where the store's own search returns copies. 80% of"),
        (-0.2, 0.02, 0.0, 0.5, "The trial does not show whether SIFT will pay. "),
    ],
)
def test_the_advice_follows_the_interval(
    low: float, high: float, copies: float, duplicates: float, advice: str
) -> None:
    gain = Interval((low + high) / 2, low, high, 20)
    scores = HeldOutScores(
        "two sentences", Interval(0.6, 0.5, 0.7, 20), Interval(0.5, 0.4, 0.6, 20), gain
    )
    calibration = RetrievalCalibration(
        selection=CalibratedSelection(6.5, 10, 200),
        labelled=False,
        queries=20,
        kernels=(),
        nearest=(),
        counts=(),
        held_out=(scores,),
        verdict="cannot tell",
        notes=(),
    )
    given = advice_for(rows(copies), similarities(20, duplicates), calibration)
    assert given.startswith(advice)
    assert ("SIFT returns each text once" in given) is (copies >= 0.1)
    points = (
        f"{50 * (low + high):+.1f} points (95 % interval: {100 * low:+.1f} to {100 * high:+.1f})"
    )
    assert points in given
    assert "SIFT found 60.0% and nearest neighbours found 50.0%" in given


def rows(copies: float) -> RowCounts:
    texts = round(100 * (1 - copies))
    return RowCounts(
        rows=100,
        complete=True,
        without_text=0,
        blank=0,
        texts=texts,
        exact_copies=copies,
        most_copies=101 - texts,
        dimensions=(48,),
        zero_vectors=0,
        non_finite_vectors=0,
        unit_vectors=1.0,
        shortest_norm=1.0,
        longest_norm=1.0,
    )


def similarities(texts: int, duplicates: float) -> Similarities:
    spread = Distribution(0.1, 0.2, 0.3)
    return Similarities(texts, spread, spread, spread, duplicates, 0.0, 0.95)


def test_without_a_measurement_nothing_is_promised() -> None:
    for copies, texts, duplicates, advice in (
        (0.0, 5, 0.5, "SIFT may pay. "),
        (0.5, 5, 0.0, "SIFT may pay. 50% of the rows repeat"),
        (0.0, 5, 0.0, "SIFT may help with questions"),
        (0.9, 1, 0.0, "One text does not show"),
    ):
        given = advice_for(rows(copies), similarities(texts, duplicates), None)
        assert given.startswith(advice)
