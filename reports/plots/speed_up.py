"""All masks in one picture: the time of each backend over FlexAttention's, by length."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.plots.labels import LINE_LENGTH, title_with_setup, wrapped
from reports.plots.limits import MAX_BACKENDS, MAX_PANELS, first, spread_out
from reports.plots.style import (
    VERMILLION,
    WIDTH,
    BackendStyle,
    backend_styles,
    sorted_backends,
)

COLUMNS = 3  # of panels


def draw(cells: pd.DataFrame, direction: str) -> Figure | None:
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
    columns = min(COLUMNS, len(masks))
    rows = -(-len(masks) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, 1.9 * rows + 1.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    styles = backend_styles(cells["backend"])
    lines: dict[str, Line2D] = {}
    for axes, mask in zip(panels.flat, masks, strict=False):
        lines |= _draw_ratios(axes, ratios.loc[mask], styles)
        axes.set_title("\n".join(wrapped(mask, LINE_LENGTH // COLUMNS - 5, 2)))
    for axes in panels.flat[len(masks) :]:
        axes.set_visible(False)
    names = sorted_backends(lines)
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=5)
    title = f"Speed-up of FlexAttention, {direction}: backend's time / FlexAttention's{note}"
    figure.suptitle(title_with_setup(cells, title))
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
    axes.set_xlabel("sequence length")
    return lines
