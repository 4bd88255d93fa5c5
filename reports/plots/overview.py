"""All masks in one picture: the speed-up over the sequence length, and the times as a table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from reports.plots import grid
from reports.plots.labels import (
    HOST_BOUND_MARK,
    NOT_IN_RUN,
    PHASE_ABBREVIATIONS,
    milliseconds,
    title_with_setup,
    untimed_reason,
)
from reports.plots.lengths import longest_with_flex
from reports.plots.limits import MAX_BACKENDS, MAX_PANELS, MAX_ROWS, first, spread_out
from reports.plots.style import (
    BLUE,
    ORANGE,
    VERMILLION,
    BackendStyle,
    backend_styles,
    sorted_backends,
)
from reports.runs import DIRECTIONS

RATIO_COLORS = LinearSegmentedColormap.from_list("ratio", [ORANGE, "#FFFFFF", BLUE])
MAX_LOG2_RATIO = 3  # the colors saturate at a ratio of 8


def draw_speed_up(cells: pd.DataFrame, direction: str) -> Figure | None:
    """A panel for each mask: the time of each backend over FlexAttention's.

    Returns None if there is no time of FlexAttention, or none of another backend.
    """
    timed = cells[cells["is_timed"] & (cells["direction"] == direction)]
    wide = timed.pivot_table(index=["mask", "seq_len"], columns="backend", values="median_s")
    if "flex" not in wide or len(wide.columns) < 2:
        return None
    ratios = wide.div(wide["flex"], axis=0).drop(columns="flex").dropna(how="all")
    with_ratio = set(ratios.index.get_level_values("mask"))
    found = [mask for mask in cells["mask"].unique() if mask in with_ratio]
    if not found:
        return None
    masks, note = first(found, MAX_PANELS, "masks")
    columns = min(4, len(masks))
    rows = -(-len(masks) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(2.9 * columns, 2.2 * rows + 0.7),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    styles = backend_styles(cells["backend"])
    lines: dict[str, Line2D] = {}
    for axes, mask in zip(panels.flat, masks, strict=False):
        lines |= _draw_ratios(axes, ratios.loc[mask], styles)
        axes.set_title(mask, fontsize=8)
    for axes in panels.flat[len(masks) :]:
        axes.set_visible(False)
    names = sorted_backends(lines)
    figure.legend(
        [lines[name] for name in names], names, loc="outside lower center", ncols=6, fontsize=8
    )
    title = f"Speed-up of FlexAttention, {direction}: backend's time / FlexAttention's{note}"
    figure.suptitle(title_with_setup(cells, title), fontsize=10)
    return figure


def _draw_ratios(
    axes: Axes, ratios: pd.DataFrame, styles: dict[str, BackendStyle]
) -> dict[str, Line2D]:
    """Draw one mask and return the line of each backend.

    `ratios` has a row for each length and a column for each backend.
    """
    lines = {}
    for backend in sorted_backends(ratios.columns)[:MAX_BACKENDS]:
        ratio = ratios[backend].dropna()
        if ratio.empty:
            continue
        # `sdpa` runs the kernel of another backend. A dashed line on top shows both.
        is_sdpa = backend == "sdpa"
        [lines[backend]] = axes.plot(
            ratio.index,
            ratio,
            markersize=4,
            color=styles[backend].color,
            marker=styles[backend].marker,
            linestyle="--" if is_sdpa else "-",
            zorder=3 if is_sdpa else 2,
        )
    axes.axhline(1, color=VERMILLION, linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}×")
    axes.set_xticks(spread_out(sorted(ratios.index)), minor=False)
    axes.minorticks_off()
    axes.tick_params(labelsize=7)
    axes.set_xlabel("sequence length", fontsize=7)
    return lines


def _cell_text(cell: pd.DataFrame) -> tuple[str, float]:
    """The text of a table cell, and the forward time over FlexAttention's (or NaN)."""
    by_direction = cell.set_index("direction")
    lines, reasons = [], {}
    for direction in DIRECTIONS:
        if direction not in by_direction.index:
            continue
        row = by_direction.loc[direction]
        if row["is_timed"]:
            ratio = f" ({row['ratio']:.2f}×)" if row["ratio"] > 0 else ""  # NaN without flex
            mark = f" {HOST_BOUND_MARK}" if row["host_bound"] else ""
            time = milliseconds(row["median_s"])
            lines.append(f"{PHASE_ABBREVIATIONS[direction]} {time}{ratio}{mark}")
        else:
            reasons[direction] = untimed_reason(row, width=30, max_lines=4)
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        lines.append(reasons["forward"])
    else:
        lines += [f"{PHASE_ABBREVIATIONS[d]} {reason}" for d, reason in reasons.items()]
    return "\n".join(lines), float(by_direction["ratio"].get("forward", np.nan))


def draw_table(cells: pd.DataFrame) -> Figure:
    """Each mask at the longest sequence with FlexAttention: times, or why there is none."""
    drawn, note = first(list(cells["mask"].unique()), MAX_ROWS, "masks")
    cells = cells[cells["mask"].isin(drawn)]
    cells = pd.concat(
        part[part["seq_len"] == longest_with_flex(part)]
        for _, part in cells.groupby("mask", sort=False)
    )
    flex = cells[cells["backend"] == "flex"].set_index(["mask", "direction"])["median_s"]
    key = pd.MultiIndex.from_frame(cells[["mask", "direction"]])
    cells = cells.assign(ratio=cells["median_s"] / flex.reindex(key).to_numpy())
    masks, backends = list(cells["mask"].unique()), sorted_backends(cells["backend"])
    norm = TwoSlopeNorm(0, -MAX_LOG2_RATIO, MAX_LOG2_RATIO)
    groups = dict(list(cells.groupby(["mask", "backend"])))

    def cell(y: int, x: int) -> tuple[str, ColorType]:
        rows = groups.get((masks[y], backends[x]))
        if rows is None:
            return NOT_IN_RUN, grid.NO_TIME_COLOR
        text, ratio = _cell_text(rows)
        if not np.isfinite(ratio):
            return text, grid.NO_TIME_COLOR
        log2_ratio = float(np.clip(np.log2(ratio), -MAX_LOG2_RATIO, MAX_LOG2_RATIO))
        red, green, blue, _ = RATIO_COLORS(float(norm(log2_ratio)))
        return text, (red, green, blue, 0.6)

    lengths = cells.groupby("mask")["seq_len"].max()
    labels = [f"{mask}\nS={lengths[mask]}" for mask in masks]
    title = (
        "Time and, in brackets, × FlexAttention "
        f"(blue: FlexAttention faster, forward; {HOST_BOUND_MARK} host-bound){note}"
    )
    return grid.draw(labels, backends, cell, title_with_setup(cells, title))
