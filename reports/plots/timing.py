"""The times of one mask as bars: each backend forward and backward."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.plots.labels import NOT_IN_RUN, milliseconds, untimed_reason
from reports.plots.lengths import longest_with_flex
from reports.plots.limits import MAX_BACKENDS, first
from reports.plots.style import GREY, VERMILLION, backend_styles, sorted_backends
from reports.runs import DIRECTIONS, host_late, shape_of

MAX_RATIO = 5  # bars longer than this many times FlexAttention's are truncated


def flags(cell: pd.Series) -> str:
    """What limits the meaning of a time, in brackets: " [host-bound, throttled]", or nothing."""
    found = []
    if cell["host_bound"]:
        found.append("host-bound")
    if cell["throttle"]:
        found.append("throttled")
    if host_late(cell):
        found.append("host late")
    if cell.get("two_modes") is True:  # older runs do not have this field
        found.append("two clocks" if cell.get("two_modes_by_clock") is True else "two modes")
    return f" [{', '.join(found)}]" if found else ""


def _annotate(
    axes: Axes,
    text: str,
    position: tuple[float, float],
    fontsize: float,
    *,
    color: str = "black",
    style: str = "normal",
) -> None:
    """Write a text to the right of a position, on a translucent background."""
    axes.annotate(
        text,
        position,
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        fontsize=fontsize,
        color=color,
        style=style,
    )


def _draw_bars(axes: Axes, cells: pd.DataFrame, backends: list[str], direction: str) -> None:
    """Draw a bar for each backend, and FlexAttention's time as a dashed line across."""
    cells = cells[cells["direction"] == direction].set_index("backend")
    timed = cells[cells["is_timed"]]
    flex = timed["median_s"].get("flex")
    longest = timed["median_s"].max() if len(timed) else 1.0
    if flex and longest > MAX_RATIO * flex:  # a dense mask would leave no room for the others
        longest = MAX_RATIO * flex
    styles = backend_styles(backends)
    for y, backend in enumerate(backends):
        if backend not in cells.index:
            _annotate(axes, NOT_IN_RUN, (0, y), 7, color=GREY)
            continue
        cell = cells.loc[backend]
        if not cell["is_timed"]:
            reason = untimed_reason(cell, width=70, max_lines=2)
            _annotate(axes, reason, (0, y), 6.5, style="italic")
            continue
        median = cell["median_s"]
        length, truncated = min(median, longest), median > longest
        bar = axes.barh(y, length, color=styles[backend].color, height=0.68)
        if truncated:
            bar[0].set(hatch="////", edgecolor="white")
        ratio = f" ({median / flex:.2f}×)" if flex and backend != "flex" else ""
        text = f"{'» ' if truncated else ''}{milliseconds(median)}{ratio}{flags(cell)}"
        _annotate(axes, text, (length, y), 8)
    if flex:
        axes.axvline(flex, color=VERMILLION, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlim(0, longest * 1.5)
    axes.set_yticks(range(len(backends)), backends)
    axes.set_ylim(len(backends) - 0.5, -0.5)  # the first backend is at the top
    axes.set_title(direction, loc="left", fontsize=9)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x * 1e3:g}")
    note = f"; »: cut at {MAX_RATIO}×" if timed["median_s"].gt(longest).any() else ""
    axes.set_xlabel(f"ms, median (× FlexAttention, dashed){note}")


def draw(cells: pd.DataFrame) -> Figure:
    """Draw the times at the longest sequence with FlexAttention.

    The cells have one mask, shape and data type.
    """
    seq_len = longest_with_flex(cells)
    cells = cells[cells["seq_len"] == seq_len]
    backends, note = first(sorted_backends(cells["backend"]), MAX_BACKENDS, "backends")
    height = 1.5 + 0.27 * len(backends)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, height), sharey=True, layout="constrained")
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        _draw_bars(axes, cells, backends, direction)
    panels[1].tick_params(left=False)
    first_cell = cells.iloc[0]
    title = f"{first_cell['mask']}, S={seq_len}, {shape_of(first_cell)}{note}"
    figure.suptitle(f"{title}\n{first_cell['device']}, torch {first_cell['torch']}", fontsize=9)
    return figure
