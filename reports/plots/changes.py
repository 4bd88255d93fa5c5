"""Changes between runs: sorted, as a heat map, and as trends over a history."""

from __future__ import annotations

from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from reports.history import Time
from reports.plots import grid
from reports.plots.labels import PHASE_ABBREVIATIONS
from reports.plots.style import BLUE, GREY, ORANGE, VERMILLION, sorted_backends
from reports.runs import cell_label
from reports.thresholds import NORMAL_95
from reports.verdict import Status

SATURATION = 0.25  # the relative change at which the heat map's color saturates
SLOWER = (Status.REGRESSION, Status.SLOWER, Status.SUSPECT_SLOWER, Status.SLOWER_CLOCK)
FASTER = (Status.IMPROVEMENT, Status.FASTER, Status.SUSPECT_FASTER)
STATUS_COLORS = dict.fromkeys(SLOWER, VERMILLION) | dict.fromkeys(FASTER, BLUE)
CHANGE_COLORS = LinearSegmentedColormap.from_list("change", [BLUE, "#FFFFFF", ORANGE])
LOG_ABOVE = 100  # %; with a larger change the axis is logarithmic
MIN_NAME_DISTANCE = 8  # points between two names
MAX_NAMES = 12  # cells whose names are written, half of them at each end


def draw_changes(cells: pd.DataFrame, title: str) -> Figure | None:
    """Each cell's change with its interval, from smallest to largest, over its noise.

    Returns None if no cell has a change.
    """
    found = cells[cells["change"].notna()].sort_values("change")
    if found.empty:
        return None
    x, change = np.arange(len(found)), 100 * found["change"].to_numpy()
    figure, axes = plt.subplots(figsize=(9.6, 4.6), layout="constrained")
    noise = 100 * NORMAL_95 * found["noise"].fillna(0).to_numpy()
    label = "95 % of the noise between runs"
    axes.fill_between(x, -noise, noise, color=GREY, alpha=0.35, lw=0, step="mid", label=label)
    if "half" in found:
        half_width = 100 * found["half"].fillna(0).to_numpy()
        axes.errorbar(x, change, half_width, fmt="none", ecolor=GREY, lw=0.8)
    colors = [STATUS_COLORS.get(status, GREY) for status in found["status"]]
    axes.scatter(x, change, s=14, zorder=3, color=colors)
    axes.axhline(0, color="black", lw=0.8)
    if np.abs(change).max() > LOG_ABOVE:  # on a linear axis one cell would flatten the others
        axes.set_yscale("symlog", linthresh=100 * SATURATION)
        axes.yaxis.set_major_formatter("{x:+.0f}")
        axes.margins(y=0.1)
    named = np.flatnonzero(found["status"].isin(STATUS_COLORS))
    middle = len(found) / 2
    _write_names(axes, found, named[named <= middle][: MAX_NAMES // 2], "left")
    _write_names(axes, found, named[named > middle][-MAX_NAMES // 2 :], "right")
    axes.set_ylabel("change of the median, % (above 0: slower)")
    axes.set_xlabel(f"{len(found)} cells, sorted")
    axes.set_xticks([])
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set_title(title, fontsize=9)
    return figure


def _write_names(
    axes: Axes, cells: pd.DataFrame, places: np.ndarray, align: Literal["left", "right"]
) -> None:
    """Write the names of the cells at `places` beside their points, without overlaps.

    The places are in ascending order of their change, so a name is only ever moved up.
    """
    previous = -np.inf
    for x in places:
        cell = cells.iloc[x]
        point = (x, 100 * cell["change"])
        height = axes.transData.transform(point)[1] * 72 / axes.figure.dpi  # points
        previous = max(height, previous + MIN_NAME_DISTANCE)
        text = f"{cell_label(cells.index[x])} {PHASE_ABBREVIATIONS.get(cell['direction'], '')}"
        axes.annotate(
            text,
            point,
            xytext=(-6 if align == "right" else 6, previous - height),
            textcoords="offset points",
            fontsize=6,
            va="center",
            ha=align,
        )


def draw_heat_map(cells: pd.DataFrame, title: str) -> Figure | None:
    """The largest change of each mask and backend. None if no cell has a change."""
    found = cells[cells["change"].notna()]
    if found.empty:
        return None
    masks, backends = list(found["mask"].unique()), sorted_backends(found["backend"])

    def cell(y: int, x: int) -> tuple[str, ColorType]:
        here = found[(found["mask"] == masks[y]) & (found["backend"] == backends[x])]
        if here.empty:
            return "not compared", grid.NO_TIME_COLOR
        row = here.loc[here["change"].abs().idxmax()]
        phase = PHASE_ABBREVIATIONS.get(row["direction"], row["direction"])
        text = f"{row['change']:+.1%}\n{phase} S={row['seq_len']}"
        shade = 0.5 + float(np.clip(row["change"] / SATURATION, -1, 1)) / 2
        return text, CHANGE_COLORS(shade)

    return grid.draw(masks, backends, cell, title, cell_width=1.1, cell_height=0.45)


def draw_trends(trends: dict[str, list[Time]], cells: pd.DataFrame, title: str) -> Figure:
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
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(3.1 * columns, 1.9 * rows + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for axes, name in zip(panels.flat, names, strict=False):
        _draw_trend(axes, trends[name], cells.loc[name])
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    figure.supylabel("ms, median (grey); without the changes of the clock (blue)", fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_trend(axes: Axes, times: list[Time], cell: pd.Series) -> None:
    """Draw one cell. The x axis names a torch version where it first appears."""
    runs = pd.DataFrame(times)
    x = np.arange(len(runs))
    axes.plot(x, runs["median_s"] * 1e3, marker="o", ms=1.5, lw=0.5, color=GREY)
    axes.plot(x, cell["level_s"] * 1e3, marker="o", ms=2.5, lw=0.8, color=BLUE)
    for step in cell["steps"]:
        axes.axvline(step - 0.5, color=VERMILLION, lw=1, ls="--")
    first = runs["torch"].ne(runs["torch"].shift())
    versions = [version.split("+")[0] for version in runs["torch"][first]]
    axes.set_xticks(x[first], versions, fontsize=5)
    low, high = runs["median_s"].min() * 1e3, runs["median_s"].max() * 1e3
    axes.set_ylim(0.85 * low, 1.15 * high)
    axes.set_title(f"{cell['backend']} S={cell['seq_len']}", fontsize=7)
    axes.tick_params(axis="y", labelsize=6)
