"""All masks in one picture: speed-up over sequence length, and the mask x backend table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.style import BLUE, ORANGE, VERMILLION, looks, milliseconds, ordered, why_not
from reports.plots.timing import longest_with_flex
from reports.runs import DIRECTIONS, shape_of

SHORT = {"forward": "fwd", "backward": "bwd"}
HOST = "†"  # beside a time whose user waits for the host
RATIO = LinearSegmentedColormap.from_list("ratio", [ORANGE, "#FFFFFF", BLUE])


def title(cells: pd.DataFrame, what: str) -> str:
    first = cells.iloc[0]
    return f"{what}\n{shape_of(first)}, {first['device']}, torch {first['torch']}"


def speed_up(cells: pd.DataFrame, direction: str) -> Figure | None:
    """A panel a mask, a line a backend: its time over FlexAttention's. None without any."""
    timed = cells[cells["is_timed"] & (cells["direction"] == direction)]
    wide = timed.pivot_table(index=["mask", "seq_len"], columns="backend", values="median_s")
    if "flex" not in wide or len(wide.columns) < 2:
        return None
    ratio = wide.div(wide["flex"], axis=0).drop(columns="flex").dropna(how="all")
    masks = [m for m in cells["mask"].unique() if m in ratio.index.get_level_values("mask")]
    columns = min(4, len(masks))
    rows = -(-len(masks) // columns)
    figure, grid = plt.subplots(
        *(rows, columns),
        figsize=(2.9 * columns, 2.2 * rows + 0.7),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    look, handles = looks(cells["backend"]), {}
    for axes, mask in zip(grid.flat, masks, strict=False):
        here = ratio.loc[mask]
        for backend in ordered(ratio.columns):
            line = here[backend].dropna()
            if len(line):  # sdpa runs one of the others: broken, so that both are seen
                dashes = {"linestyle": "--", "zorder": 3} if backend == "sdpa" else {}
                drawn = axes.plot(line.index, line, markersize=4, **look[backend], **dashes)
                handles[backend] = drawn[0]
        axes.axhline(1, color=VERMILLION, linewidth=1, linestyle="--")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}×")
        axes.set_xticks(sorted(here.index), minor=False)
        axes.minorticks_off()
        axes.set_title(mask, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("sequence length", fontsize=7)
    for axes in grid.flat[len(masks) :]:
        axes.set_visible(False)
    names = ordered(handles)
    figure.legend(
        [handles[b] for b in names], names, loc="outside lower center", ncols=6, fontsize=8
    )
    what = f"Speed-up of FlexAttention, {direction}: backend's time / FlexAttention's"
    figure.suptitle(title(cells, what), fontsize=10)
    return figure


def cell_text(cell: pd.DataFrame) -> tuple[str, float]:
    """What a table cell says, and the backend's forward time over FlexAttention's (or NaN)."""
    by_direction = cell.set_index("direction")
    lines, reasons = [], {}
    for direction in DIRECTIONS:
        if direction not in by_direction.index:
            continue
        row = by_direction.loc[direction]
        if row["is_timed"]:
            times = f" ({row['ratio']:.2f}×)" if row["ratio"] > 0 else ""  # NaN without flex
            waits = f" {HOST}" if row["host_bound"] else ""
            lines.append(f"{SHORT[direction]} {milliseconds(row['median_s'])}{times}{waits}")
        else:
            reasons[direction] = why_not(row, 30, 4)
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        reasons = {"": reasons["forward"]}
    lines += [f"{SHORT.get(d, '')} {reason}".strip() for d, reason in reasons.items()]
    forward = by_direction["ratio"].get("forward", np.nan)
    return "\n".join(lines), float(forward)


def mask_by_backend(cells: pd.DataFrame) -> Figure:
    """Each mask at its longest sequence: times forward and backward, or the reason why not."""
    cells = pd.concat(
        part[part["seq_len"] == longest_with_flex(part)]
        for _, part in cells.groupby("mask", sort=False)
    )
    flex = cells[cells["backend"] == "flex"].set_index(["mask", "direction"])["median_s"]
    key = pd.MultiIndex.from_frame(cells[["mask", "direction"]])
    cells = cells.assign(ratio=cells["median_s"] / flex.reindex(key).to_numpy())
    masks, backends = list(cells["mask"].unique()), ordered(cells["backend"])
    norm = TwoSlopeNorm(0, -3, 3)  # log2 of the ratio: white is level, 8 times fills
    groups = dict(list(cells.groupby(["mask", "backend"])))

    def cell(y: int, x: int) -> tuple[str, object]:
        here = groups.get((masks[y], backends[x]))
        if here is None:
            return "not in this run", grid.NOTHING
        text, ratio = cell_text(here)
        if not np.isfinite(ratio):
            return text, grid.NOTHING
        return text, (*RATIO(norm(np.clip(np.log2(ratio), -3, 3)))[:3], 0.6)

    lengths = cells.groupby("mask")["seq_len"].max()
    rows = [f"{m}\nS={lengths[m]}" for m in masks]
    what = "Time and, in brackets, × FlexAttention (blue: FlexAttention faster, forward; "
    return grid.draw(rows, backends, cell, title(cells, f"{what}{HOST} host-bound)"))
