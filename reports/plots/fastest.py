"""Which backend computes each mask fastest: a picture for readers who choose a backend."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from reports.plots import grid
from reports.plots.labels import (
    HOST_BOUND_MARK,
    PHASE_ABBREVIATIONS,
    milliseconds,
    title_with_setup,
)
from reports.plots.limits import spread_out
from reports.plots.style import backend_styles
from reports.runs import DIRECTIONS

KEY = ["mask", "direction", "seq_len"]


def fastest_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The fastest cell of each mask, direction and length.

    The column `over_flex` is its time over FlexAttention's, NaN if FlexAttention was not timed.
    """
    timed = cells[cells["is_timed"]]
    best: pd.DataFrame = timed.loc[timed.groupby(KEY, sort=False)["median_s"].idxmin()].copy()
    flex = timed[timed["backend"] == "flex"].set_index(KEY)["median_s"]
    flex_s = flex.reindex(pd.MultiIndex.from_frame(best[KEY])).to_numpy()
    best["over_flex"] = best["median_s"].to_numpy() / flex_s
    return best


def draw(cells: pd.DataFrame) -> Figure:
    """A row for each mask, a column for each direction and length.

    A cell names the fastest backend, on that backend's color.
    """
    best = fastest_cells(cells).set_index(KEY)
    masks, lengths = list(cells["mask"].unique()), spread_out(sorted(cells["seq_len"].unique()))
    timed = set(best.index.droplevel("mask"))
    columns = [(d, n) for d in DIRECTIONS for n in lengths if (d, n) in timed]
    styles = backend_styles(cells["backend"])

    def cell(y: int, x: int) -> tuple[str, ColorType]:
        key = (masks[y], *columns[x])
        if key not in best.index:
            return "not timed at\nthis length", grid.NO_TIME_COLOR
        row = best.loc[key]
        ratio = f" ({row['over_flex']:.2f}×)" if row["over_flex"] > 0 else ""  # NaN without flex
        mark = f" {HOST_BOUND_MARK}" if row["host_bound"] else ""
        text = f"{row['backend']}\n{milliseconds(row['median_s'])}{ratio}{mark}"
        return text, to_rgba(styles[row["backend"]].color, 0.35)

    title = (
        "Fastest exact backend for each mask "
        f"(× FlexAttention's time; {HOST_BOUND_MARK} host-bound)"
    )
    if len(lengths) < cells["seq_len"].nunique():
        title += f", {len(lengths)} of {cells['seq_len'].nunique()} lengths"
    labels = [f"{PHASE_ABBREVIATIONS[d]} S={n}" for d, n in columns]
    return grid.draw(
        masks, labels, cell, title_with_setup(cells, title), cell_width=1.25, cell_height=0.42
    )
