"""Tables that prove the numbers: targets beside what the saved runs reached, as Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

from reports import power_analysis
from reports.comparability import Run, load_run
from reports.runs import (
    DIRECTIONS,
    UnreadableRun,
    host_late,
    markdown,
    percent,
    read,
    rows_of,
)

TARGET = 0.005  # half-width of the interval of a median, of the median
SHORT = 50e-6  # s: cells below are judged in us, not in percent
LONG = 65536
PROCESSES = 5  # whose medians are to agree


def cells_of(path: Path) -> pd.DataFrame:
    """The timed cells of one run, with their rounds where they were saved."""
    try:
        return timed_of(read(path), path)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableRun(f"{path}: is not as this suite saves runs ({error!r})") from error


def timed_of(run: dict, path: Path) -> pd.DataFrame:
    data = {b["fullname"]: b["stats"].get("data") for b in run["benchmarks"]}
    cells = pd.DataFrame([row for row in rows_of(run, path) if row["outcome"] == "timed"])
    return cells.assign(data=cells["fullname"].map(data), run=str(path)) if len(cells) else cells


def fidelity(cells: pd.DataFrame) -> str | None:
    """Our device time against CUPTI's kernel time."""
    found = cells[cells["direction"].str.startswith("fidelity_")]
    if found.empty:
        return None
    counted = found.get("watched_cycles", pd.Series(index=found.index, dtype=float)).notna()
    if not counted.all():
        older = ", ".join(sorted(set(found["run"][~counted])))
        why = "its calls were not those that CUPTI timed: run tests/test_measure.py again"
        raise UnreadableRun(f"{older}: {why}")
    apart, most = found["events_s"] - found["cupti_s"], np.maximum(1e-6, 0.01 * found["cupti_s"])
    inside = apart.abs() <= most
    longer = found["watched_cycles"] / found["cycles"].astype(float) - 1
    slowed = longer * found["cupti_s"] > most
    table = pd.DataFrame(
        {
            "mask": found["mask"],
            "S": found["seq_len"],
            "backend": found["backend"],
            "direction": found["direction"].str.removeprefix("fidelity_"),
            "ours, us": (found["events_s"] * 1e6).map("{:.1f}".format),
            "CUPTI, us": (found["cupti_s"] * 1e6).map("{:.1f}".format),
            "apart, us": (apart * 1e6).map("{:+.2f}".format),
            "apart, %": (100 * apart / found["cupti_s"]).map("{:+.2f}".format),
            "within": inside.map({True: "yes", False: "no"}),
            "longer under CUPTI, % of cycles": (100 * longer).map("{:+.2f}".format),
        }
    )
    said = f"Target: within 1 us or 1 %, 24 cells or more. Reached: {inside.sum()} of {len(found)}."
    below, capped = (apart < 0).sum(), found["throttle"].map(bool).sum()
    said += (
        f" {below} read less than CUPTI; {capped} met a limit of the card, such as its power cap."
    )
    said += f" Both are of the same calls; {slowed.sum()} take longer than unwatched ones by more"
    said += " than that bound, by the cycles between our events (last column)."
    return f"{said} {TAKEN_OFF}\n\n{markdown(table)}"


TAKEN_OFF = (
    "What a pair of events reads around nothing is taken off, and so is what it reads around the"
    " smallest kernel beyond CUPTI's time of it."
)


def wide_of(cells: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """[cells, runs] of what all runs have, highest less lowest of each cell, and its median."""
    wide = cells.pivot_table(index="fullname", columns="run", values=column).dropna()
    return wide, wide.max(axis=1) - wide.min(axis=1), wide.median(axis=1)


def repeats(spread: pd.Series, middle: pd.Series) -> pd.Series:
    """Of each cell whether its runs agree, in s."""
    return spread <= np.where(middle < SHORT, 1e-6, 0.01 * middle)


def repeatability(runs: list[pd.DataFrame]) -> str | None:
    """The spread of each cell's median over runs of the same cells on one card."""
    cells = pd.concat(runs)
    cells = cells[cells["direction"].isin(DIRECTIONS)]
    medians, spread, middle = wide_of(cells, "median_s")
    if medians.shape[1] < 2 or medians.empty:
        return None
    held, share = repeats(spread, middle), (spread / middle)[middle >= SHORT]
    rows = [
        ["cells, runs", "60 or more, 5", f"{medians.shape[0]}, {medians.shape[1]}"],
        ["cells within 1 % (below 50 us: 1 us), highest less lowest", "95 %", percent(held)],
        ["spread of cells of 50 us and more, median", "", f"{100 * share.median():.2f} %"],
        ["the same, 95 of 100 cells", "", f"{100 * share.quantile(0.95):.2f} %"],
    ]
    if "call_clock_mhz" in cells and cells["call_clock_mhz"].notna().all():
        rows += clocked(cells)
    said = markdown(pd.DataFrame(rows, columns=["what", "target", "reached"]))
    if held.all():
        return said
    worst = spread[~held].div(middle).sort_values(ascending=False).head(12)
    table = medians.loc[worst.index].mul(1e6).map("{:.1f}".format)
    table.columns = [Path(name).stem for name in table.columns]
    table.insert(0, "cell", [name.rpartition("[")[2].rstrip("]") for name in table.index])
    table["direction"] = cells.groupby("fullname")["direction"].first()
    table["spread"] = worst.map("{:.1%}".format)
    return f"{said}\n\nThe widest of those outside, medians in us by run:\n\n{markdown(table)}"


def clocked(cells: pd.DataFrame) -> list[list[str]]:
    """How the medians of a cell go with the SM clock during its calls; -1 is by it alone."""
    mhz = cells["call_clock_mhz"].astype(float)
    logs = np.log(cells[["median_s"]].assign(mhz=mhz))
    own = logs - logs.groupby(cells["fullname"]).transform("mean")
    _, moved, clock = wide_of(cells, "call_clock_mhz")
    counted = "cycles" in cells and cells["cycles"].notna().all()
    cycles = cells["cycles"].astype(float) if counted else cells["median_s"] * mhz * 1e6
    at_one_clock = cells.assign(at_one_clock=cycles / mhz.mean() / 1e6)
    _, spread, middle = wide_of(at_one_clock, "at_one_clock")
    held = repeats(spread, middle)
    widest = (spread / middle)[~held].sort_values(ascending=False).head(5)
    outside = [f"{name.partition('::')[2]} {share:.1%}" for name, share in widest.items()]
    how = "in cycles" if counted else "time x clock"
    moved = 100 * (moved / clock).median()
    return [
        ["SM clock during a cell's calls, highest less lowest, median", "", f"{moved:.2f} %"],
        ["correlation of that clock and time", "", f"{own.corr().iloc[0, 1]:+.2f}"],
        [f"cells within 1 % (below 50 us: 1 us), {how}", "", percent(held)],
        [f"the widest of those outside, {how}", "", ", ".join(outside) or "none"],
    ]


def half_width(seconds: list[float]) -> float:
    """Half the 95 % confidence interval of the median, relative to it; inf where there is none."""
    middle = float(np.median(seconds))
    low, high = quantile_test(seconds, q=middle).confidence_interval(0.95)
    width = (high - low) / 2 / middle
    return float(width) if np.isfinite(width) else np.inf


def rounds(cells: pd.DataFrame) -> str | None:
    """Whether the rounds sufficed, and whether fewer would have."""
    found = cells[cells["direction"].isin(DIRECTIONS)]
    saved = found[found["data"].map(lambda data: isinstance(data, list))]
    if saved.empty:
        return None
    short = found["median_s"] <= TEN_MS
    limited = percent(found["throttle"][~short].map(bool)) if (~short).any() else "none"
    kinds = {
        "all": found,
        "of calls up to 10 ms": found[short],
        f"of longer ones, {limited} of them throttled": found[~short],
    }
    rows = []
    for what, some in kinds.items():
        if len(some):
            held = percent(some["interval"] <= TARGET)
            rows.append([what, held, f"{some['rounds'].median():g}"])
    counted = found.dropna(subset="cycles_interval") if "cycles_interval" in found else found[:0]
    if len(counted):  # on a CPU none is
        held = percent(counted["cycles_interval"] <= TARGET)
        rows.append(["all, in cycles", held, f"{counted['rounds'].median():g}"])
    for part in (2, 4):
        fewer = saved["data"].map(lambda data, part=part: data[: max(6, len(data) // part)])
        held = fewer.map(half_width) <= TARGET
        rows.append([f"the first 1/{part}", percent(held), f"{fewer.map(len).median():g}"])
    table = markdown(pd.DataFrame(rows, columns=["rounds", "cells within 0.5 %", "median rounds"]))
    modes = found["two_modes"].fillna(False).astype(bool) if "two_modes" in found else False
    late, throttled = host_late(found), found["throttle"].map(bool)
    flags = f"Flagged: two modes {percent(modes, 1)}, host late {percent(late, 1)}, "
    flags += f"throttled {percent(throttled, 1)}, host-bound {percent(found['host_bound'])}."
    return f"Target: 0.5 % for 90 % of the cells. {len(found)} cells.\n\n{table}\n\n{flags}"


TEN_MS = 0.01  # s


def speed(paths: list[Path]) -> str | None:
    """Where each run's time went."""
    rows = []
    for path in paths:
        about, cells = read(path)["maskbench"], cells_of(path)
        if "seconds" not in about or cells.empty:
            continue
        seconds = about["seconds"]
        row = {"run": path.stem, "timed": len(cells), "jobs": about["jobs"]}
        row |= {f"{what}, s": f"{seconds.get(what, 0):.0f}" for what in SPENT}
        rows.append(row | {"cells a minute": f"{60 * len(cells) / seconds['total']:.0f}"})
    target = "Target, the default grid on 16 cores: 600 s cold, 300 s warm, 60 cells a minute warm."
    return f"{target}\n\n{markdown(pd.DataFrame(rows))}" if rows else None


SPENT = ("warm up", "compile ahead", "compile", "check", "time", "other", "total")


def long_sequences(cells: pd.DataFrame) -> str | None:
    """Times at lengths where nothing may hold S x S."""
    found = cells[cells["seq_len"] >= LONG]
    if found.empty:
        return None
    memory = found["peak_memory_bytes"].astype(float).div(2**20).map("{:.1f}".format)
    table = pd.DataFrame(
        {
            "mask": found["mask"],
            "S": found["seq_len"],
            "what": found["direction"],
            "by": found["backend"],
            "ms": found["median_s"].mul(1e3).map("{:.3f}".format),
            "MiB": memory,
            "checked": found["checked"],
        }
    ).sort_values(["what", "by", "S"], kind="stable")
    ours = found[(found["direction"] == "block_mask") & (found["backend"] == "ours")]
    said = "Target: all masks forward and backward; `block_mask` at 131072 below 2 ms and 40 MiB."
    if len(ours):
        slowest, largest = ours["median_s"].max() * 1e3, ours["peak_memory_bytes"].max() / 2**20
        said += f" `block_mask`: at most {slowest:.2f} ms and {largest:.1f} MiB."
    return f"{said}\n\n{markdown(table)}"


def spellings(cells: pd.DataFrame) -> str | None:
    """One mask written in several ways."""
    found = cells[cells["direction"].str.startswith("spelling_")]
    if found.empty:
        return None
    wide = found.pivot_table(
        index=["mask", "backend"], columns="direction", values="median_s", sort=False
    )
    table = wide.mul(1e3).map("{:.3f}".format).reset_index()
    table = table.rename(columns=lambda name: name.replace("spelling_", "ms, "))
    return markdown(table.rename(columns={"backend": "spelling"}))


def alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that timed the same cells by the same timer; each group oldest first."""
    groups: dict[tuple, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.saved):
        key = frozenset(run.timed.index), *sorted(set(run.timed["timer"]))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def of_one_card(runs: list[Run]) -> list[pd.DataFrame]:
    """The cells of the first PROCESSES of those runs, of the card that made most of them."""
    cards = [run.card for run in runs]
    most = max(cards, key=cards.count)
    return [cells_of(run.path) for run in runs if run.card == most][:PROCESSES]


def text(paths: list[Path]) -> str:
    """The whole document."""
    timed = [path for path in paths if read(path)["benchmarks"]]
    slow = [path for path in timed if "slower" in read(path)["maskbench"]]
    usual = [path for path in timed if path not in slow]
    if not usual:
        raise UnreadableRun(f"{', '.join(map(str, paths))}: nothing was timed in them")
    cells = pd.concat([cells_of(path) for path in usual], ignore_index=True)
    groups = alike([load_run(path) for path in usual])
    most = max(groups, key=len)
    repeated = max(groups, key=lambda runs: (min(len(runs), PROCESSES), runs[-1].saved))
    widest = max(groups, key=lambda runs: len(runs[0].timed))
    sections = {
        "Fidelity: device time against CUPTI's": fidelity(cells),
        "Repeatability: fresh processes": repeatability(of_one_card(repeated)),
        "Rounds": rounds(cells[cells["run"].isin([str(run.path) for run in widest])]),
        "Where the time of a run goes": speed(usual),
        "The gate": power_analysis.text(most, [load_run(path) for path in slow]),
        "Long sequences": long_sequences(cells),
        "How a mask is written": spellings(cells),
    }
    devices = sorted(set(cells["device"] + ", torch " + cells["torch"]))
    found = [f"## {title}\n\n{body}" for title, body in sections.items() if body]
    missing = [title for title, body in sections.items() if not body]
    command = f"python -m reports validation {' '.join(map(str, paths))} -o reports"
    head = f"# Validation\n\n    {command}\n\n{'; '.join(devices)}."
    if missing:
        head += f" Not in these runs: {'; '.join(missing)}."
    return "\n\n".join([head, *found]) + "\n"
