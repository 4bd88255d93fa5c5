"""One mask's times as bars: each backend forward and backward, FlexAttention's level across."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.plots.style import GREY, VERMILLION, looks, milliseconds, ordered, why_not
from reports.runs import DIRECTIONS, host_late, shape_of

CUT = 5  # times FlexAttention's: longer bars are cut
CLEAR = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}  # behind text


def longest_with_flex(cells: pd.DataFrame) -> int:
    """The longest sequence at which FlexAttention was timed; else the longest timed."""
    timed = cells[cells["is_timed"]]
    with_flex = timed[timed["backend"] == "flex"]
    lengths = (with_flex if len(with_flex) else timed if len(timed) else cells)["seq_len"]
    return int(lengths.max())


def notes(row: pd.Series) -> str:
    """What a reader must know of this time beside its value."""
    flags = []
    if row["host_bound"]:
        flags.append("host-bound")
    if row["throttle"]:
        flags.append("throttled")
    if host_late(row):
        flags.append("host late")
    if row.get("two_modes") is True:  # not in older runs
        flags.append("two clocks" if row.get("two_modes_by_clock") is True else "two modes")
    return f" [{', '.join(flags)}]" if flags else ""


def bars(axes: Axes, cells: pd.DataFrame, backends: list[str], direction: str) -> None:
    cells = cells[cells["direction"] == direction].set_index("backend")
    timed = cells[cells["is_timed"]]
    flex = timed["median_s"].get("flex")
    widest, look = timed["median_s"].max() if len(timed) else 1.0, looks(backends)
    if flex and widest > CUT * flex:  # else a dense mask leaves the others no room
        widest = CUT * flex
    for place, backend in enumerate(backends):
        beside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "bbox": CLEAR}
        if backend not in cells.index:
            axes.annotate("not in this run", (0, place), fontsize=7, color=GREY, **beside)
        elif backend not in timed.index:
            text = why_not(cells.loc[backend], 70, 2)
            axes.annotate(text, (0, place), fontsize=6.5, style="italic", **beside)
        else:
            row = timed.loc[backend]
            cut = row["median_s"] > widest
            hatch = {"hatch": "////", "edgecolor": "white"} if cut else {}
            length = min(row["median_s"], widest)
            axes.barh(place, length, color=look[backend]["color"], height=0.68, **hatch)
            times = f" ({row['median_s'] / flex:.2f}×)" if flex and backend != "flex" else ""
            text = f"{'» ' if cut else ''}{milliseconds(row['median_s'])}{times}{notes(row)}"
            axes.annotate(text, (length, place), fontsize=8, **beside)
    if flex:
        axes.axvline(flex, color=VERMILLION, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlim(0, widest * 1.5)
    axes.set_yticks(range(len(backends)), backends)
    axes.set_ylim(len(backends) - 0.5, -0.5)  # the first on top
    axes.set_title(direction, loc="left", fontsize=9)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x * 1e3:g}")
    cut = f"; »: cut at {CUT}×" if timed["median_s"].gt(widest).any() else ""
    axes.set_xlabel(f"ms, median (× FlexAttention, dashed){cut}")


def draw(cells: pd.DataFrame) -> Figure:
    """`cells`: the rows of one mask, shape and data type."""
    seq_len = longest_with_flex(cells)
    cells = cells[cells["seq_len"] == seq_len]
    backends = ordered(cells["backend"])
    height = 1.5 + 0.27 * len(backends)
    figure, both = plt.subplots(1, 2, figsize=(9.6, height), sharey=True, layout="constrained")
    for axes, direction in zip(both, DIRECTIONS, strict=True):
        bars(axes, cells, backends, direction)
    both[1].tick_params(left=False)
    first = cells.iloc[0]
    what = f"{first['mask']}, S={seq_len}, {shape_of(first)}"
    figure.suptitle(f"{what}\n{first['device']}, torch {first['torch']}", fontsize=9)
    return figure
