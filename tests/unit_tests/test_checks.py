"""Check the checks of numbers: their bounds, their types and their messages."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from langchain_sift import checks
from langchain_sift.errors import ArgumentError

HUGE = 10**400  # an integer that no float holds


@pytest.mark.parametrize(
    ("check", "allowed", "rejected"),
    [
        (lambda v: checks.check_integer("n", v, 2), [2, 3], [1, True, 2.0, "2", None]),
        (lambda v: checks.check_integer("n", v, 2, optional=True), [2, None], [1]),
        (lambda v: checks.check_count("n", v), [1, np.int64(3)], [0, True, 1.0, np.int64(0)]),
        (lambda v: checks.check_positive("n", v), [1, 1e-9], [0, math.inf, math.nan, HUGE, "1"]),
        (lambda v: checks.check_positive("n", v, optional=True), [None, 1], [-1, True]),
        (lambda v: checks.check_not_negative("n", v), [0, 2.5], [-1e-9, math.nan, None]),
        (lambda v: checks.check_fraction("n", v), [1, 0.5], [0, 1.1, math.nan, True]),
        (lambda v: checks.check_seconds("n", v), [1, 0.5], [0, threading.TIMEOUT_MAX, math.inf]),
        (lambda v: checks.check_timeout("n", v), [1e300, math.inf], [0, -1, math.nan, "1", None]),
        (lambda v: checks.check_timeout("n", v, optional=True), [None, 1], [0]),
    ],
)
def test_a_check_allows_exactly_the_values_of_its_rule(
    check: Callable[[Any], None], allowed: list[Any], rejected: list[Any]
) -> None:
    for value in allowed:
        check(value)
    for value in rejected:
        with pytest.raises(ArgumentError, match=r"^n must be") as raised:
            check(value)
        assert str(value) in str(raised.value)
