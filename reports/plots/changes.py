"""Changes between runs: sorted with their noise, as a heat map, and trends over a history."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.overview import SHORT
from reports.plots.style import BLUE, GREY, ORANGE, VERMILLION, ordered

WIDEST = 0.25  # a change whose colour is full
BADLY = ("REGRESSION", "SLOW", "SLOWER", "SUSPECT slower", "AMBIGUOUS")
WELL = ("IMPROVEMENT", "FAST", "FASTER", "SUSPECT faster")
COLOURS = dict.fromkeys(BADLY, VERMILLION) | dict.fromkeys(WELL, BLUE)
RAMP = LinearSegmentedColormap.from_list("change", [BLUE, "#FFFFFF", ORANGE])
STEEP = 100  # %, from which the axis of changes becomes logarithmic
LINE = 8  # points between two names
NAMED = 12  # cells whose names are written at each end


def short(name: str) -> str:
    """A cell's name without its file and its test's name."""
    return name.rpartition("[")[2].rstrip("]")


def changes(cells: pd.DataFrame, title: str) -> Figure | None:
    """Each cell's change, smallest first, with its interval, over the noise of its history."""
    found = cells[cells["change"].notna()].sort_values("change")
    if found.empty:
        return None
    places, change = np.arange(len(found)), 100 * found["change"].to_numpy()
    figure, axes = plt.subplots(figsize=(9.6, 4.6), layout="constrained")
    noise = 100 * 1.96 * found["noise"].fillna(0).to_numpy()
    shown = "95 % of the noise between runs"
    axes.fill_between(places, -noise, noise, color=GREY, alpha=0.35, lw=0, step="mid", label=shown)
    if "half" in found:
        half = 100 * found["half"].fillna(0).to_numpy()
        axes.errorbar(places, change, half, fmt="none", ecolor=GREY, lw=0.8)
    axes.scatter(
        places, change, s=14, zorder=3, color=[COLOURS.get(s, GREY) for s in found["status"]]
    )
    axes.axhline(0, color="black", lw=0.8)
    if np.abs(change).max() > STEEP:  # else one cell flattens all others
        axes.set_yscale("symlog", linthresh=100 * WIDEST)
        axes.yaxis.set_major_formatter("{x:+.0f}")
        axes.margins(y=0.1)
    named = np.flatnonzero(found["status"].isin(COLOURS))
    middle = len(found) / 2
    name_cells(axes, found, change, named[named <= middle][: NAMED // 2], "left")
    name_cells(axes, found, change, named[named > middle][-NAMED // 2 :], "right")
    axes.set_ylabel("change of the median, % (above 0: slower)")
    axes.set_xlabel(f"{len(found)} cells, sorted")
    axes.set_xticks([])
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set_title(title, fontsize=9)
    return figure


def name_cells(axes, found: pd.DataFrame, change: np.ndarray, places: np.ndarray, side: str):
    """The names of these cells beside their points, moved up where they would overlap."""
    last = -np.inf
    for place in places:
        height = (
            axes.transData.transform((place, change[place]))[1] * 72 / axes.figure.dpi
        )  # points
        last = max(height, last + LINE)
        text = f"{short(found.index[place])} {SHORT.get(found['direction'].iloc[place], '')}"
        axes.annotate(
            *(text, (place, change[place])),
            xytext=(-6 if side == "right" else 6, last - height),
            textcoords="offset points",
            fontsize=6,
            va="center",
            ha=side,
        )


def heat(cells: pd.DataFrame, title: str) -> Figure | None:
    """Mask x backend: of its cells the change that is farthest from none."""
    found = cells[cells["change"].notna()]
    if found.empty:
        return None
    masks, backends = list(found["mask"].unique()), ordered(found["backend"])

    def cell(y: int, x: int) -> tuple[str, object]:
        here = found[(found["mask"] == masks[y]) & (found["backend"] == backends[x])]
        if here.empty:
            return "not compared", grid.NOTHING
        row = here.loc[here["change"].abs().idxmax()]
        what = SHORT.get(row["direction"], row["direction"])
        text = f"{row['change']:+.1%}\n{what} S={row['seq_len']}"
        return text, RAMP(0.5 + np.clip(row["change"] / WIDEST, -1, 1) / 2)

    return grid.draw(masks, backends, cell, title, width=1.1, height=0.45)


def trend(trends: dict[str, pd.DataFrame], cells: pd.DataFrame, title: str) -> Figure:
    """A panel a cell: its medians over the runs, its steps, and the torch versions below."""
    names = list(cells.index)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        *(rows, columns),
        figsize=(3.1 * columns, 1.9 * rows + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for axes, name in zip(panels.flat, names, strict=False):
        past, row = trends[name], cells.loc[name]
        places = np.arange(len(past))
        axes.plot(places, past["median_s"] * 1e3, marker="o", ms=2.5, lw=0.8, color=BLUE)
        for at in row["steps"]:
            axes.axvline(at - 0.5, color=VERMILLION, lw=1, ls="--")
        first = past["torch"].ne(past["torch"].shift())
        axes.set_xticks(places[first], [v.split("+")[0] for v in past["torch"][first]], fontsize=5)
        low, high = past["median_s"].min() * 1e3, past["median_s"].max() * 1e3
        axes.set_ylim(0.85 * low, 1.15 * high)
        axes.set_title(f"{row['backend']} S={row['seq_len']}", fontsize=7)
        axes.tick_params(axis="y", labelsize=6)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    figure.supylabel("ms, median", fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure
