"""Test that the advice on SIFT says what the interval of its gain says."""

from __future__ import annotations

import pytest

from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.calibration.cross_validation import HeldOutScores
from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
from langchain_sift.diagnosis.advice import advice_for
from langchain_sift.diagnosis.similarities import Distribution, Similarities
from langchain_sift.report.intervals import Interval


@pytest.mark.parametrize(
    ("low", "high", "duplicates", "advice"),
    [
        (0.01, 0.2, 0.5, "SIFT will pay: "),
        (0.01, 0.2, 0.0, "SIFT will pay for questions of several parts"),
        (-0.2, -0.01, 0.5, "SIFT will not pay: "),
        (-0.02, 0.03, 0.0, "SIFT will change little: "),
        (0.0, 0.0, 0.0, "SIFT will change little: "),
        (-0.02, 0.2, 0.0, "The store does not tell whether SIFT will pay: "),
        (-0.2, 0.02, 0.5, "The store does not tell whether SIFT will pay: "),
    ],
)
def test_the_advice_follows_the_interval(
    low: float, high: float, duplicates: float, advice: str
) -> None:
    gain = Interval((low + high) / 2, low, high, 20)
    scores = HeldOutScores("two sentences", Interval(0.5, 0.4, 0.6, 20), gain, gain)
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
    assert advice_for(similarities(20, duplicates), calibration).startswith(advice)


def similarities(texts: int, duplicates: float) -> Similarities:
    spread = Distribution(0.1, 0.2, 0.3)
    return Similarities(texts, spread, spread, spread, duplicates, 0.0, 0.95)


def test_without_a_measurement_nothing_is_promised() -> None:
    assert advice_for(similarities(5, 0.5), None).startswith("SIFT may pay: ")
    assert advice_for(similarities(5, 0.0), None).startswith("SIFT may help with questions")
    assert advice_for(similarities(1, 0.0), None).startswith("One text does not tell")
