"""The past of one cell, and the part of it that is the baseline of new runs.

The baseline is anchored: it is made of the first runs since the last acceptance, and later runs do
not move it. So neither a regression nor slow drift becomes the baseline by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.acceptances import Acceptance
from reports.clock_exponent import clock_exponent
from reports.comparability import CellRow, Run, cell_difference
from reports.noise import MIN_OUTLIER, OUTLIER_SDS, usual_runs

ANCHOR_RUNS = 12  # of a baseline at most; more lower its error little
SEED_RUNS = 5  # the first runs, whose median is the level of the baseline


@dataclass(frozen=True)
class Times:
    """Times of one cell, an element per run, oldest first."""

    log_s: np.ndarray  # natural logarithm of the median in seconds
    log_clock: np.ndarray  # natural logarithm of the SM clock in MHz; NaN if it is unknown
    night: np.ndarray  # the number of the run's night
    card: np.ndarray  # the GPU's UUID, or ""

    def __len__(self) -> int:
        return len(self.log_s)

    def where(self, flags: np.ndarray) -> Times:
        """The times of the runs with a flag."""
        return Times(self.log_s[flags], self.log_clock[flags], self.night[flags], self.card[flags])

    def without_clock(self, exponent: float) -> np.ndarray:
        """The times with the clock taken out. With an exponent of 0, they stay in seconds."""
        return self.log_s + exponent * self.log_clock if exponent else self.log_s


def times_of(rows: Sequence[tuple[CellRow, int, str]]) -> Times:
    """The times of cells, each given with its night and its card."""
    clocks = [row["clock_mhz"] for row, _, _ in rows]
    return Times(
        log_s=np.log([row["median_s"] for row, _, _ in rows]),
        log_clock=np.log(np.array(clocks, float)),
        night=np.array([night for _, night, _ in rows], int),
        card=np.array([card for _, _, card in rows], object),
    )


@dataclass(frozen=True)
class CellHistory:
    """A cell of a night with its comparable past."""

    name: str
    row: CellRow  # of the newest run
    saved: tuple[str, ...]  # the dates of its runs in UTC
    new: Times  # the runs of the night
    past: Times
    accepted: np.ndarray  # flags of the past runs since the last acceptance
    difference: str | None  # from the first run since the last acceptance; None if comparable
    acceptance: Acceptance | None = None  # the last one

    @property
    def has_clock(self) -> bool:
        """Whether all runs have a clock, which then can be taken out of the times."""
        clocks = np.concatenate([self.past.log_clock, self.new.log_clock])
        return bool(len(clocks)) and bool(np.isfinite(clocks).all())

    @property
    def is_accepted_itself(self) -> bool:
        """Whether the runs of the night are the accepted ones."""
        return self.acceptance is not None and all(map(self.acceptance.names, self.saved))

    @property
    def exponent(self) -> tuple[float, float]:
        """Of the clock in the cell's times, and its error; 0 where the clock is unknown."""
        if not self.has_clock:
            return 0.0, 0.0
        return clock_exponent(self.past.log_s, self.past.log_clock)


def cell_history(
    name: str,
    night: list[Run],
    history: list[Run],
    labels: list[int],
    acceptance: Acceptance | None,
) -> CellHistory:
    """One cell of a night with those of its earlier times that can be compared.

    Runs without a clock are left out if there are others.

    Parameters
    ----------
    name
        A cell that at least one run of the night has timed.
    night, history
        Runs, oldest first.
    labels
        The night of each run of `history`.
    acceptance
        The cell's last acceptance, which moved its baseline.
    """
    timed = [run for run in night if name in run.rows]
    row = timed[-1].rows[name]
    own = max(labels, default=-1) + 1
    new = [(run.rows[name], own, run.gpu_uuid or "") for run in timed]
    before = [
        (run.rows[name], label, run.gpu_uuid or "", run.saved)
        for run, label in zip(history, labels, strict=True)
        if name in run.rows
    ]
    counted = [one for one in before if acceptance is None or acceptance.covers(one[3])]
    difference = cell_difference(counted[0][0], row) if counted else None
    for mixed, _, _ in new:
        if found := cell_difference(mixed, row):
            difference = f"within the night, {found}"
    past = [one for one in before if cell_difference(one[0], row) is None]
    if any(_has_clock(one[0]) for one in new) and any(_has_clock(one[0]) for one in past):
        new = [one for one in new if _has_clock(one[0])]
        past = [one for one in past if _has_clock(one[0])]
    accepted = [acceptance is None or acceptance.covers(saved) for *_, saved in past]
    return CellHistory(
        name=name,
        row=row,
        saved=tuple(run.saved for run in timed),
        new=times_of(new),
        past=times_of([one[:3] for one in past]),
        accepted=np.array(accepted, bool),
        difference=difference,
        acceptance=acceptance,
    )


def _has_clock(row: CellRow) -> bool:
    return bool(np.isfinite(row["clock_mhz"]))


def anchored(x: np.ndarray, noise: float) -> np.ndarray:
    """Which runs are the baseline, as flags.

    The first SEED_RUNS set the level. The baseline is the first ANCHOR_RUNS that are at that level.

    Parameters
    ----------
    x
        Logarithms of the times since the last acceptance, oldest first.
    noise
        The standard deviation of `x` at one level.
    """
    level = np.median(x[:SEED_RUNS])
    at_level = np.abs(x - level) <= max(MIN_OUTLIER, OUTLIER_SDS * noise)
    at_level &= usual_runs(x)
    if not at_level.any():  # two runs that differ: their median is neither
        at_level = np.ones(len(x), bool)
    flags: np.ndarray = at_level & (np.cumsum(at_level) <= ANCHOR_RUNS)
    return flags
