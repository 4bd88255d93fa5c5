"""The times of one mask as bars: each backend forward and backward."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.plots.labels import (
    LINE,
    LINE_LENGTH,
    NOT_IN_RUN,
    milliseconds,
    text_width,
    untimed_reason,
    wrapped,
)
from reports.plots.lengths import length_to_show
from reports.plots.limits import MAX_BACKENDS, first
from reports.plots.style import GREY, VERMILLION, WIDTH, backend_styles, sorted_backends
from reports.plots.table import without_times
from reports.ranking import NOISY_ABOVE, Measure, is_noisy, peak_seconds, peak_shares, winners
from reports.runs import DIRECTIONS, host_late, shape_of

MAX_RATIO = 5  # bars longer than this many times FlexAttention's are truncated
TEXT_ROOM = 1.9  # the axis is this many times longer than the longest bar, for its text
INTERVAL_ROOM = 1.25  # intervals are cut at this many times the longest bar
AXIS_WIDTH = 6.9  # inches, of the shortest axis
REASON_LENGTH = 75  # characters beside the axis
BAR_HEIGHT = 0.22  # inches
INTERVAL_STYLE: dict[str, Any] = {"color": GREY, "capsize": 2, "lw": 1}


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
    axes: Axes, text: str, position: tuple[float, float], *, color: str = "black", **style: str
) -> None:
    """Write a text to the right of a position, on a translucent background."""
    axes.annotate(
        text,
        position,
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        color=color,
        **style,  # type: ignore[arg-type]  # properties of a text
    )


def _draw_bars(axes: Axes, cells: pd.DataFrame, backends: list[str], direction: str) -> None:
    """Draw a bar with its confidence interval for each backend.

    FlexAttention's time is a dashed line across, and the time at the peak of the device a dotted
    one. Bars of noisy times are pale.
    """
    cells = cells[cells["direction"] == direction]
    best = winners(cells, Measure.DEVICE)
    tied = set(best["backends"].iloc[0]) if len(best) else set()
    cells = cells.assign(is_noisy=is_noisy(cells), **peak_shares(cells))
    cells = cells.assign(peak_s=peak_seconds(cells)).set_index("backend")
    timed = cells[cells["is_timed"]]
    flex = timed["median_s"].get("flex")
    longest = timed["median_s"].max() if len(timed) else 1.0
    if flex and longest > MAX_RATIO * flex:  # a dense mask would leave no room for the others
        longest = MAX_RATIO * flex
    styles = backend_styles(backends)
    for y, backend in enumerate(backends):
        if backend not in cells.index:
            _annotate(axes, NOT_IN_RUN, (0, y), color=GREY)
            continue
        cell = cells.loc[backend]
        if not cell["is_timed"]:
            [reason] = wrapped(untimed_reason(cell), REASON_LENGTH, 1)
            _annotate(axes, reason, (0, y), style="italic")
            continue
        length = end = min(cell["median_s"], longest)
        bar = axes.barh(y, length, color=styles[backend].color, height=0.7)
        if cell["is_noisy"]:
            bar[0].set(alpha=0.3)
        if cell["median_s"] > longest:
            bar[0].set(hatch="////", edgecolor="white")
        else:
            end = min(length * (1 + cell["interval"]), INTERVAL_ROOM * longest)
            low = max(length * (1 - cell["interval"]), 0.0)
            axes.errorbar(length, y, xerr=[[length - low], [end - length]], **INTERVAL_STYLE)
        text = bar_text(cell, flex if backend != "flex" else None)
        # A long text begins over its bar.
        fitting = longest * TEXT_ROOM * (1 - 1.12 * text_width(text) / AXIS_WIDTH)
        weight = "bold" if backend in tied else "normal"
        _annotate(axes, text, (max(min(end, fitting), 0.0), y), fontweight=weight)
    if flex:
        axes.axvline(flex, color=VERMILLION, linewidth=1, linestyle="--", zorder=0)
    if np.isfinite(peak_s := timed["peak_s"].min()):
        axes.axvline(peak_s, color="black", linewidth=1, linestyle=":", zorder=1.5)
    axes.set_xlim(0, longest * TEXT_ROOM)
    axes.set_yticks(range(len(backends)), backends)
    axes.set_ylim(len(backends) - 0.5, -0.5)  # the first backend is at the top
    axes.set_title(direction, loc="left")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x * 1e3:g}")
    is_cut = timed["median_s"].gt(longest).any()
    explained = ["×: times FlexAttention's, dashed"] if flex else []
    explained += ["dotted: at the peak of the device"] if np.isfinite(peak_s) else []
    explained += [f"hatched: cut at {MAX_RATIO}×"] if is_cut else []
    in_brackets = f" ({', '.join(explained)})" if explained else ""
    axes.set_xlabel(f"ms, median{in_brackets}")


def bar_text(cell: pd.Series, flex_s: float | None) -> str:
    """The text beside a bar: the time, that over FlexAttention's, the share of the peak, flags."""
    parts = [milliseconds(cell["median_s"])]
    if cell["is_noisy"]:
        parts[0] += f" ±{cell['interval']:.0%}"
    if flex_s:
        parts[0] += f" ({cell['median_s'] / flex_s:.2f}×)"
    if cell["peak_share"] > 0:  # NaN where no peak was measured
        parts.append(f"{cell['peak_share']:.0%} of the {cell['peak_limit']} peak")
    return ", ".join(parts) + flags(cell)


def draw(cells: pd.DataFrame) -> Figure:
    """Draw the times at one length (`length_to_show`), forward above backward.

    The cells have one mask, shape and data type. Backends without any time are in a note below.
    """
    seq_len = length_to_show(cells)
    cells = cells[cells["seq_len"] == seq_len]
    timed = cells[cells["is_timed"]]
    backends, note = first(sorted_backends(timed["backend"]), MAX_BACKENDS, "backends")
    texts = without_times(cells, list(timed["backend"]))[:MAX_BACKENDS]
    notes = [line for text in texts for line in wrapped(text, LINE_LENGTH, 3)]
    if is_noisy(timed).any():
        notes.insert(0, f"pale: the interval is over ±{NOISY_ABOVE:.0%}")
    notes.insert(0, "bold: the fastest, and those whose 95 % confidence intervals overlap its")
    first_cell = cells.iloc[0]
    title = [
        *wrapped(f"{first_cell['mask']}, S = {seq_len}, {shape_of(first_cell)}{note}", 100),
        *wrapped(f"{first_cell['device']}, torch {first_cell['torch']}", 100),
    ]
    bars = BAR_HEIGHT * max(len(backends), 1)
    height = 2 * (bars + 0.8) + LINE * (len(notes) + len(title) + 1)
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, height), layout="constrained")
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        _draw_bars(axes, cells, backends, direction)
    figure.suptitle("\n".join(title))
    # A super label is part of the constrained layout, unlike a text.
    figure.supxlabel("\n".join(notes), x=0.01, ha="left")
    return figure
