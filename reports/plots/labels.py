"""Texts that several pictures share."""

from __future__ import annotations

import textwrap

import pandas as pd

from reports.runs import shape_of

PHASE_ABBREVIATIONS = {"forward": "fwd", "backward": "bwd"}
HOST_BOUND_MARK = "†"  # beside the device time of a call whose host time is longer
NOT_IN_RUN = "not in this run"


def title_with_setup(cells: pd.DataFrame, title: str) -> str:
    """The title, and below it the shape, device and torch version of the cells."""
    first = cells.iloc[0]
    return f"{title}\n{shape_of(first)}, {first['device']}, torch {first['torch']}"


def milliseconds(seconds: float) -> str:
    """A time in ms with three significant digits: 0.0373 ms, 2.07 ms, 130 ms."""
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{float(f'{value:.3g}'):g} ms"


def untimed_reason(cell: pd.Series, width: int, max_lines: int) -> str:
    """The outcome and reason of an untimed cell, wrapped to `width` characters and truncated."""
    reason = f"{cell['outcome']}: {cell['reason']}"
    return "\n".join(textwrap.wrap(reason, width, max_lines=max_lines, placeholder="…"))
