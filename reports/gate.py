"""Whether the runs of a night are slower than their baseline: a status per cell and a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.acceptances import Acceptance, latest_acceptance, unused_notes
from reports.baseline import CellHistory, cell_history
from reports.comparability import CellRow, Run, machine_differences, software_differences
from reports.levels import CODE, CODE_ON_ALL_CARDS, MIN_RUNS, SECONDS, compare_levels
from reports.lost_cells import lost_cells
from reports.nights import by_night, night_labels
from reports.runs import cell_label
from reports.thresholds import NORMAL_95
from reports.verdict import Conclusion, Status, Verdict, cell_columns

LOST = (Status.FAILING, Status.VANISHED, Status.NO_LONGER_TIMED, Status.ANOTHER_FORM)
NUMBERS = ("base_s", "change", "change_s", "half", "noise", "detectable")
JUDGED = (Status.SAME, Status.IMPROVEMENT, Status.SLOWER_CLOCK, Status.ACCEPTED)


def judge_night(
    night: list[Run], runs: Sequence[Run], acceptances: Sequence[Acceptance], strict: bool
) -> Verdict:
    """The verdict on the runs of a night, given earlier runs.

    Parameters
    ----------
    night
        The runs to be judged, oldest first, as from `reports.nights.as_night`.
    runs
        All known runs, oldest first, without those of the night. Runs saved after the night are
        left out.
    acceptances
        Changes that are accepted. Those of other devices do not count.
    strict
        Whether the exit status is 3 if no cell can be judged.
    """
    last = night[-1]
    history, notes = earlier_runs(last, runs)
    own = [one for one in acceptances if one.device == last.device and one.since <= last.saved]
    histories = histories_of(night, history, own)
    cells = cell_statuses(histories)
    lost = lost_cells(night, expected_cells(history, own))
    cells = pd.concat([cells, lost]) if len(lost) else cells
    names = set(cells.index) | {name for run in history for name in run.rows}
    notes += unused_notes(own, names)
    notes += detectable_notes(cells, len(night))
    notes += partly_timed_note(night)
    earlier = [run for run in runs if run.saved < last.saved]
    is_other_machine = bool(earlier) and not history
    conclusion, code = suite_verdict(cells, is_other_machine, strict)
    return Verdict(cells, conclusion, code, notes)


def earlier_runs(last: Run, runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs before `last` on a comparable machine in the order of their nights, and notes."""
    notes = []
    earlier = [run for run in runs if run.saved < last.saved]
    if later := len(runs) - len(earlier):
        notes.append(f"runs saved after {last.path} are left out: {later}")
    history = by_night([run for run in earlier if not machine_differences(run, last)])
    if others := [run for run in earlier if machine_differences(run, last)]:
        what = "; ".join(machine_differences(others[-1], last))
        notes.append(f"runs of another machine are left out: {len(others)} ({what})")
    if history:
        notes += [
            f"since the run before: {what}" for what in software_differences(history[-1], last)
        ]
    return history, notes


def histories_of(
    night: list[Run], history: list[Run], acceptances: Sequence[Acceptance]
) -> list[CellHistory]:
    """Each cell that the night timed, with its past."""
    labels = night_labels(history)
    names = dict.fromkeys(name for run in night for name in run.rows)
    return [
        cell_history(name, night, history, labels, latest_acceptance(name, acceptances))
        for name in names
    ]


def expected_cells(history: list[Run], acceptances: Sequence[Acceptance]) -> dict[str, CellRow]:
    """The newest row of each cell that was timed since its last acceptance."""
    latest: dict[str, Acceptance | None] = {}
    found = {}
    for run in history:
        for name, row in run.rows.items():
            if name not in latest:
                latest[name] = latest_acceptance(name, acceptances)
            acceptance = latest[name]
            if acceptance is None or acceptance.covers(run.saved):
                found[name] = row
    return found


def cell_statuses(histories: list[CellHistory]) -> pd.DataFrame:
    """A row per timed cell: its status and reason, its change, noise and detectable change.

    `change` is that of the time without the clock, and `change_s` that of the seconds.
    """
    cells: pd.DataFrame = pd.DataFrame([_described(one) for one in histories])
    cells = cells.set_index("fullname")
    code = compare_levels(histories, CODE)
    if code.empty:
        cells[["n", *NUMBERS]] = [0, *[np.nan] * len(NUMBERS)]
        return cells
    everywhere = compare_levels(histories, CODE_ON_ALL_CARDS)
    seconds = compare_levels(histories, SECONDS)
    cells = cells.join(code[["n", "nights", "noise", "detectable", "p_slow", "p_fast", "base_s"]])
    cells["n"] = cells["n"].fillna(0).astype(int)
    cells["change"] = np.expm1(code["shift"])
    cells["half"] = NORMAL_95 * code["error"]
    cells["change_s"] = np.expm1(seconds["shift"])
    _mark_untested(cells)
    slow = code["slow"] | everywhere["slow"]
    by_clock = seconds["slow"] & ~slow & code["on_gpu"]
    _mark(cells, slow, Status.REGRESSION)
    _mark(cells, by_clock, Status.SLOWER_CLOCK)
    _mark(cells, code["fast"], Status.IMPROVEMENT)
    _explain(cells, everywhere["slow"] & ~code["slow"], everywhere["shift"])
    cells.loc[cells["status"].isna(), "status"] = Status.SAME
    return cells


def _mark_untested(cells: pd.DataFrame) -> None:
    """Give a status to the cells whose baseline is too short."""
    untested = cells["status"].isna() & cells["change"].isna()
    cells.loc[untested, "status"] = Status.TOO_FEW_RUNS
    cells.loc[untested, "reason"] = [
        f"comparable runs: {n}, needed: {MIN_RUNS}"
        if n < MIN_RUNS
        else "the noise between runs is not known yet"
        for n in cells.loc[untested, "n"]
    ]


def _in_order(flags: pd.Series, cells: pd.DataFrame) -> pd.Series:
    """Flags of some cells as flags of all."""
    ordered: pd.Series = flags.reindex(cells.index).fillna(False).astype(bool)
    return ordered


def _mark(cells: pd.DataFrame, flags: pd.Series, status: Status) -> None:
    """Give a status to those of the cells that have none."""
    cells.loc[_in_order(flags, cells) & cells["status"].isna(), "status"] = status


def _explain(cells: pd.DataFrame, only_everywhere: pd.Series, shifts: pd.Series) -> None:
    """Say where a change was found: against all cards, or in seconds only."""
    others = _in_order(only_everywhere, cells)
    cells["change"] = cells["change"].where(~others, np.expm1(shifts.reindex(cells.index)))
    cells.loc[others, "reason"] = "against the baseline of all cards"
    is_clock = cells["status"] == Status.SLOWER_CLOCK
    cells.loc[is_clock, "reason"] = [
        f"{change:+.1%} in seconds: the clock, not the code"
        for change in cells.loc[is_clock, "change_s"]
    ]


def _described(history: CellHistory) -> dict[str, object]:
    """A cell before it is tested: its times, and a status if it has no past."""
    row = {"fullname": history.name, **cell_columns(history.row), "reason": ""}
    row |= {"new_s": float(np.exp(history.new.log_s.mean())), "new_runs": len(history.new)}
    row |= {"status": None, "group": ""}
    if history.acceptance and history.is_accepted_itself:
        return {**row, "status": Status.ACCEPTED, "reason": history.acceptance.because}
    if history.difference:
        return {**row, "status": Status.ANOTHER_FORM, "reason": history.difference}
    if len(history.past):
        return row
    return {**row, "status": Status.NEW, "reason": "was not timed before"}


def partly_timed_note(night: list[Run]) -> list[str]:
    """A note on the cells that some runs of the night timed and others did not."""
    timed = [set(run.rows) for run in night]
    partly = sorted(name for name in set().union(*timed) if not all(name in one for one in timed))
    if not partly:
        return []
    names = ", ".join(map(cell_label, partly[:3])) + (", ..." if len(partly) > 3 else "")
    return [f"not timed in each run of the night: {len(partly)} ({names})"]


def detectable_notes(cells: pd.DataFrame, runs: int) -> list[str]:
    """What this history can find."""
    found = cells.get("detectable", pd.Series(dtype=float)).dropna()
    if found.empty:
        return []
    half, most, worst = (
        f"{share:.1%}" if share < 1 else "over 100 %" for share in found.quantile([0.5, 0.95, 1.0])
    )
    what = "one run" if runs == 1 else f"{runs} runs"
    return [
        f"found in 95 % of nights of {what}: slowdowns of {half} in half of the cells,"
        f" of {most} in 95 % of them, of {worst} in all"
    ]


def suite_verdict(
    cells: pd.DataFrame, is_other_machine: bool, strict: bool
) -> tuple[Conclusion, int]:
    """The conclusion on the night, and the exit status."""
    statuses = set(cells["status"])
    if Status.REGRESSION in statuses:
        return Conclusion.REGRESSION, 1
    was_timed = cells["base_s"].notna() | (cells["status"] == Status.ANOTHER_FORM)
    if (cells["status"].isin(LOST) & was_timed).any():
        return Conclusion.CELLS_LOST, 1
    if statuses & {*JUDGED}:
        return Conclusion.NO_REGRESSION, 0
    inconclusive = 3 if strict else 0
    if is_other_machine:
        return Conclusion.NOT_COMPARABLE, inconclusive
    return Conclusion.NOT_ENOUGH_HISTORY, inconclusive
