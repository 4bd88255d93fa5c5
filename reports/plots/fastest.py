"""Which backend computes each mask fastest: one picture for those who have to choose."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.overview import HOST, SHORT, title
from reports.plots.style import looks, milliseconds
from reports.runs import DIRECTIONS


def winners(cells: pd.DataFrame) -> pd.DataFrame:
    """The fastest cell of each mask, direction and length, with its time over FlexAttention's.

    One row each; `over_flex` is NaN where FlexAttention was not timed.
    """
    timed = cells[cells["is_timed"]]
    key = ["mask", "direction", "seq_len"]
    best = timed.loc[timed.groupby(key, sort=False)["median_s"].idxmin()]
    flex = timed[timed["backend"] == "flex"].set_index(key)["median_s"]
    over = best["median_s"].to_numpy() / flex.reindex(pd.MultiIndex.from_frame(best[key]))
    return best.assign(over_flex=over.to_numpy())


def draw(cells: pd.DataFrame) -> Figure:
    """A row a mask, a column a direction and length; the fastest backend's name on its colour."""
    best = winners(cells).set_index(["mask", "direction", "seq_len"])
    masks, lengths = list(cells["mask"].unique()), sorted(cells["seq_len"].unique())
    timed = set(best.index.droplevel("mask"))
    columns = [(d, n) for d in DIRECTIONS for n in lengths if (d, n) in timed]
    look = looks(list(cells["backend"].unique()))

    def cell(y: int, x: int) -> tuple[str, object]:
        key = (masks[y], *columns[x])
        if key not in best.index:
            return "not timed at\nthis length", grid.NOTHING
        row = best.loc[key]
        times = f" ({row['over_flex']:.2f}×)" if row["over_flex"] > 0 else ""
        waits = f" {HOST}" if row["host_bound"] else ""
        colour = to_rgba(look[row["backend"]]["color"], 0.35)
        return f"{row['backend']}\n{milliseconds(row['median_s'])}{times}{waits}", colour

    what = f"Fastest exact backend for each mask (× FlexAttention's time; {HOST} host-bound)"
    labels = [f"{SHORT[d]} S={n}" for d, n in columns]
    return grid.draw(masks, labels, cell, title(cells, what), width=1.25, height=0.42)
