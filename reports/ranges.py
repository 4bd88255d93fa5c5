"""The median and the range of several numbers, as text."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd


def range_text(values: pd.Series, show: Callable[[float], str]) -> str:
    """Such as "1.12 in the median of 24, from 1.00 to 1.35"; "1.12" for one value."""
    median, low, high = map(show, (values.median(), values.min(), values.max()))
    if len(values) == 1:
        return median
    return f"{median} in the median of {len(values)}, from {low} to {high}"
