"""Checks of the numbers in settings: each names the setting, the rule and the value."""

from __future__ import annotations

import math
import threading
from numbers import Integral, Real
from typing import Any, TypeGuard

from langchain_sift.errors import ArgumentError


def check_integer(name: str, value: Any, lowest: int, *, optional: bool = False) -> None:
    """Reject everything but Python integers of at least `lowest`.

    Args:
        name: The setting, for the message.
        value: The value to check; booleans are no integers.
        lowest: The smallest integer allowed.
        optional: Allow None.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be an integer of at least {lowest}{none}, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Reject everything but integers of at least 1, NumPy's included.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    is_numpys = isinstance(value, Integral) and not isinstance(value, bool)
    check_integer(name, int(value) if is_numpys else value, 1)


def check_positive(name: str, value: Any, *, optional: bool = False) -> None:
    """Reject everything but finite numbers above 0.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    if optional and value is None:
        return
    if not (is_finite_number(value) and value > 0):
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be positive and finite{none}, got {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    """Reject everything but finite numbers from 0 on.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    if not (is_finite_number(value) and value >= 0):
        raise ArgumentError(f"{name} must be finite and not negative, got {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Reject everything but numbers above 0 and up to 1.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    if not (is_finite_number(value) and 0 < value <= 1):
        raise ArgumentError(f"{name} must be above 0 and at most 1, got {value!r}")


def check_seconds(name: str, value: Any, *, optional: bool = False) -> None:
    """Reject everything but a duration that a thread can wait for.

    Raises:
        ArgumentError: If the value is not allowed.
    """
    if optional and value is None:
        return
    if not (is_finite_number(value) and 0 < value < threading.TIMEOUT_MAX):
        limit = ", or None for no limit" if optional else ""
        raise ArgumentError(f"{name} must be a positive number of seconds{limit}, got {value!r}")


def is_finite_number(value: object) -> TypeGuard[float]:
    """Tell a finite real number from everything else; booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False
