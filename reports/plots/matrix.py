"""How each backend computes each mask, or why not: as text and as a picture."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.labels import NOT_IN_RUN, PHASE_ABBREVIATIONS, title_with_setup
from reports.plots.limits import MAX_ROWS, first, spread_out
from reports.plots.style import sorted_backends
from reports.plots.table import Footnotes, without_times
from reports.runs import shape_of
from reports.tuned_forms import TUNED, options_kind

BOTH_TIMED_COLOR, ONE_TIMED_COLOR = "#CFE5F3", "#FBE3B6"
TUNED_FORMS = {
    "own": "kernel_options found by a search",
    "FLASH": "BACKEND=FLASH, found by a search",
    "default": "default options, the fastest of a search",
}
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


def in_short(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with short forms of `flex_tuned`: its options differ from mask to mask."""
    is_tuned = cells["is_timed"] & (cells["backend"] == TUNED)
    kinds = cells["formulation"].map(options_kind).map(TUNED_FORMS)
    shorter: pd.DataFrame = cells.assign(form=cells["form"].mask(is_tuned, kinds))
    return shorter


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


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """The matrix as a table: a row for each mask and backend."""
    shape = shape_of(cells.iloc[0])
    rows = [(shape, *key, description) for key, description in entries(cells).items()]
    result: pd.DataFrame = pd.DataFrame(rows, columns=["shape", "mask", "backend", "form"])
    return result


def draw(cells: pd.DataFrame) -> Figure:
    """The matrix as a picture: numbers that refer to the texts below it.

    Blue: both directions were timed, orange: one, grey: neither. Backends that were not timed at
    all are in the notes only.
    """
    masks, note = first(list(cells["mask"].unique()), MAX_ROWS, "masks")
    cells = cells[cells["mask"].isin(masks)]
    texts, forms = entries(in_short(cells)), Footnotes()
    timed = cells[cells["is_timed"]]
    backends = sorted_backends(timed["backend"])
    directions = timed.groupby(["mask", "backend"])["direction"].nunique()

    def cell(y: int, x: int) -> grid.Entry:
        key = masks[y], backends[x]
        text = texts.get(key, NOT_IN_RUN)
        return grid.Entry([str(forms.number(text))], [COLORS[int(directions.get(key, 0))]])

    for y in range(len(masks)):  # numbers in the order of reading
        for x in range(len(backends)):
            cell(y, x)
    title = f"How each mask is computed, or why not (blue: timed forward and backward){note}"
    notes = ["orange: timed in one direction"] if (directions == 1).any() else []
    notes += [f"{number}  {text}" for text, number in forms.numbers.items()]
    notes += without_times(cells, backends)
    return grid.draw(masks, backends, cell, title_with_setup(cells, title), notes)
