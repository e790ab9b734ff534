"""Numbers, settings and metrics as a report writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from langchain_sift.report.summaries import PERCENT_OF_BASE

GAP = "\N{NO-BREAK SPACE}"


def number(value: float, decimals: int) -> str:
    """Return a number as tables show it; a dash where there is none."""
    return f"{value:z,.{decimals}f}" if math.isfinite(value) else "–"


def minus(value: float, decimals: int) -> str:
    """Return a number of which the side of 0 is seen, its minus as wide as a plus."""
    text = number(value, decimals)
    if value and text == number(0.0, decimals):
        text = f"{value:.1g}"  # rounded to 0, the end of an interval would seem to touch it
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, metric: str) -> str:
    """Return a difference in a metric: in points of percent of base, or of the metric."""
    text = minus(value, decimals_of(metric))
    return f"+{text}" if value > 0 else text


def decimals_of(metric: str) -> int:
    """Return how many decimals a metric is shown with."""
    return 1 if metric == PERCENT_OF_BASE else 3


def metric_name(metric: str) -> str:
    """Return how a metric is called in words."""
    return "% of base" if metric == PERCENT_OF_BASE else metric


def setting(value: object) -> str:
    """Return a setting as one line."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)
