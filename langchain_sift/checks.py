"""Check the numbers in settings; every message names the setting, the rule and the value."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeGuard, TypeVar

from langchain_sift.errors import ArgumentError

T = TypeVar("T")

TARGET_PRESETS = ("all-linear", "attention", "mlp", "last-N")
"""Values of `FineTuneConfig.target_modules` besides names of layers; N is a positive number."""


def check_integer(name: str, value: Any, lowest: int, *, optional: bool = False) -> None:
    """Check that a value is a Python integer of at least `lowest`.

    Args:
        name: The setting, for the message.
        value: The value; a boolean is not an integer.
        lowest: The lower bound.
        optional: If True, None is allowed too.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be an integer of at least {lowest}{none}, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Check that a value is an integer of at least 1; NumPy's integers are allowed.

    Raises:
        ArgumentError: If it is not.
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    check_integer(name, int(value) if is_integer else value, 1)


def check_positive(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that a value is a finite number above 0; with `optional`, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if not (is_finite_number(value) and value > 0):
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be positive and finite{none}, got {value!r}")


def check_not_negative(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that a value is a finite number of at least 0; with `optional`, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if not (is_finite_number(value) and value >= 0):
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be finite and not negative{none}, got {value!r}")


def check_between(
    name: str, value: Any, lowest: float, highest: float, *, optional: bool = False
) -> None:
    """Check that a value is a number from `lowest` to `highest`; with `optional`, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if not (is_finite_number(value) and lowest <= value <= highest):
        none = ", or None" if optional else ""
        raise ArgumentError(
            f"{name} must be a number from {lowest} to {highest}{none}, got {value!r}"
        )


def check_fraction(name: str, value: Any) -> None:
    """Check that a value is a number above 0 and at most 1.

    Raises:
        ArgumentError: If it is not.
    """
    if not (is_finite_number(value) and 0 < value <= 1):
        raise ArgumentError(f"{name} must be above 0 and at most 1, got {value!r}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Check that a value is one of the allowed names.

    Raises:
        ArgumentError: If it is not; the message suggests the nearest name.
    """
    if isinstance(value, str) and value in allowed:
        return
    alike = get_close_matches(str(value), allowed, n=1)
    hint = f": did you mean {alike[0]!r}?" if alike else ""
    raise ArgumentError(f"{name} must be one of {list(allowed)}, got {value!r}{hint}")


def check_string(name: str, value: object, *, optional: bool = False) -> None:
    """Check that a value is a string that is not empty; with `optional`, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if not (value and isinstance(value, str)):
        none = ", or None" if optional else ""
        raise ArgumentError(f"{name} must be a non-empty string{none}, got {value!r}")


def check_seed(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that a value is an integer from 0 to 2**63 - 1, which every generator takes.

    Raises:
        ArgumentError: If it is not.
    """
    check_integer(name, value, 0, optional=optional)
    if value is not None and value >= 1 << 63:
        raise ArgumentError(f"{name} must be below 2**63, got {value}")


def strings(name: str, value: object) -> tuple[str, ...]:
    """Return a sequence of strings as a tuple.

    Raises:
        ArgumentError: If it is none, or a string is empty.
    """
    if isinstance(value, Iterable) and not isinstance(value, str):
        found = tuple(value)
        if all(string and isinstance(string, str) for string in found):
            return found
    raise ArgumentError(f"{name} must be a sequence of non-empty strings, got {value!r}")


def instances(name: str, value: object, *kinds: type[T]) -> tuple[T, ...]:
    """Return an iterable of objects of some types as a tuple.

    Raises:
        ArgumentError: If it is none, or an object has another type. The message has its index and
            its type, but no text.
    """
    wanted = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentError(
            f"{name} must be a sequence of {wanted}, got one {type(value).__name__}: put it into a "
            "list"
        )
    found = tuple(value)
    for index, each in enumerate(found):
        if not isinstance(each, kinds):
            raise ArgumentError(
                f"{name} must be a sequence of {wanted}, got {type(each).__name__} at index {index}"
            )
    return found


def mapping_or_empty(name: str, value: Mapping[str, T] | None) -> Mapping[str, T]:
    """Return a mapping of names, an empty one for None.

    Raises:
        ArgumentError: If it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ArgumentError(
            f'{name} must map names to values, as in {{"name": ...}}, got a {type(value).__name__}'
        )
    return value


def last_layers(targets: str) -> int | None:
    """Return N of the target modules "last-N", or None for another value."""
    found = re.fullmatch(r"last-([1-9][0-9]*)", targets)
    return int(found[1]) if found else None


def parse_ceilings(entries: Sequence[str]) -> dict[str, float]:
    """Return the ceilings that entries such as "k=50" name.

    Raises:
        ArgumentError: If an entry has no number.
    """
    ceilings = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            ceilings[name.strip()] = float(value)
        except ValueError:
            raise ArgumentError(f"--ceiling must be NAME=N, as in k=50, got {entry!r}") from None
    return ceilings


def number_or_nan(text: str) -> float:
    """Return the number that a text names, or NaN if it names none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_target_modules(text: str) -> str | tuple[str, ...]:
    """Return the target modules of a text: one of `TARGET_PRESETS`, or names with commas."""
    text = text.strip()
    if text in TARGET_PRESETS or text.startswith("last-"):
        return text
    return tuple(name.strip() for name in text.split(","))


def as_target_modules(value: object) -> str | tuple[str, ...]:
    """Return target modules: one of `TARGET_PRESETS`, or the names of layers as a tuple.

    Raises:
        ArgumentError: If they are not.
    """
    if isinstance(value, str):
        if value in TARGET_PRESETS[:-1] or last_layers(value):
            return value
        alike = get_close_matches(value, TARGET_PRESETS, n=1)
        hint = f": did you mean {alike[0]!r}?" if alike else ""
        raise ArgumentError(
            f"target_modules must be one of {list(TARGET_PRESETS)}, where N is a positive number, "
            f"or a tuple of layers' names, got {value!r}{hint}"
        )
    names = tuple(value) if isinstance(value, Iterable) else ()
    if not names or not all(name and isinstance(name, str) for name in names):
        raise ArgumentError(f"target_modules must have names of layers, got {value!r}")
    return names


def check_seconds(name: str, value: Any) -> None:
    """Check that a value is a duration that a thread can wait for.

    Raises:
        ArgumentError: If it is not.
    """
    if not (is_finite_number(value) and 0 < value < threading.TIMEOUT_MAX):
        raise ArgumentError(f"{name} must be a positive number of seconds, got {value!r}")


def check_timeout(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that a value is a positive timeout of any length; with `optional`, or None.

    Raises:
        ArgumentError: If it is not.
    """
    if optional and value is None:
        return
    if not (isinstance(value, int | float) and value > 0):
        limit = ", or None for no limit" if optional else ""
        raise ArgumentError(f"{name} must be positive{limit}, got {value!r}")


def is_finite_number(value: object) -> TypeGuard[float]:
    """Return True for a finite real number; a boolean is not a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False
