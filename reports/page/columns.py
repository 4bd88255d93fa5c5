"""Tables as columns of JSON, short enough for 20,000 cells in one page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

DIGITS = 5  # significant digits of a number; the intervals of times are wider

Column = list[Any] | dict[str, list[Any]]


def rounded(value: Any) -> Any:
    """A value that JSON has: null for NaN, infinity and pandas' NA, and few digits."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return value


def numbers(values: Iterable[Any]) -> Column:
    """A column of numbers or flags."""
    return [rounded(value) for value in values]


def texts(values: Iterable[str]) -> Column:
    """A column of texts: `t` has each text once, and `i` the place in `t` of each row's."""
    places: dict[str, int] = {}
    rows = [places.setdefault(value, len(places)) for value in values]
    return {"t": list(places), "i": rows}
