"""Whether a run is slower than the runs before it: one verdict a cell, one for the suite.

x is the logarithm of a cell's median. A new x is set against those of the comparable runs since
the last accepted change, by a one-sided t test whose variance is pooled: within runs, between
runs, and over the suite's cells (the moderated t of Smyth 2004, https://doi.org/10.2202/1544-6115.1027).
Over all cells the false discovery rate is held by Benjamini and Hochberg's rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, t

from reports.comparability import (
    Run,
    cell_difference,
    differences,
    identity,
    soft_differences,
    standard_error,
)
from reports.runs import UnreadableRun
from reports.steps import STEP, steps

FEWEST, MOST = 5, 20  # comparable runs that a cell is judged by
EFFECT, LEAST = 0.05, 1e-6  # a smaller change, relative or in s, is none
FLOOR = 0.005  # of the noise
NOISY = 0.03  # beyond this noise a cell cannot be judged
PRIOR = 4  # degrees of freedom that the suite's usual variance counts for
DISCOVERY = 0.05
PENDING = 6  # slow runs at the end of a history that wait to be confirmed: two nights of three
LOOKED_AT = 60  # runs at the end of a history
NIGHT = 10  # characters of a date and time that are the date


@dataclass
class Verdict:
    """`cells`: a row each, with its status. `word` and `code` are the suite's."""

    cells: pd.DataFrame
    word: str
    code: int
    notes: list[str] = field(default_factory=list)


def baseline(name: str, row: pd.Series, history: list[Run]) -> tuple[pd.DataFrame, str]:
    """The cell's past: x and se of the last comparable runs, and why others do not count."""
    past, reason = [], "was not timed before"
    for run in history:
        if name not in run.timed.index:
            continue
        before = run.cells.loc[name]
        different = cell_difference(before, row)
        if different:
            past, reason = [], different  # what came before it is of something else, too
            continue
        x = {"x": np.log(before["median_s"]), "se": standard_error(before)}
        past.append({**x, "two_modes": before["two_modes"], "night": run.saved[:NIGHT]})
    found = pd.DataFrame(past, columns=["x", "se", "two_modes", "night"])
    return found.iloc[accepted(found) :].tail(MOST + PENDING), reason


def accepted(past: pd.DataFrame) -> int:
    """Where the last level starts that runs of two nights or more have held; 0 without a step."""
    for start in reversed(steps(past["x"].to_numpy(), STEP)):
        if past["night"].iloc[start:].nunique() > 1:
            return start
    return 0


def pending(xs: np.ndarray) -> int:
    """How many runs at the end stand out alike from all before: a change not yet confirmed.

    Below 0 where they are faster.
    """
    for count in range(min(PENDING, len(xs) - FEWEST), 0, -1):
        before, after = xs[:-count], xs[-count:]
        least = np.log1p(max(EFFECT, LEAST / np.exp(np.median(before))))
        if after.min() > max(before.max(), np.median(before) + least):
            return count
        if after.max() < min(before.min(), np.median(before) - least):
            return -count
    return 0


def judged(new: Run, history: list[Run]) -> pd.DataFrame:
    """A row for each timed cell of `new`, with status, change, p and what could be detected."""
    return tested(against(new, history))


def repeated(confirm: Run, history: list[Run]) -> pd.DataFrame:
    """As judged(), of the run that is to confirm another.

    A cell of two modes stands for itself by its fastest round there: if even that is slow, the
    slowness repeats. That it is fast says nothing.
    """
    cells = tested(against(confirm, history, by_fastest_round=True))
    bimodal = confirm.timed["two_modes"].reindex(cells.index).astype(bool)
    cells.loc[bimodal & (cells["status"] == "FAST"), "status"] = "noisy"
    return cells


def against(new: Run, history: list[Run], by_fastest_round: bool = False) -> pd.DataFrame:
    """Each timed cell of `new` beside its past; a status where it cannot be judged."""
    rows = []
    for name, row in new.timed.iterrows():
        past, reason = baseline(name, row, history)
        waiting = pending(past["x"].to_numpy())
        used = past.iloc[: len(past) - abs(waiting)].tail(MOST)
        found = {"fullname": name, "n": len(used), "waiting": waiting, "reason": ""}
        time = row["min_s"] if row["two_modes"] and by_fastest_round else row["median_s"]
        found |= {"median_s": time, "x": np.log(time)}
        if not len(used):
            new_here = reason.startswith("was not timed")
            status = "new" if new_here else "not comparable"
            rows.append({**found, "status": status, "reason": reason})
            continue
        xs = used["x"].to_numpy()
        found |= {"base": xs.mean(), "low": xs.min(), "high": xs.max()}
        found |= {"between": xs.var(ddof=1) if len(xs) > 1 else np.nan}
        found |= {"within": max(float((used["se"] ** 2).mean()), standard_error(row) ** 2)}
        few = len(used) < FEWEST
        modes = row["two_modes"] and not by_fastest_round
        modes = modes or used["two_modes"].mean() > 0.5
        status = "too few runs" if few else "noisy" if modes else ""
        reason = f"{len(used)} comparable, {FEWEST} needed" if few else "two modes" if modes else ""
        rows.append({**found, "status": status, "reason": reason})
    cells = pd.DataFrame(rows).set_index("fullname")
    for column in ("base", "low", "high", "between", "within"):
        cells[column] = cells.get(column, np.nan)
    return cells


def tested(cells: pd.DataFrame) -> pd.DataFrame:
    """The t test of all cells that can be judged."""
    cells = cells.copy()
    enough = cells["n"] >= FEWEST
    usual = cells.loc[enough, "between"].median()
    own = cells["n"] - 1
    pooled = (PRIOR * usual + own * cells["between"]) / (PRIOR + own)
    cells["noise"] = np.sqrt(np.maximum(np.maximum(pooled, cells["within"]), FLOOR**2))
    noisy = enough & (cells["status"] == "") & (cells["noise"] > NOISY)
    cells.loc[noisy, ["status", "reason"]] = ["noisy", f"noise over {NOISY:.0%}"]
    error = cells["noise"] * np.sqrt(1 + 1 / cells["n"].clip(lower=1))
    shift = cells["x"] - cells["base"]
    cells["change"] = np.expm1(shift)
    open_ = cells["status"] == ""
    degrees, count = own + PRIOR, max(1, int(open_.sum()))
    least = np.log1p(np.maximum(EFFECT, LEAST / np.exp(cells["base"])))
    for status, sign in (("SLOW", 1), ("FAST", -1)):
        p = pd.Series(t.sf(sign * shift / error, degrees), cells.index)
        beyond = sign * cells["x"] > sign * cells["high" if sign > 0 else "low"]
        adjusted = false_discovery_control(p[open_]) if open_.any() else []
        significant = pd.Series(adjusted, cells.index[open_]).reindex(cells.index) <= DISCOVERY
        hit = open_ & significant & beyond & (sign * shift >= least)
        cells.loc[hit, "status"] = status
        cells[f"p_{status.lower()}"] = p.where(open_)
    needed = t.isf(DISCOVERY / count, degrees) * error
    worst = (cells["high"] - cells["base"]).clip(lower=0)
    cells["detectable"] = np.expm1(np.maximum(np.maximum(needed, worst), least))
    cells.loc[cells["status"] == "", "status"] = "same"
    return cells


def gate(new: Run, runs: list[Run], confirm: Run | None, strict: bool) -> Verdict:
    """The verdict on `new` by the runs before it.

    What is slow in it is a regression where `confirm` repeats it; without one, where the runs
    that wait at the end of the history are slow already: this is the next night then.
    """
    notes = []
    history = [run for run in runs if run.saved < new.saved]
    if len(history) < len(runs):
        notes.append(f"{len(runs) - len(history)} runs saved after {new.path} are left out")
    alike = [run for run in history if not differences(run, new)]
    other = [run for run in history if differences(run, new)]
    if other:
        what = "; ".join(differences(other[-1], new))
        notes.append(f"{len(other)} runs of another machine are left out ({what})")
    segment = [run for run in alike if not soft_differences(run, new)]
    if len(segment) < len(alike):
        older = next(run for run in reversed(alike) if soft_differences(run, new))
        what = "; ".join(soft_differences(older, new))
        notes.append(f"{len(alike) - len(segment)} runs before a new segment are left out ({what})")
    segment = segment[-LOOKED_AT:]
    cells = judged(new, segment)
    unlike(cells, new, [run for run in history if run not in segment][-LOOKED_AT:])
    if confirm:
        fits(confirm, new)
    confirmed(cells, confirm, segment)
    gone = lost(new, alike[-MOST:])
    cells = pd.concat([cells, gone]) if len(gone) else cells
    columns = ["mask", "backend", "direction", "seq_len"]
    about = pd.concat([run.cells[columns] for run in (*alike[-MOST:], new)])
    cells = cells.join(about[~about.index.duplicated(keep="last")])
    cells = cells.assign(base_s=np.exp(cells["base"]), new_s=cells["median_s"])
    return Verdict(cells.drop(columns="median_s"), *ending(cells, history, alike, strict), notes)


def unlike(cells: pd.DataFrame, new: Run, left_out: list[Run]) -> None:
    """Cells that look new, but were timed in runs that are not comparable with this one."""
    for run in left_out:
        here = (cells["status"] == "new") & cells.index.isin(run.timed.index)
        hard, soft = differences(run, new), soft_differences(run, new)
        status = "not comparable" if hard else "too few runs"  # since a new segment began
        cells.loc[here, ["status", "reason"]] = [status, "; ".join(hard + soft)]


def fits(confirm: Run, new: Run) -> None:
    """Raises UnreadableRun where a run cannot confirm another."""
    different = differences(confirm, new) + soft_differences(confirm, new)
    if different:
        raise UnreadableRun(f"--confirm {confirm.path}: is not like {new.path}: {different[0]}")
    if identity(confirm) == identity(new):
        raise UnreadableRun(f"--confirm {confirm.path}: is {new.path} itself, not a run of its own")


def confirmed(cells: pd.DataFrame, confirm: Run | None, history: list[Run]) -> None:
    """SLOW that repeats is a REGRESSION: in `confirm`, else in the runs that wait for it."""
    again = repeated(confirm, history)["status"].reindex(cells.index) if confirm else None
    for first, last, sign in (("SLOW", "REGRESSION", 1), ("FAST", "IMPROVEMENT", -1)):
        found = cells["status"] == first
        if not confirm:
            cells.loc[found & (sign * cells["waiting"] > 0), "status"] = last
            continue
        cells.loc[found & (again == first), "status"] = last
        open_ = again.isna() | again.isin(("noisy", "too few runs", "not comparable", "new"))
        cells.loc[found & open_, "reason"] = "not judged in the confirming run"
        cells.loc[found & ~open_ & (again != first), "reason"] = (
            "did not repeat in the confirming run"
        )


def lost(new: Run, history: list[Run]) -> pd.DataFrame:
    """Cells that runs before have timed and the new one has not, and cells that fail in it."""
    before = {name: row for run in history for name, row in run.timed.iterrows()}
    failing = new.cells.index[new.cells["outcome"] == "failed"]
    rows = []
    for name in dict.fromkeys([*before, *failing]):
        if name in new.timed.index:
            continue
        row = {"fullname": name, "n": 0, "status": "vanished", "reason": "was timed before"}
        row["base"] = np.log(before[name]["median_s"]) if name in before else np.nan
        if name in new.cells.index:
            here = new.cells.loc[name]
            row["status"] = "failing" if here["outcome"] == "failed" else "no longer timed"
            row["reason"] = f"{here['outcome']}: {here['reason']}"
        rows.append(row)
    columns = ["fullname", "base", "n", "status", "reason"]
    return pd.DataFrame(rows, columns=columns).set_index("fullname")


def ending(cells, history: list[Run], alike: list[Run], strict: bool) -> tuple[str, int]:
    if (cells["status"] == "REGRESSION").any():
        return "REGRESSION", 1
    if not cells["status"].isin(("same", "SLOW", "FAST", "IMPROVEMENT")).any():
        if (cells["status"] == "noisy").any():
            return "NOT JUDGED: TOO NOISY", 3 if strict else 0
        compared = (cells["status"] == "not comparable").any() or (history and not alike)
        return "NOT COMPARABLE" if compared else "NOT ENOUGH HISTORY", 3 if strict else 0
    return "NO REGRESSION", 0
