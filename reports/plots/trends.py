"""The medians of cells over the runs of a history, with their steps."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.history import Time
from reports.plots.labels import CHARACTER, LINE_LENGTH, wrapped
from reports.plots.style import BLUE, GREY, VERMILLION, WIDTH

COLUMNS = 3  # of panels
VERSION_LENGTH = 18  # characters, of a nightly build


def draw(trends: dict[str, list[Time]], cells: pd.DataFrame, title: str) -> Figure:
    """A panel for each cell: its medians over the runs.

    Parameters
    ----------
    trends
        The times of each cell, oldest first, by the cell's name.
    cells
        The cells to draw, by name. `steps` has the indices of the runs at which the level changes,
        and `level_s` the times in seconds with the clock of the last run.
    """
    names = list(cells.index)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, 1.8 * rows + 0.7),
        squeeze=False,
        layout="constrained",
    )
    for axes, name in zip(panels.flat, names, strict=False):
        _draw_trend(axes, trends[name], cells.loc[name])
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("ms, median (grey); without the changes of the clock (blue); dashed: a step")
    figure.suptitle("\n".join(wrapped(title, LINE_LENGTH - 15)))
    return figure


def _draw_trend(axes: Axes, times: list[Time], cell: pd.Series) -> None:
    """Draw one cell. The x axis names a torch version where it first appears, if there is room.

    Each run is a step of its own width, so that a level changes where the next run begins.
    """
    runs = pd.DataFrame(times)
    x = np.arange(len(runs))
    axes.step(x, runs["median_s"] * 1e3, where="mid", marker="o", ms=1.5, lw=0.5, color=GREY)
    axes.step(x, cell["level_s"] * 1e3, where="mid", marker="o", ms=2.5, lw=0.8, color=BLUE)
    for step in cell["steps"]:
        axes.axvline(step - 0.5, color=VERMILLION, lw=1, ls="--")
    starts = [0, *np.flatnonzero(runs["torch"].ne(runs["torch"].shift()))[1:]]
    versions = [str(runs["torch"].iloc[start]).split("+")[0][:VERSION_LENGTH] for start in starts]
    room = len(runs) * CHARACTER * COLUMNS / (0.8 * WIDTH)  # runs in the width of a character
    shown: list[int] = []
    end = -math.inf
    for i, (start, version) in enumerate(zip(starts, versions, strict=True)):
        half = (len(version) + 2) / 2 * room
        if start - half >= end:
            shown.append(i)
            end = start + half
    axes.set_xticks([starts[i] for i in shown], [versions[i] for i in shown])
    low, high = runs["median_s"].min() * 1e3, runs["median_s"].max() * 1e3
    axes.set_ylim(0.85 * low, 1.15 * high)
    axes.set_title("\n".join(wrapped(f"{cell['backend']} S={cell['seq_len']}", 32, 2)))
