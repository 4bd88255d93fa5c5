"""Joins each cell of a run with its own history.

x is the natural logarithm of a cell's median.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from reports.comparability import CellRow, Run, cell_difference, log_median, standard_error
from reports.steps import detect_steps
from reports.thresholds import MIN_CHANGE_S, MIN_RELATIVE_CHANGE, STEP
from reports.verdict import Status

MIN_RUNS, MAX_RUNS = 5, 20  # comparable runs that a cell is judged by
MAX_PENDING = 6  # unconfirmed runs at the end of a history: two nights of three runs
DATE_LENGTH = 10  # of an ISO date and time


@dataclass
class Past:
    """Runs of one cell, oldest first: x, its standard error, whether it has two modes, the date."""

    x: list[float] = field(default_factory=list)
    se: list[float] = field(default_factory=list)
    two_modes: list[bool] = field(default_factory=list)
    date: list[str] = field(default_factory=list)

    def part(self, start: int, end: int | None = None) -> Past:
        """The runs from `start` to `end`, as in a slice."""
        here = slice(start, end)
        return Past(self.x[here], self.se[here], self.two_modes[here], self.date[here])


def baseline(name: str, row: CellRow, history: list[Run]) -> tuple[Past, str | None]:
    """The history of one cell since its last accepted step.

    Parameters
    ----------
    name, row
        The cell in the run to be judged.
    history
        Earlier runs, oldest first.

    Returns
    -------
    The comparable runs, and why earlier runs do not count, or None if the cell was not timed
    before.
    """
    past, difference = Past(), None
    for run in history:
        before = run.rows.get(name)
        if before is None:
            continue
        if found := cell_difference(before, row):
            past, difference = Past(), found  # runs before this one are of another cell, too
            continue
        past.x.append(log_median(before))
        past.se.append(standard_error(before))
        past.two_modes.append(before["two_modes"])
        past.date.append(run.saved[:DATE_LENGTH])
    start = max(accepted_start(past), len(past.x) - (MAX_RUNS + MAX_PENDING))
    return past.part(start), difference


def accepted_start(past: Past) -> int:
    """The start of the last level that has runs of two dates or more; 0 if there is no step."""
    for start in reversed(detect_steps(np.array(past.x), STEP)):
        if len(set(past.date[start:])) > 1:
            return start
    return 0


def smallest_change(base: float) -> float:
    """The smallest change of x that counts, for a baseline x of `base`."""
    return float(np.log1p(max(MIN_RELATIVE_CHANGE, MIN_CHANGE_S / np.exp(base))))


def pending_runs(xs: np.ndarray) -> int:
    """The number of runs at the end that differ from all earlier ones in the same direction.

    They wait for confirmation. The number is negative if they are faster.
    """
    for count in range(min(MAX_PENDING, len(xs) - MIN_RUNS), 0, -1):
        before, after = xs[:-count], xs[-count:]
        middle = float(np.median(before))
        smallest = smallest_change(middle)
        if after.min() > max(before.max(), middle + smallest):
            return count
        if after.max() < min(before.min(), middle - smallest):
            return -count
    return 0


def join_baseline(new: Run, history: list[Run], use_fastest_round: bool = False) -> pd.DataFrame:
    """Each timed cell of a run with a summary of its history.

    Parameters
    ----------
    new
        The run to be judged.
    history
        Earlier runs, oldest first.
    use_fastest_round
        Whether the fastest round represents a bimodal cell, instead of making it noisy.

    Returns
    -------
    A row per cell: `n` runs in the baseline with mean `base`, `low`, `high`, variance `between`
    runs and `within` them; `waiting` runs at the end. Cells that cannot be judged have a status.
    """
    rows = [_joined(name, row, history, use_fastest_round) for name, row in new.rows.items()]
    cells: pd.DataFrame = pd.DataFrame(rows).set_index("fullname")
    for column in ("base", "low", "high", "between", "within"):
        cells[column] = cells.get(column, np.nan)
    return cells


def _joined(
    name: str, row: CellRow, history: list[Run], use_fastest_round: bool
) -> dict[str, object]:
    past, difference = baseline(name, row, history)
    waiting = pending_runs(np.array(past.x))
    end = len(past.x) - abs(waiting)
    used = past.part(max(0, end - MAX_RUNS), end)
    time = row["min_s"] if row["two_modes"] and use_fastest_round else row["median_s"]
    found = {"fullname": name, "n": len(used.x), "waiting": waiting, "reason": ""}
    found |= {"median_s": time, "x": np.log(time)}
    if not used.x:
        status = Status.NEW if difference is None else Status.NOT_COMPARABLE
        return {**found, "status": status, "reason": difference or "was not timed before"}
    xs = np.array(used.x)
    found |= {"base": xs.mean(), "low": xs.min(), "high": xs.max()}
    found |= {"between": xs.var(ddof=1) if len(xs) > 1 else np.nan}
    within = float(np.mean(np.square(used.se)))
    found |= {"within": max(within, standard_error(row) ** 2)}
    bimodal = row["two_modes"] and not use_fastest_round
    if len(xs) < MIN_RUNS:
        reason = f"{len(xs)} comparable, {MIN_RUNS} needed"
        return {**found, "status": Status.TOO_FEW_RUNS, "reason": reason}
    if bimodal or np.mean(used.two_modes) > 0.5:
        return {**found, "status": Status.NOISY, "reason": "two modes"}
    return {**found, "status": None}
