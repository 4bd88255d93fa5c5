"""Changes between runs: sorted, and as a heat map."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.labels import LINE_LENGTH, PHASE_ABBREVIATIONS, wrapped
from reports.plots.style import BLUE, GREY, ORANGE, VERMILLION, WIDTH, sorted_backends
from reports.runs import cell_label
from reports.thresholds import NORMAL_95
from reports.verdict import Status

SATURATION = 0.25  # the relative change at which the heat map's color saturates
SLOWER = (Status.REGRESSION, Status.SLOWER, Status.SUSPECT_SLOWER, Status.SLOWER_CLOCK)
FASTER = (Status.IMPROVEMENT, Status.FASTER, Status.SUSPECT_FASTER)
STATUS_COLORS = dict.fromkeys(SLOWER, VERMILLION) | dict.fromkeys(FASTER, BLUE)
CHANGE_COLORS = LinearSegmentedColormap.from_list("change", [BLUE, "#FFFFFF", ORANGE])
LOG_ABOVE = 100  # %; with a larger change the axis is logarithmic
MAX_NAMES = 16  # cells whose names are written, half of them at each end
NAME_LENGTH = 60  # characters


def draw_changes(cells: pd.DataFrame, title: str) -> Figure | None:
    """The change of each cell with its interval, over its noise: all sorted, and the largest.

    The upper panel has all cells from the smallest change to the largest. The lower one has those
    that became slower or faster, by name: at most MAX_NAMES, half of them from each end. Returns
    None if no cell has a change.
    """
    found = cells[cells["change"].notna()].sort_values("change")
    if found.empty:
        return None
    changed = np.flatnonzero(found["status"].isin(STATUS_COLORS))
    largest = np.unique([*changed[: MAX_NAMES // 2], *changed[-MAX_NAMES // 2 :]]).astype(int)
    named = found.iloc[largest[::-1]]  # the slowest at the top
    height = 0.2 * len(named) + 0.8 if len(named) else 0.0
    figure = plt.figure(figsize=(WIDTH, 3.2 + height), layout="constrained")
    if len(named):
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.2, height])
        above, below = parts.flat  # each has its own margins
        _draw_sorted(above.subplots(), found)
        _draw_named(below.subplots(), named, len(changed) - len(named))
    else:
        _draw_sorted(figure.subplots(), found)
    figure.suptitle("\n".join(wrapped(title, LINE_LENGTH - 15)))
    return figure


def _intervals(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The changes, the half-widths of their intervals and of the noise, in percent."""
    half = cells["half"].fillna(0) if "half" in cells else pd.Series(0.0, cells.index)
    noise = NORMAL_95 * cells["noise"].fillna(0)
    return 100 * cells["change"].to_numpy(), 100 * half.to_numpy(), 100 * noise.to_numpy()


def _draw_sorted(axes: Axes, cells: pd.DataFrame) -> None:
    x, (change, half, noise) = np.arange(len(cells)), _intervals(cells)
    label = "95 % of the noise between runs"
    axes.fill_between(x, -noise, noise, color=GREY, alpha=0.35, lw=0, step="mid", label=label)
    axes.errorbar(x, change, half, fmt="none", ecolor=GREY, lw=0.8)
    colors = [STATUS_COLORS.get(status, GREY) for status in cells["status"]]
    axes.scatter(x, change, s=14, zorder=3, color=colors)
    axes.axhline(0, color="black", lw=0.8)
    if np.abs(change).max() > LOG_ABOVE:  # on a linear axis one cell would flatten the others
        axes.set_yscale("symlog", linthresh=100 * SATURATION)
        axes.yaxis.set_major_formatter("{x:+.0f}")
        axes.margins(y=0.1)
    axes.set_ylabel("change of the median, %")
    axes.set_xlabel(f"{len(cells)} cells, sorted (above 0: slower)")
    axes.set_xticks([])
    axes.legend(frameon=False, loc="upper left")


def _draw_named(axes: Axes, cells: pd.DataFrame, left_out: int) -> None:
    y, (change, half, noise) = np.arange(len(cells)), _intervals(cells)
    axes.barh(y, 2 * noise, left=-noise, color=GREY, alpha=0.35, height=1)
    axes.errorbar(change, y, xerr=half, fmt="none", ecolor=GREY, lw=0.8)
    colors = [STATUS_COLORS[status] for status in cells["status"]]
    axes.scatter(change, y, s=14, zorder=3, color=colors)
    axes.axvline(0, color="black", lw=0.8)
    if np.abs(change).max() > LOG_ABOVE:
        axes.set_xscale("symlog", linthresh=100 * SATURATION)
        axes.xaxis.set_major_formatter("{x:+.0f}")
    names, end = without_common_end([cell_label(str(name)) for name in cells.index])
    phases = [PHASE_ABBREVIATIONS.get(direction, "") for direction in cells["direction"]]
    names = [f"{name} {phase}" for name, phase in zip(names, phases, strict=True)]
    axes.set_yticks(y, [wrapped(name, NAME_LENGTH, 1)[0] for name in names])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    more = f"; {left_out} more changed" if left_out else ""
    axes.set_xlabel(f"change of the median, %{f' (all: {end[1:]}{more})' if end else more}")


def without_common_end(labels: list[str]) -> tuple[list[str], str]:
    """The labels without the parts at their end that all have, and those parts: "-s512-float16"."""
    parts = [label.split("-") for label in labels]
    number, most = 0, min(map(len, parts)) - 1 if len(labels) > 1 else 0
    while number < most and len({part[-number - 1] for part in parts}) == 1:
        number += 1
    end = "".join(f"-{part}" for part in parts[0][len(parts[0]) - number :])
    return [label.removesuffix(end) for label in labels], end


def draw_heat_map(cells: pd.DataFrame, title: str) -> Figure | None:
    """The largest change of each mask and backend. None if no cell has a change."""
    found = cells[cells["change"].notna()]
    if found.empty:
        return None
    masks, backends = list(found["mask"].unique()), sorted_backends(found["backend"])

    def cell(y: int, x: int) -> grid.Entry:
        here = found[(found["mask"] == masks[y]) & (found["backend"] == backends[x])]
        if here.empty:
            return grid.Entry(["-"])
        row = here.loc[here["change"].abs().idxmax()]
        phase = PHASE_ABBREVIATIONS.get(row["direction"], row["direction"])
        shade = 0.5 + float(np.clip(row["change"] / SATURATION, -1, 1)) / 2
        lines = [f"{row['change']:+.1%}", phase, f"S={row['seq_len']}"]
        return grid.Entry(lines, [(*CHANGE_COLORS(shade)[:3], 0.75)])

    notes = ["the largest change of all cells of a mask and backend; -: not compared"]
    lines = wrapped(title, LINE_LENGTH - 15)
    return grid.draw(masks, backends, cell, "\n".join(lines), notes, min_width=0.6)
