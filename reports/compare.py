"""Two runs side by side. One run is one piece of evidence: without a history, no verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.comparability import (
    NORMAL_95,
    Run,
    cell_difference,
    differences,
    soft_differences,
    standard_error,
)
from reports.gate import EFFECT, FLOOR, LEAST, Verdict
from reports.runs import UnreadableRun

CLOCK = 0.01  # a change of the SM clock that is one
BETWEEN = 3.0  # noises that a change must exceed to be more than suspect

COLUMNS = ("base_s", "new_s", "change", "half", "noise")


def noise_of(history: list[Run]) -> pd.Series:
    """Standard deviation of log(median) of each cell, between runs of one torch."""
    found = []
    for torch in {run.torch for run in history}:
        runs = [run.timed["median_s"] for run in history if run.torch == torch]
        if len(runs) > 1:
            found.append(np.log(pd.concat(runs, axis=1)).std(axis=1, ddof=1))
    return (
        pd.concat(found, axis=1).max(axis=1).clip(lower=FLOOR) if found else pd.Series(dtype=float)
    )


def word_for(row: dict, noise: float) -> str:
    """The strongest word that the evidence allows."""
    change = abs(row["change"])
    if change < EFFECT or abs(row["new_s"] - row["base_s"]) < LEAST:
        return "same"
    way = "slower" if row["change"] > 0 else "faster"
    cycles = row["change_in_cycles"]
    if way == "slower" and cycles < EFFECT and abs(row["clock_change"]) >= CLOCK:
        return "AMBIGUOUS"  # the card was slower, not the code
    known = np.isfinite(noise) and abs(np.log1p(row["change"])) > BETWEEN * np.sqrt(2) * noise
    return way.upper() if known else f"SUSPECT {way}"


def compare(base: Run, new: Run, history: list[Run]) -> Verdict:
    """Change, interval and medians of each cell; raises UnreadableRun where no cell is common."""
    different = differences(base, new)
    notes = [f"NOT COMPARABLE: {what}" for what in different]
    notes += [f"differs: {what}" for what in soft_differences(base, new)]
    noise = noise_of([run for run in history if not differences(run, new)])
    rows = []
    for name, after in new.timed.iterrows():
        about = {name_: after[name_] for name_ in ("mask", "backend", "direction", "seq_len")}
        row = {"fullname": name, **about, "new_s": after["median_s"], "reason": ""}
        before = base.cells.loc[name] if name in base.timed.index else None
        reason = "; ".join(different)
        if before is not None and not reason:
            reason = cell_difference(before, after)
        if before is None or reason:
            status = "new" if before is None else "not comparable"
            rows.append({**row, "status": status, "reason": reason or ""})
            continue
        row["base_s"] = before["median_s"]
        row["change"] = row["new_s"] / row["base_s"] - 1
        row["half"] = NORMAL_95 * np.hypot(standard_error(before), standard_error(after))
        row["clock_change"] = after["clock_mhz"] / before["clock_mhz"] - 1
        row["change_in_cycles"] = (1 + row["change"]) * (1 + row["clock_change"]) - 1
        row["noise"] = float(noise.get(name, np.nan))
        rows.append({**row, "status": word_for(row, row["noise"])})
    for name, before in base.timed.iterrows():
        if name not in new.timed.index:
            gone = new.cells.loc[name] if name in new.cells.index else None
            reason = (
                "not in the new run" if gone is None else f"{gone['outcome']}: {gone['reason']}"
            )
            about = {n: before[n] for n in ("mask", "backend", "direction", "seq_len")}
            status = "failing" if gone is not None and gone["outcome"] == "failed" else "vanished"
            row = {"fullname": name, **about, "base_s": before["median_s"], "status": status}
            rows.append({**row, "reason": reason})
    cells = pd.DataFrame(rows).set_index("fullname")
    cells = cells.reindex(columns=list(dict.fromkeys([*cells.columns, *COLUMNS])))
    if not different and cells["change"].isna().all():
        raise UnreadableRun(f"{base.path} and {new.path}: have no comparable cell in common")
    counts = cells["status"].value_counts()
    word = "NOT COMPARABLE" if different else ", ".join(f"{n} {s}" for s, n in counts.items())
    return Verdict(cells, word, 0, notes)
