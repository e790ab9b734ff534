"""Check the warnings at the end of a calibration."""

from __future__ import annotations

import numpy as np
import pytest

from langchain_sift.calibration.conclusion import gain_notes


@pytest.mark.parametrize(
    ("percents", "begins"),
    [
        ((101.0, 99.5, 102.0), "fine-tuning made no held-out text likelier"),
        ((100.0, 100.0), "fine-tuning made no held-out text likelier"),
        ((99.0, 101.0, 97.0, 102.0), "fine-tuning saved 0.2 ± 1.1 % of the base model's bits"),
        ((90.0, 91.0, 89.0), None),
        ((90.0,), None),
        ((95.0, 98.0), "fine-tuning saved 3.5 ± 1.5 %"),  # of two prompts, 2.3 errors are chance
    ],
)
def test_a_gain_that_may_be_chance_is_named(
    percents: tuple[float, ...], begins: str | None
) -> None:
    notes = gain_notes(np.array(percents))
    assert [note.startswith(begins or "") for note in notes] == ([True] if begins else [])
