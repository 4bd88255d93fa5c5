"""Cells that were timed before and are not timed now, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from maskbench.records import Outcome
from reports.comparability import CellRow, Run
from reports.verdict import Status, cell_columns

GROUPS = ("backend", "mask", "seq_len", "direction")  # what can be lost as a whole, in this order


def lost_cells(night: list[Run], expected: Mapping[str, CellRow]) -> pd.DataFrame:
    """The expected cells that no run of the night timed, and the cells that fail in it.

    Returns
    -------
    A row per cell, by name, with its status, its `reason`, `base_s` in seconds (NaN if it was never
    timed), and `group`: what was lost as a whole, such as "all 24 cells of backend flash_attn", or
    "".
    """
    timed = {name for run in night for name in run.rows}
    is_failing = [Outcome(outcome).is_failure for outcome in night[-1].cells["outcome"]]
    failing = night[-1].cells[is_failing]
    rows = [
        {"fullname": name, **cell_columns(row), "base_s": row["median_s"], **_reason(name, night)}
        for name, row in expected.items()
        if name not in timed
    ]
    rows += [
        {"fullname": name, **cell_columns(dict(cell)), "base_s": np.nan, **_reason(name, night)}
        for name, cell in failing.iterrows()
        if name not in timed and name not in expected
    ]
    columns = ["fullname", "base_s", "status", "reason"]
    lost: pd.DataFrame = pd.DataFrame(rows, columns=None if rows else columns)
    lost = lost.set_index("fullname")
    lost["group"] = _groups(lost, expected)
    return lost


def _reason(name: str, night: list[Run]) -> dict[str, object]:
    """Why a cell has no time: its outcome in the newest run that has the cell."""
    cells = [run.cells.loc[name] for run in reversed(night) if name in run.cells.index]
    if not cells:
        return {"status": Status.VANISHED, "reason": "was timed before, is not in the run"}
    outcome, reason = cells[0]["outcome"], cells[0]["reason"]
    status = Status.FAILING if Outcome(outcome).is_failure else Status.NO_LONGER_TIMED
    return {"status": status, "reason": f"{outcome}: {reason}"}


def _groups(lost: pd.DataFrame, expected: Mapping[str, CellRow]) -> list[str]:
    """For each lost cell the group that was lost with it as a whole, or ""."""
    if lost.empty:
        return []
    before = pd.DataFrame([cell_columns(row) for row in expected.values()])
    groups = pd.Series("", lost.index)
    was_timed = lost["base_s"].notna()
    for column in GROUPS:
        counts = before[column].value_counts() if len(before) else pd.Series(dtype=int)
        if len(counts) < 2:
            continue  # all cells have the same value
        for value, cells in lost[was_timed].groupby(column):
            if 1 < len(cells) == counts.get(value):
                ungrouped = cells.index[groups[cells.index] == ""]
                groups[ungrouped] = f"all {len(cells)} cells of {column} {value}"
    return list(groups)
