"""After how many calls FlexAttention has paid for its compilation and its block mask."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.plots.overview import title
from reports.plots.style import BLUE, ORANGE
from reports.runs import DIRECTIONS

COMPILED = ("flex", "flex_flash", "flash_attn_4")  # at their first call
WORK = {"inference": ("forward",), "training": DIRECTIONS}  # what one call does


def payback(table: pd.DataFrame) -> pd.DataFrame:
    """One row a mask and kind of work: `calls` until FlexAttention has paid, or why never.

    Against the fastest backend that neither compiles nor takes a mask that has to be built. The
    cost is a cold compilation, and one block mask where that was timed (its ms are a thousandth
    of the compilation); training is forward and backward. `calls` is inf where FlexAttention is
    not the faster one, and NaN where there is none to compare with.
    """
    timed = table[table["is_timed"]]
    cold = timed[timed["direction"].str.startswith("compile_") & (timed["form"] == "cold cache")]
    cold = cold.set_index(["mask", "seq_len", "direction"])["median_s"]
    ours = timed[(timed["direction"] == "block_mask") & (timed["backend"] == "ours")]
    built = ours.set_index(["mask", "seq_len"])["median_s"]
    plain = ~timed["backend"].isin(COMPILED) & ~timed["form"].str.contains("bias", na=False)
    rows = []
    for (mask, seq_len, direction), seconds in cold.items():
        work = "inference" if direction == "compile_forward" else "training"
        here = timed[(timed["mask"] == mask) & (timed["seq_len"] == seq_len)]
        sums = sum_of(here, WORK[work])
        rivals = sum_of(here[plain[here.index]], WORK[work])
        if "flex" not in sums:
            continue
        row = {"mask": mask, "seq_len": seq_len, "work": work, "calls": np.nan, "rival": ""}
        row["cost_s"] = seconds + built.get((mask, seq_len), 0.0)
        if len(rivals):
            won = rivals.min() - sums["flex"]
            row["calls"] = row["cost_s"] / won if won > 0 else np.inf
            row["rival"] = rivals.idxmin()
        rows.append(row)
    return pd.DataFrame(rows)


def sum_of(cells: pd.DataFrame, directions) -> pd.Series:
    """Seconds of each backend that was timed in all directions."""
    wide = cells.pivot_table(index="backend", columns="direction", values="median_s")
    wide = wide.reindex(columns=list(directions))
    return wide.dropna().sum(axis=1)


def draw(table: pd.DataFrame) -> Figure | None:
    """A bar a mask, for inference and training; None where no compilation was timed."""
    found = payback(table)
    if found.empty:
        return None
    masks = list(found["mask"].unique())
    figure, axes = plt.subplots(figsize=(9.6, 1.4 + 0.42 * len(masks)), layout="constrained")
    finite = found["calls"][np.isfinite(found["calls"])]
    least = 10 ** np.floor(np.log10(finite.min())) if len(finite) else 1.0
    most = 10 ** np.ceil(np.log10(finite.max())) if len(finite) else 10.0
    for shift, (work, colour) in ((-0.2, ("inference", BLUE)), (0.2, ("training", ORANGE))):
        for _, row in found[found["work"] == work].iterrows():
            place, calls = masks.index(row["mask"]) + shift, row["calls"]
            long = calls if np.isfinite(calls) else least
            axes.barh(place, long, height=0.36, color=colour, label=work)
            text = f"{calls:,.0f} calls ({row['cost_s']:.1f} s, against {row['rival']})"
            if np.isinf(calls):
                text = f"never: {row['rival']} is faster and needs neither"
            elif np.isnan(calls):
                text = f"{row['cost_s']:.1f} s; no backend needs neither"
            axes.annotate(
                *(text, (long, place)),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.set_xscale("log")
    axes.set_xlim(least, most * (most / least) ** 0.6)
    axes.set_yticks(range(len(masks)), masks)
    axes.invert_yaxis()
    masks_timed = ((table["direction"] == "block_mask") & table["is_timed"]).any()
    cost = "a cold compilation and one block mask are" if masks_timed else "a cold compilation is"
    axes.set_xlabel(f"calls until {cost} paid for")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=7, frameon=False, loc="lower right")
    seq_len = ", ".join(f"S={n}" for n in sorted(found["seq_len"].unique()))
    axes.set_title(
        title(table, f"What FlexAttention costs before its first call, {seq_len}"), fontsize=9
    )
    return figure
