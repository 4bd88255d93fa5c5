"""The result of compare, history and gate: a status per cell and a conclusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from maskbench.records import TextEnum

CELL_COLUMNS = ["mask", "backend", "direction", "seq_len"]  # of every table of cells


def cell_columns(row: dict[str, Any]) -> dict[str, Any]:
    """CELL_COLUMNS of a cell's fields."""
    return {name: row[name] for name in CELL_COLUMNS}


class Status(TextEnum):
    """The finding on one cell. The most important findings come first."""

    REGRESSION = "REGRESSION"  # slower than the baseline, in SM cycles on a GPU
    FAILING = "failing"
    VANISHED = "vanished"  # no longer in the run
    NO_LONGER_TIMED = "no longer timed"
    ANOTHER_FORM = "another form"  # computed in another way than before, or another problem
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    STEP = "STEP"
    DRIFT = "DRIFT"
    SUSPECT_SLOWER = "SUSPECT slower"  # the noise between runs is not known
    SUSPECT_FASTER = "SUSPECT faster"
    SLOWER_CLOCK = "slower clock"  # slower in seconds, not in SM cycles
    IMPROVEMENT = "IMPROVEMENT"
    ACCEPTED = "accepted"  # the runs that are judged are the accepted ones
    NOT_COMPARABLE = "not comparable"
    TOO_FEW_RUNS = "too few runs"
    NEW = "new"
    WITHIN_NOISE = "within noise"
    NOTE = "note"  # a step too small to count
    LEVEL = "level"  # no step
    SAME = "same"


class Conclusion(TextEnum):
    """The gate's finding on a night."""

    REGRESSION = "REGRESSION"
    CELLS_LOST = "CELLS LOST"
    NO_REGRESSION = "NO REGRESSION"
    NOT_COMPARABLE = "NOT COMPARABLE"
    NOT_ENOUGH_HISTORY = "NOT ENOUGH HISTORY"


@dataclass
class Verdict:
    """The result of a command.

    `cells` has a row per cell, with its status and reason. `conclusion` is a `Conclusion` or a
    text, and `exit_status` that of the command.
    """

    cells: pd.DataFrame
    conclusion: str
    exit_status: int
    notes: list[str] = field(default_factory=list)

    @property
    def is_inconclusive(self) -> bool:
        """Whether the gate could judge no cell."""
        return self.conclusion in (Conclusion.NOT_COMPARABLE, Conclusion.NOT_ENOUGH_HISTORY)
