"""All masks in one picture: speed-up over sequence length, and the mask x backend table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from reports.style import BLUE, ORANGE, VERMILLION, looks, milliseconds, ordered, why_not
from reports.table import shape_of
from reports.timing_picture import DIRECTIONS, longest_with_flex

SHORT = {"forward": "fwd", "backward": "bwd"}
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
        [handles[b] for b in names], names, loc="outside lower center", ncols=7, fontsize=8
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
            lines.append(f"{SHORT[direction]} {milliseconds(row['median_s'])}{times}")
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
    figure, axes = plt.subplots(figsize=(1.65 * len(backends) + 1.6, 0.62 * len(masks) + 0.9))
    axes.set_xlim(0, len(backends))
    axes.set_ylim(len(masks), 0)
    norm = TwoSlopeNorm(0, -3, 3)  # log2 of the ratio: white is level, 8 times fills
    for (mask, backend), cell in cells.groupby(["mask", "backend"]):
        x, y = backends.index(backend), masks.index(mask)
        text, ratio = cell_text(cell)
        known = np.isfinite(ratio)
        colour = RATIO(norm(np.clip(np.log2(ratio), -3, 3))) if known else "#EEEEEE"
        colour = (*colour[:3], 0.6) if known else colour
        axes.add_patch(plt.Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", lw=2))
        size = 7 if text.count("\n") < 2 else 5.5
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=size)
    axes.set_xticks(np.arange(len(backends)) + 0.5, backends)
    lengths = cells.groupby("mask")["seq_len"].max()
    axes.set_yticks(np.arange(len(masks)) + 0.5, [f"{m}\nS={lengths[m]}" for m in masks])
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)
    what = "Time and, in brackets, × FlexAttention (blue: FlexAttention faster, forward)"
    axes.set_title(title(cells, what), fontsize=9, pad=24)
    return figure
