"""How each backend computes each mask, or why not: as text and as a picture."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from reports.plots import grid
from reports.plots.labels import NOT_IN_RUN, PHASE_ABBREVIATIONS, title_with_setup
from reports.plots.limits import MAX_ROWS, first, spread_out
from reports.plots.style import sorted_backends
from reports.runs import shape_of

LONG_ENTRY = 120  # characters; longer entries get longer lines
BOTH_TIMED_COLOR, ONE_TIMED_COLOR = "#CFE5F3", "#FBE3B6"
COLORS = (grid.NO_TIME_COLOR, ONE_TIMED_COLOR, BOTH_TIMED_COLOR)  # by number of directions timed


def formulations(timed: pd.DataFrame) -> str:
    """The formulation that was timed. If it depends on the length, each with its lengths."""
    lengths: dict[str, list[int]] = {}
    for seq_len, text in zip(timed["seq_len"], timed["form"], strict=True):
        lengths.setdefault(text, []).append(seq_len)
    if len(lengths) == 1:
        return next(iter(lengths))
    shown = {text: spread_out(sorted(at)) for text, at in lengths.items()}
    return ", ".join(f"S={'/'.join(map(str, at))} {text}" for text, at in shown.items())


def entry(cells: pd.DataFrame) -> str:
    """The text for one mask and backend: its formulation, or for a direction why it has none."""
    texts = {}
    for direction in PHASE_ABBREVIATIONS:
        rows = cells[cells["direction"] == direction]
        if rows.empty:
            continue
        timed, last = rows[rows["is_timed"]], rows.iloc[-1]
        untimed = f"{last['outcome']}: {last['reason']}"
        texts[direction] = formulations(timed) if len(timed) else untimed
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{PHASE_ABBREVIATIONS[d]} {text}" for d, text in texts.items())


def entries(cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The entry of each (mask, backend). The cells have one shape and data type."""
    groups = dict(list(cells.groupby(["mask", "backend"], sort=False)))
    backends = sorted_backends(cells["backend"])
    return {
        (mask, backend): (entry(groups[mask, backend]) if (mask, backend) in groups else NOT_IN_RUN)
        for mask in cells["mask"].unique()
        for backend in backends
    }


def text(cells: pd.DataFrame) -> str:
    """The matrix as text: each mask, and below it a line for each backend."""
    lines, last_mask = [shape_of(cells.iloc[0])], None
    width = cells["backend"].str.len().max()
    for (mask, backend), description in entries(cells).items():
        if mask != last_mask:
            lines += ["", mask]
        lines.append(f"  {backend:{width}}  {description}")
        last_mask = mask
    return "\n".join(lines)


def draw(cells: pd.DataFrame) -> Figure:
    """The matrix as a picture. Blue: both directions were timed, orange: one, grey: neither."""
    masks, note = first(list(cells["mask"].unique()), MAX_ROWS, "masks")
    backends = sorted_backends(cells["backend"])
    cells = cells[cells["mask"].isin(masks)]
    texts = entries(cells)
    timed = cells[cells["is_timed"]].groupby(["mask", "backend"])["direction"].nunique()

    def cell(y: int, x: int) -> tuple[str, ColorType]:
        key = masks[y], backends[x]
        if key not in texts:
            return NOT_IN_RUN, grid.NO_TIME_COLOR
        width = 30 if len(texts[key]) <= LONG_ENTRY else 38  # the grid uses a smaller font then
        wrapped = textwrap.wrap(texts[key], width, max_lines=6, placeholder="…")
        return "\n".join(wrapped), COLORS[int(timed.get(key, 0))]

    title = f"How each mask is computed, or why not (blue: timed forward and backward){note}"
    return grid.draw(masks, backends, cell, title_with_setup(cells, title))
