"""How exact the timing is: against CUPTI, between processes, and within the rounds of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from maskbench.records import UnreadableRun
from maskbench.timing.statistics import TARGET_CI, relative_median_ci
from reports.markdown import markdown_table, percent
from reports.runs import DIRECTIONS, cell_label, host_late

TOLERANCE, TOLERANCE_S = 0.01, 1e-6  # times agree within 1 % or 1 us
SHORT_S = 50e-6  # medians of shorter cells agree within TOLERANCE_S, of longer ones TOLERANCE
LONG_CALL_S = 0.01
MIN_ROUNDS_FOR_CI = 6  # fewer rounds have no 95 % confidence interval of the median

SUBTRACTED = (
    "Two values are subtracted from our times: what a pair of events measures around nothing, and"
    " what it measures around the smallest kernel beyond CUPTI's time of that kernel."
)


def fidelity(cells: pd.DataFrame) -> str | None:
    """Our device times and CUPTI's kernel times of the same calls.

    Raises
    ------
    UnreadableRun
        If CUPTI timed other calls than the events did, as in older runs.
    """
    found = cells[cells["direction"].str.startswith("fidelity_")]
    if found.empty:
        return None
    counted = found.get("watched_cycles", pd.Series(index=found.index, dtype=float)).notna()
    if not counted.all():
        older = ", ".join(sorted(set(found["run"][~counted])))
        why = "its calls were not those that CUPTI timed: run tests/test_measure.py again"
        raise UnreadableRun(f"{older}: {why}")
    apart = found["events_s"] - found["cupti_s"]
    bound = np.maximum(TOLERANCE_S, TOLERANCE * found["cupti_s"])
    inside = apart.abs() <= bound
    longer = found["watched_cycles"] / found["cycles"].astype(float) - 1
    slowed = longer * found["cupti_s"] > bound
    table = pd.DataFrame(
        {
            "mask": found["mask"],
            "S": found["seq_len"],
            "backend": found["backend"],
            "direction": found["direction"].str.removeprefix("fidelity_"),
            "ours, us": (found["events_s"] * 1e6).map("{:.1f}".format),
            "CUPTI, us": (found["cupti_s"] * 1e6).map("{:.1f}".format),
            "difference, us": (apart * 1e6).map("{:+.2f}".format),
            "difference, %": (100 * apart / found["cupti_s"]).map("{:+.2f}".format),
            "within": inside.map({True: "yes", False: "no"}),
            "longer under CUPTI, % of cycles": (100 * longer).map("{:+.2f}".format),
        }
    )
    below, throttled = (apart < 0).sum(), found["throttle"].map(bool).sum()
    text = (
        f"Target: within 1 us or 1 %, 24 cells or more. Reached: {inside.sum()} of {len(found)}."
        f" {below} of our times are below CUPTI's; {throttled} cells were throttled, for example by"
        f" the GPU's power cap. Both times are of the same calls; {slowed.sum()} take longer than"
        " calls without the profiler by more than that bound, in cycles between our events (last"
        " column)."
    )
    return f"{text} {SUBTRACTED}\n\n{markdown_table(table)}"


def wide_table(cells: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """A column as [cells, runs] for the cells that all runs have; its range and median per cell."""
    wide = cells.pivot_table(index="fullname", columns="run", values=column).dropna()
    return wide, wide.max(axis=1) - wide.min(axis=1), wide.median(axis=1)


def repeats(spread: pd.Series, middle: pd.Series) -> pd.Series:
    """Whether the runs of each cell agree. `spread` and `middle` are in seconds."""
    return spread <= np.where(middle < SHORT_S, TOLERANCE_S, TOLERANCE * middle)


def repeatability(runs: list[pd.DataFrame]) -> str | None:
    """The spread of each cell's median over runs of the same cells on one GPU."""
    cells = pd.concat(runs)
    cells = cells[cells["direction"].isin(DIRECTIONS)]
    medians, spread, middle = wide_table(cells, "median_s")
    if medians.shape[1] < 2 or medians.empty:
        return None
    held, share = repeats(spread, middle), (spread / middle)[middle >= SHORT_S]
    rows = [
        ["cells, runs", "60 or more, 5", f"{medians.shape[0]}, {medians.shape[1]}"],
        ["cells with a range within 1 % (below 50 us: 1 us)", "95 %", percent(held)],
        ["range of cells of 50 us and more, median", "", f"{100 * share.median():.2f} %"],
        ["the same, 95th percentile", "", f"{100 * share.quantile(0.95):.2f} %"],
    ]
    if "call_clock_mhz" in cells and cells["call_clock_mhz"].notna().all():
        rows += clock_correlation(cells)
    text = markdown_table(pd.DataFrame(rows, columns=["what", "target", "reached"]))
    if held.all():
        return text
    worst = spread[~held].div(middle).sort_values(ascending=False).head(12)
    table = medians.loc[worst.index].mul(1e6).map("{:.1f}".format)
    table.columns = [Path(name).stem for name in table.columns]
    table.insert(0, "cell", [cell_label(name) for name in table.index])
    table["direction"] = cells.groupby("fullname")["direction"].first()
    table["range"] = worst.map("{:.1%}".format)
    return f"{text}\n\nThe cells with the widest ranges, in us by run:\n\n{markdown_table(table)}"


def clock_correlation(cells: pd.DataFrame) -> list[list[str]]:
    """How the medians of a cell follow the SM clock, and how well its cycles repeat.

    A correlation of -1 means that the clock alone explains the spread of the times.
    """
    mhz = cells["call_clock_mhz"].astype(float)
    logs = np.log(cells[["median_s"]].assign(mhz=mhz))
    own = logs - logs.groupby(cells["fullname"]).transform("mean")
    _, clock_range, clock = wide_table(cells, "call_clock_mhz")
    counted = "cycles" in cells and cells["cycles"].notna().all()
    cycles = cells["cycles"].astype(float) if counted else cells["median_s"] * mhz * 1e6
    at_one_clock = cells.assign(at_one_clock=cycles / mhz.mean() / 1e6)
    _, spread, middle = wide_table(at_one_clock, "at_one_clock")
    held = repeats(spread, middle)
    widest = (spread / middle)[~held].sort_values(ascending=False).head(5)
    outside = [f"{str(name).partition('::')[2]} {share:.1%}" for name, share in widest.items()]
    unit = "in cycles" if counted else "time x clock"
    typical = 100 * float((clock_range / clock).median())
    return [
        ["range of the SM clock during a cell's calls, median", "", f"{typical:.2f} %"],
        ["correlation of that clock and time", "", f"{own.corr().iloc[0, 1]:+.2f}"],
        [f"cells with a range within 1 % (below 50 us: 1 us), {unit}", "", percent(held)],
        [f"the widest ranges of the others, {unit}", "", ", ".join(outside) or "none"],
    ]


def reaches_target(seconds: Sequence[float]) -> bool:
    """Whether these rounds give a median as exact as the suite wants."""
    return len(seconds) >= MIN_ROUNDS_FOR_CI and relative_median_ci(list(seconds)) <= TARGET_CI


def rounds(cells: pd.DataFrame) -> str | None:
    """Whether the cells had enough rounds, and whether fewer rounds were enough."""
    found = cells[cells["direction"].isin(DIRECTIONS)]
    saved = found[found["data"].map(lambda data: isinstance(data, list))]
    if saved.empty:
        return None
    short = found["median_s"] <= LONG_CALL_S
    throttled_long = percent(found["throttle"][~short].map(bool)) if (~short).any() else "none"
    kinds = {
        "all": found,
        "calls up to 10 ms": found[short],
        f"longer calls, {throttled_long} throttled": found[~short],
    }
    rows = []
    for kind, some in kinds.items():
        if len(some):
            held = percent(some["interval"] <= TARGET_CI)
            rows.append([kind, held, f"{some['rounds'].median():g}"])
    counted = found.dropna(subset="cycles_interval") if "cycles_interval" in found else found[:0]
    if len(counted):  # a CPU has no cycle counter
        held = percent(counted["cycles_interval"] <= TARGET_CI)
        rows.append(["all, in cycles", held, f"{counted['rounds'].median():g}"])
    for part in (2, 4):
        fewer = [data[: max(MIN_ROUNDS_FOR_CI, len(data) // part)] for data in saved["data"]]
        held = percent([reaches_target(data) for data in fewer])
        rows.append([f"the first 1/{part}", held, f"{np.median([len(data) for data in fewer]):g}"])
    columns = ["rounds", "cells within 0.5 %", "median rounds"]
    table = markdown_table(pd.DataFrame(rows, columns=columns))
    modes, late = found["two_modes"].astype(bool), host_late(found)
    flags = (
        f"Flags: two modes {percent(modes, 1)}, host late {percent(late, 1)}, throttled"
        f" {percent(found['throttle'].map(bool), 1)}, host-bound {percent(found['host_bound'])}."
    )
    return f"Target: 0.5 % for 90 % of the cells. {len(found)} cells.\n\n{table}\n\n{flags}"
