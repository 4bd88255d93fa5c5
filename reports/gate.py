"""Whether a run is slower than earlier runs: a status per cell and a verdict for the run.

Each cell's x, the logarithm of its median, is compared with those of the comparable runs since
the last accepted step, by a one-sided t test. The variance is pooled within runs, between runs
and over all cells (the moderated t statistic of Smyth 2004, https://doi.org/10.2202/1544-6115.1027).
Benjamini and Hochberg's procedure bounds the false discovery rate over all cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, t

from maskbench.records import Outcome, UnreadableRun
from reports.baseline import MAX_RUNS, MIN_RUNS, join_baseline, smallest_change
from reports.comparability import Run, fingerprint, machine_differences, segment_differences
from reports.thresholds import NOISE_FLOOR
from reports.verdict import CELL_COLUMNS, Conclusion, Status, Verdict

MAX_NOISE = 0.03  # a cell with more noise cannot be judged
PRIOR_DEGREES = 4  # degrees of freedom of the median variance over all cells
FALSE_DISCOVERY_RATE = 0.05
FAILURES = [outcome.value for outcome in Outcome if outcome.is_failure]
HISTORY_WINDOW = 60  # runs at the end of a history that are used


def judge_cells(new: Run, history: list[Run]) -> pd.DataFrame:
    """A row per timed cell of `new`, with its status, change, p and the detectable change."""
    return apply_t_test(join_baseline(new, history))


def judge_confirmation(confirm: Run, history: list[Run]) -> pd.DataFrame:
    """As `judge_cells`, for the run that is to confirm another.

    A bimodal cell is judged by its fastest round. If even that round is slow, the slowdown is
    confirmed. A fast round confirms nothing.
    """
    cells = apply_t_test(join_baseline(confirm, history, use_fastest_round=True))
    bimodal = confirm.timed["two_modes"].reindex(cells.index).astype(bool)
    cells.loc[bimodal & (cells["status"] == Status.FAST), "status"] = Status.NOISY
    return cells


def apply_t_test(cells: pd.DataFrame) -> pd.DataFrame:
    """Test all cells of `join_baseline` that have no status yet.

    Returns
    -------
    The cells with a status each, and the columns `noise`, `change`, `p_slow`, `p_fast` and
    `detectable`, the smallest relative slowdown that would be found.
    """
    cells = cells.copy()
    untested = cells["status"].isna()
    enough = cells["n"] >= MIN_RUNS
    typical = cells.loc[enough, "between"].median()
    own_degrees = cells["n"] - 1
    pooled = (PRIOR_DEGREES * typical + own_degrees * cells["between"]) / (
        PRIOR_DEGREES + own_degrees
    )
    cells["noise"] = np.sqrt(np.maximum(np.maximum(pooled, cells["within"]), NOISE_FLOOR**2))
    noisy = enough & untested & (cells["noise"] > MAX_NOISE)
    cells.loc[noisy, ["status", "reason"]] = [Status.NOISY, f"noise over {MAX_NOISE:.0%}"]
    error = cells["noise"] * np.sqrt(1 + 1 / cells["n"].clip(lower=1))
    shift = cells["x"] - cells["base"]
    cells["change"] = np.expm1(shift)
    tested = untested & ~noisy
    degrees, count = own_degrees + PRIOR_DEGREES, max(1, int(tested.sum()))
    smallest = cells["base"].map(smallest_change)
    for status, sign, extreme in ((Status.SLOW, 1, "high"), (Status.FAST, -1, "low")):
        p = pd.Series(t.sf(sign * shift / error, degrees), cells.index)
        beyond = sign * cells["x"] > sign * cells[extreme]
        adjusted = false_discovery_control(p[tested]) if tested.any() else []
        adjusted_p = pd.Series(adjusted, cells.index[tested]).reindex(cells.index)
        significant = adjusted_p <= FALSE_DISCOVERY_RATE
        cells.loc[tested & significant & beyond & (sign * shift >= smallest), "status"] = status
        cells[f"p_{status.lower()}"] = p.where(tested)
    needed = t.isf(FALSE_DISCOVERY_RATE / count, degrees) * error
    worst = (cells["high"] - cells["base"]).clip(lower=0)
    cells["detectable"] = np.expm1(np.maximum(np.maximum(needed, worst), smallest))
    cells.loc[cells["status"].isna(), "status"] = Status.SAME
    return cells


def judge_run(new: Run, runs: list[Run], confirm: Run | None, strict: bool) -> Verdict:
    """The verdict on one run, given earlier runs.

    A slow cell is a regression if a second run confirms it: `confirm`, or without it the pending
    runs at the end of the history, which then are the night before.

    Parameters
    ----------
    new
        The run to be judged.
    runs
        All known runs, oldest first. Those saved after `new` are left out.
    confirm
        The same cells, run again.
    strict
        Whether the exit status is 3 if no cell can be judged.

    Raises
    ------
    UnreadableRun
        If `confirm` cannot confirm `new`.
    """
    notes = []
    history = [run for run in runs if run.saved < new.saved]
    if len(history) < len(runs):
        notes.append(f"{len(runs) - len(history)} runs saved after {new.path} are left out")
    same_machine = [run for run in history if not machine_differences(run, new)]
    other_machine = [run for run in history if machine_differences(run, new)]
    if other_machine:
        what = "; ".join(machine_differences(other_machine[-1], new))
        notes.append(f"{len(other_machine)} runs of another machine are left out ({what})")
    segment = [run for run in same_machine if not segment_differences(run, new)]
    if len(segment) < len(same_machine):
        older = next(run for run in reversed(same_machine) if segment_differences(run, new))
        what = "; ".join(segment_differences(older, new))
        notes.append(
            f"{len(same_machine) - len(segment)} runs before a new segment are left out ({what})"
        )
    segment = segment[-HISTORY_WINDOW:]
    cells = judge_cells(new, segment)
    mark_incomparable(cells, new, [run for run in history if run not in segment][-HISTORY_WINDOW:])
    if confirm:
        require_comparable(confirm, new)
        apply_confirmation(cells, judge_confirmation(confirm, segment)["status"])
    else:
        apply_pending_runs(cells)
    missing = missing_cells(new, same_machine[-MAX_RUNS:])
    cells = pd.concat([cells, missing]) if len(missing) else cells
    descriptions = pd.concat([run.cells[CELL_COLUMNS] for run in (*same_machine[-MAX_RUNS:], new)])
    cells = cells.join(descriptions[~descriptions.index.duplicated(keep="last")])
    cells = cells.assign(base_s=np.exp(cells["base"]), new_s=cells["median_s"])
    word, code = suite_verdict(
        cells, is_other_machine=bool(other_machine) and not same_machine, strict=strict
    )
    return Verdict(cells.drop(columns="median_s"), word, code, notes)


def mark_incomparable(cells: pd.DataFrame, new: Run, left_out: list[Run]) -> None:
    """Change the status of cells that look new, but were timed in runs that were left out."""
    for run in left_out:
        here = (cells["status"] == Status.NEW) & cells.index.isin(run.timed.index)
        machine, segment = machine_differences(run, new), segment_differences(run, new)
        status = Status.NOT_COMPARABLE if machine else Status.TOO_FEW_RUNS
        cells.loc[here, ["status", "reason"]] = [status, "; ".join(machine + segment)]


def require_comparable(confirm: Run, new: Run) -> None:
    """Raises UnreadableRun if `confirm` cannot confirm `new`."""
    different = machine_differences(confirm, new) + segment_differences(confirm, new)
    if different:
        raise UnreadableRun(f"--confirm {confirm.path}: is not like {new.path}: {different[0]}")
    if fingerprint(confirm) == fingerprint(new):
        raise UnreadableRun(f"--confirm {confirm.path}: is {new.path} itself, not a second run")


CONFIRMED = ((Status.SLOW, Status.REGRESSION), (Status.FAST, Status.IMPROVEMENT))


def apply_confirmation(cells: pd.DataFrame, statuses: pd.Series) -> None:
    """Confirm slow and fast cells by their statuses in a second run."""
    again = statuses.reindex(cells.index)
    unjudged = (Status.NOISY, Status.TOO_FEW_RUNS, Status.NOT_COMPARABLE, Status.NEW)
    is_open = again.isna() | again.isin(unjudged)
    for unconfirmed, confirmed_status in CONFIRMED:
        found = cells["status"] == unconfirmed
        cells.loc[found & (again == unconfirmed), "status"] = confirmed_status
        cells.loc[found & is_open, "reason"] = "not judged in the confirming run"
        not_repeated = found & ~is_open & (again != unconfirmed)
        cells.loc[not_repeated, "reason"] = "did not repeat in the confirming run"


def apply_pending_runs(cells: pd.DataFrame) -> None:
    """Confirm slow and fast cells by the pending runs at the end of their histories."""
    for (unconfirmed, confirmed_status), sign in zip(CONFIRMED, (1, -1), strict=True):
        confirmed = (cells["status"] == unconfirmed) & (sign * cells["waiting"] > 0)
        cells.loc[confirmed, "status"] = confirmed_status


def missing_cells(new: Run, history: list[Run]) -> pd.DataFrame:
    """Cells that were timed before but not in `new`, and cells that fail in `new`."""
    before = {name: row for run in history for name, row in run.rows.items()}
    failing = new.cells.index[new.cells["outcome"].isin(FAILURES)]
    rows = []
    for name in dict.fromkeys([*before, *failing]):
        if name in new.rows:
            continue
        row = {"fullname": name, "n": 0, "status": Status.VANISHED, "reason": "was timed before"}
        row["base"] = np.log(before[name]["median_s"]) if name in before else np.nan
        if name in new.cells.index:
            row |= untimed_status(new.cells.loc[name])
        rows.append(row)
    columns = ["fullname", "base", "n", "status", "reason"]
    cells: pd.DataFrame = pd.DataFrame(rows, columns=columns).set_index("fullname")
    return cells


def untimed_status(cell: pd.Series) -> dict[str, object]:
    """The status and reason of a cell that the new run has, but did not time."""
    is_failed = Outcome(cell["outcome"]).is_failure
    status = Status.FAILING if is_failed else Status.NO_LONGER_TIMED
    return {"status": status, "reason": f"{cell['outcome']}: {cell['reason']}"}


def suite_verdict(
    cells: pd.DataFrame, is_other_machine: bool, strict: bool
) -> tuple[Conclusion, int]:
    """The conclusion on the whole run, and the exit status."""
    statuses = set(cells["status"])
    if Status.REGRESSION in statuses:
        return Conclusion.REGRESSION, 1
    if statuses & {Status.SAME, Status.SLOW, Status.FAST, Status.IMPROVEMENT}:
        return Conclusion.NO_REGRESSION, 0
    inconclusive = 3 if strict else 0
    if Status.NOISY in statuses:
        return Conclusion.TOO_NOISY, inconclusive
    if Status.NOT_COMPARABLE in statuses or is_other_machine:
        return Conclusion.NOT_COMPARABLE, inconclusive
    return Conclusion.NOT_ENOUGH_HISTORY, inconclusive
