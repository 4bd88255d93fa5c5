"""After how many calls FlexAttention has saved what its compilation and its block mask cost."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskbench.backends.registry import BACKENDS
from reports.plots.labels import title_with_setup
from reports.plots.limits import MAX_ROWS, first, spread_out
from reports.plots.style import BLUE, ORANGE, WIDTH
from reports.runs import DIRECTIONS

PHASES = {"inference": ("forward",), "training": DIRECTIONS}  # what one call runs
COLORS = {"inference": BLUE, "training": ORANGE}
# The last part of the ids of formulations that need an S x S tensor, such as "unpadded:dense_bias".
DENSE_FORMULATIONS = ("dense", "dense_bias")


def break_even(cells: pd.DataFrame) -> pd.DataFrame:
    """The number of calls after which FlexAttention has saved its one-time cost.

    The rival is the fastest backend that needs neither compilation nor a dense mask. The cost is
    a cold compilation, plus one block mask if that was timed (its milliseconds are about a
    thousandth of the compilation).

    Parameters
    ----------
    cells
        The table of `reports.runs.load`, with cells of `-m compile` in it.

    Returns
    -------
    DataFrame
        One row for each mask, length and `work`, which is "inference" (forward) or "training"
        (forward and backward). `cost_s` is in seconds. `rival` is empty if there is none.
        `calls` is inf if FlexAttention is not faster than its rival, and NaN without a rival.
    """
    timed = cells[cells["is_timed"]]
    is_compile = timed["direction"].str.startswith("compile_")
    cold = timed[is_compile & (timed["form"] == "cold cache")]
    compile_s = cold.set_index(["mask", "seq_len", "direction"])["median_s"]
    from_bounds = timed[(timed["direction"] == "block_mask") & (timed["backend"] == "ours")]
    block_mask_s = from_bounds.set_index(["mask", "seq_len"])["median_s"]
    needs_no_setup = _needs_no_setup(timed)
    rows = []
    for (mask, seq_len, direction), seconds in compile_s.items():
        work = "inference" if direction == "compile_forward" else "training"
        here = timed[(timed["mask"] == mask) & (timed["seq_len"] == seq_len)]
        call_s = _seconds_per_call(here, PHASES[work])
        if "flex" not in call_s:
            continue
        cost_s = seconds + block_mask_s.get((mask, seq_len), 0.0)
        rival, calls = "", np.nan
        rivals_s = _seconds_per_call(here[needs_no_setup[here.index]], PHASES[work])
        if len(rivals_s):
            rival = str(rivals_s.idxmin())
            saved_s = rivals_s[rival] - call_s["flex"]
            calls = cost_s / saved_s if saved_s > 0 else np.inf
        rows.append((mask, seq_len, work, cost_s, rival, calls))
    columns = ["mask", "seq_len", "work", "cost_s", "rival", "calls"]
    table: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return table


def _needs_no_setup(cells: pd.DataFrame) -> pd.Series:
    """Whether each cell needs neither a compilation nor a dense mask."""
    compiling = [name for name, spec in BACKENDS.items() if spec.compiles]
    last_part = cells["formulation"].map(lambda name: str(name).rpartition(":")[2])
    needs_any: pd.Series = cells["backend"].isin(compiling) | last_part.isin(DENSE_FORMULATIONS)
    return ~needs_any


def _seconds_per_call(cells: pd.DataFrame, directions: Iterable[str]) -> pd.Series:
    """The time of all directions together, for each backend that was timed in all of them."""
    wide: pd.DataFrame = cells.pivot_table(index="backend", columns="direction", values="median_s")
    seconds: pd.Series = wide.reindex(columns=list(directions)).dropna().sum(axis=1)
    return seconds


def draw(cells: pd.DataFrame) -> Figure | None:
    """A bar for each mask, for inference and for training. None if no compilation was timed."""
    rows = break_even(cells)
    if rows.empty:
        return None
    masks, note = first(list(rows["mask"].unique()), MAX_ROWS, "masks")
    rows = rows[rows["mask"].isin(masks)]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.4 + 0.42 * len(masks)), layout="constrained")
    finite = rows["calls"][np.isfinite(rows["calls"])]
    low = 10 ** np.floor(np.log10(finite.min())) if len(finite) else 1.0
    high = 10 ** np.ceil(np.log10(finite.max())) if len(finite) else 10.0
    for work, shift in (("inference", -0.2), ("training", 0.2)):
        for _, row in rows[rows["work"] == work].iterrows():
            _draw_bar(axes, row, masks.index(row["mask"]) + shift, low)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.12g}")  # the default is a formula
    axes.set_xlim(low, high * (high / low) ** 0.6)
    axes.set_yticks(range(len(masks)), masks)
    axes.invert_yaxis()
    has_block_masks = ((cells["direction"] == "block_mask") & cells["is_timed"]).any()
    cost = (
        "a cold compilation and one block mask are" if has_block_masks else "a cold compilation is"
    )
    axes.set_xlabel(f"calls until {cost} paid for")
    bars, names = axes.get_legend_handles_labels()
    legend = dict(zip(names, bars, strict=True))  # one entry for each kind of work
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=2)
    lengths = ", ".join(f"S={n}" for n in spread_out(sorted(rows["seq_len"].unique())))
    title = f"What FlexAttention costs before its first call, {lengths}{note}"
    axes.set_title(title_with_setup(cells, title))
    return figure


def _draw_bar(axes: Axes, row: pd.Series, y: float, low: float) -> None:
    """Draw a row of `break_even`. `low` is the left end of the axis."""
    calls, work = row["calls"], row["work"]
    length = calls if np.isfinite(calls) else low
    axes.barh(y, length, height=0.36, color=COLORS[work], label=work)
    if np.isinf(calls):
        text = f"never: {row['rival']} is faster and needs neither"
    elif np.isnan(calls):
        text = f"{row['cost_s']:.1f} s; no backend needs neither"
    else:
        text = f"{calls:,.0f} calls ({row['cost_s']:.1f} s, against {row['rival']})"
    axes.annotate(text, (length, y), xytext=(3, 0), textcoords="offset points", va="center")
