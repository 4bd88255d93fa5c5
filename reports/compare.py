"""Compares the runs of two versions, one or several on each side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, t

from maskbench.records import UnreadableRun
from reports.baseline import Times, times_of
from reports.clock_exponent import clock_exponent
from reports.comparability import (
    CellRow,
    Run,
    cell_difference,
    machine_differences,
    software_differences,
    standard_error,
)
from reports.levels import FALSE_DISCOVERY_RATE, shrink
from reports.lost_cells import lost_cells
from reports.nights import night_labels
from reports.noise import Noise, measure_noise
from reports.thresholds import EFFECT, MIN_CHANGE_S, NOISE_FLOOR, NOISE_FLOOR_SECONDS
from reports.verdict import Conclusion, Status, Verdict, cell_columns

ALPHA = 0.05  # of the confidence intervals
UNKNOWN = Noise(np.nan, 0, np.nan, 0)


def compare_sides(base: list[Run], new: list[Run], history: list[Run]) -> Verdict:
    """The change of each cell from the runs `base` to the runs `new`.

    Parameters
    ----------
    base, new
        The runs of each version, oldest first.
    history
        More runs, which show the noise between runs. Those of other machines are left out.

    Raises
    ------
    UnreadableRun
        If the runs have no comparable cell in common.
    """
    different = machine_differences(base[-1], new[-1])
    notes = [f"NOT COMPARABLE: {what}" for what in different]
    notes += software_differences(base[-1], new[-1])
    if len(base) == len(new) == 1 and not history:
        notes.append(
            "with one run on each side the noise between runs is unknown, so a change is at most"
            " SUSPECT; time each version three times, or give --history DIR"
        )
    history = [run for run in history if not machine_differences(run, new[-1])]
    names = dict.fromkeys(name for run in new for name in run.rows)
    rows = [_compared(name, base, new, history, "; ".join(different)) for name in names]
    cells = pd.DataFrame(rows).set_index("fullname")
    if not different and cells["status"].notna().all():
        raise UnreadableRun(
            f"{base[-1].path} and {new[-1].path}: have no comparable cell in common"
        )
    cells = _find_changes(cells)
    expected = {name: row for run in base for name, row in run.rows.items()}
    lost = lost_cells(new, expected)
    cells = pd.concat([cells, lost]) if len(lost) else cells
    compared = f"{cells['change'].notna().sum()} cells compared"
    return Verdict(cells, Conclusion.NOT_COMPARABLE if different else compared, 0, notes)


def _compared(
    name: str, base: list[Run], new: list[Run], history: list[Run], different: str
) -> dict[str, object]:
    """A cell's shift in both units, with the noise that is known of it; a status if it has none."""
    after = [run.rows[name] for run in new if name in run.rows]
    row = {"fullname": name, **cell_columns(after[-1]), "status": None, "reason": ""}
    row |= {"group": "", "new_s": _mean_s(after)}
    before = [run.rows[name] for run in base if name in run.rows]
    if not before:
        return {**row, "status": Status.NEW}
    reason = different or cell_difference(before[-1], after[-1])
    if reason:
        return {**row, "status": Status.NOT_COMPARABLE, "reason": reason, "base_s": _mean_s(before)}
    past = _comparable_times(name, after[-1], history)
    one, other = _times(before), _times(after)
    clocks = np.concatenate([one.log_clock, other.log_clock, past.log_clock])
    has_clock = bool(np.isfinite(clocks).all())
    shown = past if len(past) > 2 else one
    exponent = clock_exponent(shown.log_s, shown.log_clock)[0] if has_clock else 0.0
    row |= {"base_s": _mean_s(before), "on_gpu": has_clock, "exponent": exponent}
    row |= {"base_runs": len(before), "new_runs": len(after)}
    row["within"] = float(np.hypot(_standard_error(before), _standard_error(after)))
    for unit, power in (("code", exponent), ("seconds", 0.0)):
        noise = measure_noise(past.without_clock(power), past.night) if len(past) > 1 else UNKNOWN
        row |= _shift(unit, one.without_clock(power), other.without_clock(power), noise)
    return row


def _comparable_times(name: str, row: CellRow, history: list[Run]) -> Times:
    """The cell's times in a history."""
    labels = night_labels(history)
    return times_of(
        [
            (run.rows[name], label, run.gpu_uuid or "")
            for run, label in zip(history, labels, strict=True)
            if name in run.rows and cell_difference(run.rows[name], row) is None
        ]
    )


def _times(rows: list[CellRow]) -> Times:
    return times_of([(row, 0, "") for row in rows])


def _mean_s(rows: list[CellRow]) -> float:
    """The geometric mean of the medians in seconds."""
    return float(np.exp(np.mean([np.log(row["median_s"]) for row in rows])))


def _standard_error(rows: list[CellRow]) -> float:
    """The standard error of the mean of log(median), from the intervals within the runs."""
    return float(np.sqrt(np.mean([standard_error(row) ** 2 for row in rows]) / len(rows)))


def _shift(unit: str, base: np.ndarray, new: np.ndarray, noise: Noise) -> dict[str, float]:
    """The shift, and the variance between processes with its degrees of freedom."""
    degrees = len(base) + len(new) - 2 + noise.process_degrees
    squares = np.var(base) * len(base) + np.var(new) * len(new)
    squares += np.nan_to_num(noise.process) * noise.process_degrees
    # A history of single runs only shows the noise between them.
    variance, freedom = (
        (squares / degrees, degrees) if degrees else (noise.night, noise.night_degrees)
    )
    return {
        f"shift_{unit}": float(new.mean() - base.mean()),
        f"process_{unit}": variance,
        f"night_{unit}": noise.night,
        f"degrees_{unit}": freedom,
    }


def _find_changes(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells, with the numbers and the status of those that have no status yet."""
    numbers = ("base_s", "change", "change_s", "half", "noise")
    here = cells["status"].isna()
    if here.any():
        compared = cells[here]
        code, seconds = _tested(compared, "code"), _tested(compared, "seconds")
        cells.loc[here, "change"] = np.expm1(code["shift"])
        cells.loc[here, "change_s"] = np.expm1(seconds["shift"])
        cells.loc[here, "half"] = code["half"]
        cells.loc[here, "noise"] = code["noise"]
        cells.loc[here, "status"] = _statuses(compared, code, seconds)
    working = cells.columns.str.contains("_code$|_seconds$") | cells.columns.isin(["within"])
    columns = list(dict.fromkeys([*cells.columns[~working], *numbers]))
    found: pd.DataFrame = cells.reindex(columns=columns)
    return found


def _tested(cells: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Each cell's shift, the half-width of its interval, its noise, and if it is significant."""
    is_code = (cells["exponent"] > 0) & (unit == "code")
    floor = np.where(is_code, NOISE_FLOOR, NOISE_FLOOR_SECONDS)
    known = cells[f"degrees_{unit}"].astype(float)
    shrunk = shrink(cells[f"process_{unit}"], known, cells["on_gpu"].astype(bool))
    variance, degrees = shrunk["variance"], shrunk["degrees"]
    variance = variance.clip(lower=pd.Series(floor**2, cells.index))
    between = variance * (1 / cells["base_runs"] + 1 / cells["new_runs"])
    between = between.clip(lower=2 * cells[f"night_{unit}"].fillna(0))
    is_known = variance.notna() & (degrees > 0)
    error = np.sqrt(between.where(is_known, cells["within"] ** 2))
    shift = cells[f"shift_{unit}"]
    # Without degrees of freedom only the noise within the runs is known, whose rounds are many.
    freedom = degrees.where(is_known, np.inf)
    p = pd.Series(2 * t.sf(np.abs(shift) / error, freedom), cells.index)
    found: pd.DataFrame = pd.DataFrame(
        {
            "shift": shift,
            "half": t.isf(ALPHA / 2, freedom) * error,
            "noise": np.sqrt(variance.where(is_known)),
            "is_known": is_known,
            "significant": false_discovery_control(p.fillna(1)) <= FALSE_DISCOVERY_RATE,
        }
    )
    return found


def _statuses(cells: pd.DataFrame, code: pd.DataFrame, seconds: pd.DataFrame) -> pd.Series:
    """The strongest status that the runs support."""

    def sizes(unit: pd.DataFrame) -> pd.Series:
        """The size of the changes that are large enough to count, else 0; with their sign."""
        change = np.expm1(unit["shift"])
        counts = (change.abs() >= EFFECT) & ((change * cells["base_s"]).abs() >= MIN_CHANGE_S)
        counted: pd.Series = change.where(counts, 0.0)
        return counted

    def outside(unit: pd.DataFrame) -> pd.Series:
        flags: pd.Series = unit["significant"] & (unit["shift"].abs() > unit["half"])
        return flags

    size, size_s = sizes(code), sizes(seconds)
    statuses: pd.Series = pd.Series(Status.SAME, cells.index, dtype=object)
    statuses[size != 0] = Status.WITHIN_NOISE
    by_clock = cells["on_gpu"] & (size_s > 0) & outside(seconds)
    statuses[by_clock] = Status.SLOWER_CLOCK
    real = outside(code) & (size != 0)
    known = code["is_known"]
    statuses[real & known & (size > 0)] = Status.SLOWER
    statuses[real & known & (size < 0)] = Status.FASTER
    statuses[real & ~known & (size > 0)] = Status.SUSPECT_SLOWER
    statuses[real & ~known & (size < 0)] = Status.SUSPECT_FASTER
    return statuses
