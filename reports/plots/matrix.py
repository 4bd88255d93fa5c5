"""How each backend computes each mask, or why not: as text and as a picture."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.overview import SHORT, title
from reports.plots.style import ordered
from reports.runs import shape_of

LONG = 120  # characters
TIMED, PARTLY = "#CFE5F3", "#FBE3B6"


def forms(timed: pd.DataFrame) -> str:
    """The form that was used; where it changes with the length, each with its lengths."""
    found: dict[str, list[int]] = {}
    for seq_len, form in zip(timed["seq_len"], timed["form"], strict=True):
        found.setdefault(form, []).append(seq_len)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"S={'/'.join(map(str, at))} {form}" for form, at in found.items())


def entry(cells: pd.DataFrame) -> str:
    """One mask and backend: the form that was used, and what a direction cannot and why."""
    said = {}
    for direction in SHORT:
        rows = cells[cells["direction"] == direction]
        if rows.empty:
            continue
        timed, last = rows[rows["is_timed"]], rows.iloc[-1]
        said[direction] = forms(timed) if len(timed) else f"{last['outcome']}: {last['reason']}"
    texts = list(dict.fromkeys(said.values()))
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"{SHORT[direction]} {text}" for direction, text in said.items())


def entries(cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(mask, backend) -> its entry, for all pairs; `cells` are of one shape and data type."""
    backends, found = ordered(cells["backend"]), {}
    groups = dict(list(cells.groupby(["mask", "backend"], sort=False)))
    for mask in cells["mask"].unique():
        for backend in backends:
            here = groups.get((mask, backend))
            found[mask, backend] = "not in this run" if here is None else entry(here)
    return found


def text(cells: pd.DataFrame) -> str:
    """The matrix as lines: a mask, and under it each backend."""
    lines, last, width = [shape_of(cells.iloc[0])], None, cells["backend"].str.len().max()
    for (mask, backend), said in entries(cells).items():
        if mask != last:
            lines += ["", mask]
        lines.append(f"  {backend:{width}}  {said}")
        last = mask
    return "\n".join(lines)


def draw(cells: pd.DataFrame) -> Figure:
    """The matrix as a picture; blue: both directions timed, orange: one, grey: neither."""
    found = entries(cells)
    masks, backends = list(cells["mask"].unique()), ordered(cells["backend"])
    timed = cells[cells["is_timed"]].groupby(["mask", "backend"])["direction"].nunique()
    colours = {0: grid.NOTHING, 1: PARTLY, 2: TIMED}

    def cell(y: int, x: int) -> tuple[str, str]:
        key = masks[y], backends[x]
        width = 30 if len(found[key]) <= LONG else 38  # which is written smaller
        wrapped = textwrap.wrap(found[key], width, max_lines=6, placeholder="…")
        return "\n".join(wrapped), colours[int(timed.get(key, 0))]

    what = "How each mask is computed, or why not (blue: timed forward and backward)"
    return grid.draw(masks, backends, cell, title(cells, what))
