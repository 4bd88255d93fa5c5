"""All runs of one machine as trends: the level of each cell, where it changed, and its drift."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from maskbench.records import UnreadableRun
from reports.clock_exponent import clock_exponent
from reports.comparability import (
    CellRow,
    Run,
    cell_difference,
    machine_differences,
    software_differences,
)
from reports.nights import by_night
from reports.noise import noise_within_levels
from reports.plots.limits import MAX_PANELS
from reports.steps import detect_steps, drift
from reports.thresholds import EFFECT
from reports.verdict import Status, Verdict, cell_columns

MAX_DRAWN = 240  # cells; each takes about 60 ms


class Time(NamedTuple):
    """A cell's time in one run."""

    saved: str
    torch: str
    file: str
    median_s: float
    row: CellRow


def cell_series(runs: list[Run]) -> dict[str, list[Time]]:
    """For each cell its comparable times, oldest first."""
    found: dict[str, list[Time]] = {}
    for run in runs:
        for name, row in run.rows.items():
            past = found.setdefault(name, [])
            if past and cell_difference(past[-1].row, row):
                past.clear()  # the earlier times are of another cell
            past.append(Time(run.saved, run.torch, run.path.name, row["median_s"], row))
    return found


def runs_of_last_machine(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs of the last run's machine, with notes on the others and on changes of software."""
    last, notes = runs[-1], []
    same_machine = by_night([run for run in runs if not machine_differences(run, last)])
    if len(same_machine) < len(runs):
        other = next(run for run in runs if machine_differences(run, last))
        what = "; ".join(machine_differences(other, last))
        notes.append(
            f"{len(runs) - len(same_machine)} runs of another machine are left out ({what})"
        )
    for before, after in pairwise(same_machine):
        changed = [what for what in software_differences(before, after) if "torch" not in what]
        notes += [f"{after.path.name}: {what}" for what in changed]
    return same_machine, notes


def build_history(
    runs: list[Run], part_of_name: str | None = None
) -> tuple[Verdict, dict[str, list[Time]]]:
    """The steps of each cell, and the series of times of each cell.

    Raises
    ------
    UnreadableRun
        If no cell has `part_of_name` in its node id.
    """
    same_machine, notes = runs_of_last_machine(runs)
    series = cell_series(same_machine)
    if part_of_name is not None:
        series = {name: past for name, past in series.items() if part_of_name in name}
        if not series:
            raise UnreadableRun(f"the history has no cell with {part_of_name!r} in its name")
    cells = pd.DataFrame([trend(name, past) for name, past in series.items()])
    cells = cells.set_index("fullname")
    counts = cells["status"].value_counts()
    word = (
        f"{counts.get(Status.STEP, 0)} of {len(cells)} cells with a step of {EFFECT:.1%} or more,"
        f" {counts.get(Status.DRIFT, 0)} with drift, in {len(same_machine)} runs"
    )
    return Verdict(cells, word, 0, notes), series


def cells_to_draw(cells: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_DRAWN cells, MAX_PANELS of each mask and direction: those with steps first.

    Their order is that of `cells`.
    """
    place = cells["status"].map({Status.STEP: 0, Status.DRIFT: 1}).fillna(2)
    by_step = cells.loc[place.sort_values(kind="stable").index, ["mask", "direction"]]
    in_page = by_step.groupby(["mask", "direction"]).cumcount()
    chosen = by_step.index[in_page < MAX_PANELS][:MAX_DRAWN]
    drawn: pd.DataFrame = cells[cells.index.isin(chosen)]
    return drawn


def trend(name: str, past: list[Time]) -> dict[str, object]:
    """The row of one cell: its last median, noise, steps and drift.

    On a GPU they are those of the times without the clock, else of the seconds.
    """
    xs = np.log([time.median_s for time in past])
    clocks = np.log([time.row["clock_mhz"] for time in past])
    if np.isfinite(clocks).all():
        xs = xs + clock_exponent(xs, clocks)[0] * (clocks - clocks[-1])
    steps = detect_steps(xs)
    drifted = drift(xs, steps)
    edges = [0, *steps, len(past)]
    texts = [describe_step(past, xs, *edges[i : i + 3]) for i in range(len(steps))]
    if drifted:
        first, last = past[0], past[-1]
        files = f"{first.file} ({first.saved[:10]}) to {last.file} ({last.saved[:10]})"
        texts.append(f"{np.expm1(drifted):+.1%} of drift from {files}")
    return {
        "fullname": name,
        **cell_columns(past[-1].row),
        "runs": len(past),
        "median_s": past[-1].median_s,
        "change": float(np.expm1(xs[-3:].mean() - xs[:3].mean())),
        "noise": noise_within_levels(xs) if len(xs) > 2 else np.nan,
        "steps": steps,
        "level_s": np.exp(xs),
        "status": Status.STEP if steps else Status.DRIFT if drifted else Status.LEVEL,
        "reason": "; ".join(texts),
    }


def describe_step(past: list[Time], xs: np.ndarray, start: int, at: int, end: int) -> str:
    """The step at run `at` in words. Its two levels last from `start` and until `end`."""
    change = np.median(xs[at:end]) - np.median(xs[start:at])
    old, new = past[at - 1].torch, past[at].torch
    where = f"torch {old} to {new}" if old != new else f"torch {new}"
    return f"{np.expm1(change):+.1%} at {past[at].file}, {past[at].saved[:10]} ({where})"
