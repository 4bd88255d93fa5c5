"""How exact the timing is: against CUPTI, between processes, and within the rounds of a cell."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from maskbench.records import UnreadableRun
from maskbench.timing.statistics import TARGET_CI, relative_median_ci
from reports.markdown import percent
from reports.report import Label, Part, Report
from reports.runs import DIRECTIONS, cell_label, host_late

TOLERANCE, TOLERANCE_S = 0.01, 1e-6  # times agree within 1 % or 1 us
SHORT_S = 50e-6  # TOLERANCE_S applies to shorter medians, TOLERANCE to the others
LONG_CALL_S = 0.01
MIN_ROUNDS_FOR_CI = 6  # fewer rounds have no 95 % confidence interval of the median

SUBTRACTED = (
    "Two values are subtracted from our times: what a pair of events measures around nothing, and"
    " what it measures around the smallest kernel beyond CUPTI's time of that kernel."
)


def fidelity(cells: pd.DataFrame) -> Report | None:
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
    columns = ["mask", "seq_len", "backend", "events_s", "cupti_s", "cycles", "watched_cycles"]
    data = found[columns].assign(direction=table["direction"], is_within=inside)
    return Report([f"{text} {SUBTRACTED}", table], {"fidelity": data})


def wide_table(cells: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """A column as [cells, runs] for the cells that all runs have; its range and median per cell."""
    wide = cells.pivot_table(index="fullname", columns="run", values=column).dropna()
    return wide, wide.max(axis=1) - wide.min(axis=1), wide.median(axis=1)


def runs_agree(spread: pd.Series, median_s: pd.Series) -> pd.Series:
    """Whether the runs of each cell agree. `spread` and `median_s` are in seconds."""
    return spread <= np.where(median_s < SHORT_S, TOLERANCE_S, TOLERANCE * median_s)


def repeatability(runs: list[pd.DataFrame]) -> Report | None:
    """The spread of each cell's median over runs of the same cells on one GPU."""
    cells = pd.concat(runs)
    cells = cells[cells["direction"].isin(DIRECTIONS)]
    by_run, spread, median_s = wide_table(cells, "median_s")
    if by_run.shape[1] < 2 or by_run.empty:
        return None
    within_target, share = runs_agree(spread, median_s), (spread / median_s)[median_s >= SHORT_S]
    rows = [
        ["cells, runs", "60 or more, 5", f"{by_run.shape[0]}, {by_run.shape[1]}"],
        ["cells with a range within 1 % (below 50 us: 1 us)", "95 %", percent(within_target)],
        ["range of cells of 50 us and more, median", "", f"{100 * share.median():.2f} %"],
        ["the same, 95th percentile", "", f"{100 * share.quantile(0.95):.2f} %"],
    ]
    if "call_clock_mhz" in cells and cells["call_clock_mhz"].notna().all():
        rows += clock_correlation(cells)
    directions = cells.groupby("fullname")["direction"].first()
    columns = {"direction": directions.reindex(by_run.index), "runs": by_run.shape[1]}
    columns |= {"median_s": median_s, "range_s": spread, "is_within": within_target}
    data = {"repeatability": pd.DataFrame(columns, by_run.index).reset_index()}
    parts: list[Part] = [pd.DataFrame(rows, columns=["what", "target", "reached"])]
    if within_target.all():
        return Report(parts, data)
    worst = spread[~within_target].div(median_s).sort_values(ascending=False).head(12)
    table = by_run.loc[worst.index].mul(1e6).map("{:.1f}".format)
    table.columns = [Path(name).stem for name in table.columns]
    table.insert(0, "cell", [cell_label(name) for name in table.index])
    table["direction"] = directions
    table["range"] = worst.map("{:.1%}".format)
    label = Label("The cells with the widest ranges, in us by run:")
    return Report([*parts, label, table], data)


def clock_correlation(cells: pd.DataFrame) -> list[list[str]]:
    """How the medians of a cell follow the SM clock, and how well its cycles repeat.

    A correlation of -1 means that the clock alone explains the spread of the times.
    """
    mhz = cells["call_clock_mhz"].astype(float)
    logs = np.log(cells[["median_s"]].assign(mhz=mhz))
    deviations = logs - logs.groupby(cells["fullname"]).transform("mean")
    _, clock_range, clock = wide_table(cells, "call_clock_mhz")
    counted = "cycles" in cells and cells["cycles"].notna().all()
    cycles = cells["cycles"].astype(float) if counted else cells["median_s"] * mhz * 1e6
    at_one_clock = cells.assign(at_one_clock=cycles / mhz.mean() / 1e6)
    _, spread, median_s = wide_table(at_one_clock, "at_one_clock")
    within_target = runs_agree(spread, median_s)
    widest = (spread / median_s)[~within_target].sort_values(ascending=False).head(5)
    outside = [f"{str(name).partition('::')[2]} {share:.1%}" for name, share in widest.items()]
    unit = "in cycles" if counted else "time x clock"
    typical = 100 * float((clock_range / clock).median())
    return [
        ["range of the SM clock during a cell's calls, median", "", f"{typical:.2f} %"],
        ["correlation of that clock and time", "", f"{deviations.corr().iloc[0, 1]:+.2f}"],
        [f"cells with a range within 1 % (below 50 us: 1 us), {unit}", "", percent(within_target)],
        [f"the widest ranges of the others, {unit}", "", ", ".join(outside) or "none"],
    ]


def reaches_target(seconds: Sequence[float]) -> bool:
    """Whether the confidence interval of these rounds' median is within TARGET_CI."""
    return len(seconds) >= MIN_ROUNDS_FOR_CI and relative_median_ci(list(seconds)) <= TARGET_CI


def rounds(cells: pd.DataFrame) -> Report | None:
    """Whether the cells had enough rounds, and whether fewer rounds were enough."""
    found = cells[cells["direction"].isin(DIRECTIONS)]
    saved = found[found["data"].map(lambda data: isinstance(data, array))]
    if saved.empty:
        return None
    short = found["median_s"] <= LONG_CALL_S
    throttled_long = percent(found["throttle"][~short].map(bool)) if (~short).any() else "none"
    kinds = {
        "all": found,
        "calls up to 10 ms": found[short],
        f"longer calls, {throttled_long} throttled": found[~short],
    }
    rows = [
        (kind, group["interval"] <= TARGET_CI, group["rounds"])
        for kind, group in kinds.items()
        if len(group)
    ]
    counted = found.dropna(subset="cycles_interval") if "cycles_interval" in found else found[:0]
    if len(counted):  # a CPU has no cycle counter
        rows.append(("all, in cycles", counted["cycles_interval"] <= TARGET_CI, counted["rounds"]))
    for part in (2, 4):
        fewer = [data[: max(MIN_ROUNDS_FOR_CI, len(data) // part)] for data in saved["data"]]
        within_target = pd.Series([reaches_target(data) for data in fewer])
        rows.append((f"the first 1/{part}", within_target, pd.Series(map(len, fewer))))
    kinds_of, within, counts = zip(*rows, strict=True)
    table = pd.DataFrame(
        {
            "rounds": kinds_of,
            "cells within 0.5 %": [percent(flags) for flags in within],
            "median rounds": [f"{number.median():g}" for number in counts],
        }
    )
    data = pd.DataFrame(
        {
            "rounds": kinds_of,
            "share_within_target": [flags.mean() for flags in within],
            "median_rounds": [number.median() for number in counts],
        }
    )
    modes, late = found["two_modes"].astype(bool), host_late(found)
    flags = (
        f"Flags: two modes {percent(modes, 1)}, host late {percent(late, 1)}, throttled"
        f" {percent(found['throttle'].map(bool), 1)}, host-bound {percent(found['host_bound'])}."
    )
    target = f"Target: 0.5 % for 90 % of the cells. {len(found)} cells."
    return Report([target, table, flags], {"rounds": data})
