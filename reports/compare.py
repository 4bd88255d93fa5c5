"""Compares two runs. Without a history, a change is at most suspect: one run is weak evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maskbench.records import Outcome, UnreadableRun
from reports.comparability import (
    CellRow,
    Run,
    cell_difference,
    machine_differences,
    segment_differences,
    standard_error,
)
from reports.thresholds import MIN_CHANGE_S, MIN_RELATIVE_CHANGE, NOISE_FLOOR, NORMAL_95
from reports.verdict import Conclusion, Status, Verdict, cell_columns

MIN_CLOCK_CHANGE = 0.01  # relative change of the SM clock that can explain a slowdown
NOISE_MULTIPLE = 3.0  # a change must exceed this many standard deviations to be more than suspect
NUMBERS = ("base_s", "new_s", "change", "half", "noise")


def noise_between_runs(history: list[Run]) -> pd.Series:
    """The standard deviation of log(median) of each cell between runs of one torch version.

    With several torch versions, it is the largest of theirs.
    """
    found = []
    for torch in {run.torch for run in history}:
        runs = [run.timed["median_s"] for run in history if run.torch == torch]
        if len(runs) > 1:
            found.append(np.log(pd.concat(runs, axis=1)).std(axis=1, ddof=1))
    if not found:
        return pd.Series(dtype=float)
    noise: pd.Series = pd.concat(found, axis=1).max(axis=1).clip(lower=NOISE_FLOOR)
    return noise


def change_numbers(before: CellRow, after: CellRow, noise: float) -> dict[str, float]:
    """The medians, and the relative changes of time, clock and cycles from `before` to `after`.

    `half` is the half-width of the change's 95 % confidence interval within the two runs.
    """
    change = after["median_s"] / before["median_s"] - 1
    clock_change = after["clock_mhz"] / before["clock_mhz"] - 1
    return {
        "base_s": before["median_s"],
        "change": change,
        "half": float(NORMAL_95 * np.hypot(standard_error(before), standard_error(after))),
        "clock_change": clock_change,
        "change_in_cycles": (1 + change) * (1 + clock_change) - 1,
        "noise": noise,
    }


def classify_change(numbers: dict[str, float], new_s: float) -> Status:
    """The strongest status that two runs and the noise support."""
    change, noise = numbers["change"], numbers["noise"]
    if abs(change) < MIN_RELATIVE_CHANGE or abs(new_s - numbers["base_s"]) < MIN_CHANGE_S:
        return Status.SAME
    same_cycles = numbers["change_in_cycles"] < MIN_RELATIVE_CHANGE
    if change > 0 and same_cycles and abs(numbers["clock_change"]) >= MIN_CLOCK_CHANGE:
        return Status.AMBIGUOUS  # the GPU's clock was slower, not the code
    # The difference of two runs has the noise of both, hence sqrt(2).
    certain = np.isfinite(noise) and abs(np.log1p(change)) > NOISE_MULTIPLE * np.sqrt(2) * noise
    if change > 0:
        return Status.SLOWER if certain else Status.SUSPECT_SLOWER
    return Status.FASTER if certain else Status.SUSPECT_FASTER


def compare_runs(base: Run, new: Run, history: list[Run]) -> Verdict:
    """The change of each cell from `base` to `new`.

    Parameters
    ----------
    base, new
        The runs to compare.
    history
        More runs, which show the noise between runs. Those of other machines are left out.

    Raises
    ------
    UnreadableRun
        If the runs have no comparable cell in common.
    """
    different = machine_differences(base, new)
    notes = [f"NOT COMPARABLE: {what}" for what in different]
    notes += [f"differs: {what}" for what in segment_differences(base, new)]
    noise = noise_between_runs([run for run in history if not machine_differences(run, new)])
    rows = []
    for name, after in new.rows.items():
        before = base.rows.get(name)
        found = {"fullname": name, **cell_columns(after), "new_s": after["median_s"]}
        cell_noise = float(noise.get(name, np.nan))
        rows.append({**found, **_compared(before, after, cell_noise, "; ".join(different))})
    rows += [
        _missing(name, before, new) for name, before in base.rows.items() if name not in new.rows
    ]
    cells = pd.DataFrame(rows).set_index("fullname")
    cells = cells.reindex(columns=list(dict.fromkeys([*cells.columns, *NUMBERS])))
    if not different and cells["change"].isna().all():
        raise UnreadableRun(f"{base.path} and {new.path}: have no comparable cell in common")
    counts = cells["status"].value_counts()
    counted = ", ".join(f"{n} {status}" for status, n in counts.items())
    return Verdict(cells, Conclusion.NOT_COMPARABLE if different else counted, 0, notes)


def _compared(
    before: CellRow | None, after: CellRow, noise: float, different: str
) -> dict[str, object]:
    if before is None:
        return {"reason": "", "status": Status.NEW}
    reason = different or cell_difference(before, after)
    if reason:
        return {"reason": reason, "status": Status.NOT_COMPARABLE}
    numbers = change_numbers(before, after, noise)
    return {"reason": "", **numbers, "status": classify_change(numbers, after["median_s"])}


def _missing(name: str, before: CellRow, new: Run) -> dict[str, object]:
    """The row of a cell that the new run did not time."""
    row = {"fullname": name, **cell_columns(before), "base_s": before["median_s"]}
    if name not in new.cells.index:
        return {**row, "status": Status.VANISHED, "reason": "not in the new run"}
    cell = new.cells.loc[name]
    is_failed = Outcome(cell["outcome"]).is_failure
    status = Status.FAILING if is_failed else Status.VANISHED
    return {**row, "status": status, "reason": f"{cell['outcome']}: {cell['reason']}"}
