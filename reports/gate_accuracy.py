"""How often the gate is wrong, measured on real runs of unchanged code.

Each night is made of successive runs of one card. It is judged by the runs before it, those of
other cards among them; later runs are left out. Slower code is simulated: the times of one cell in
twenty are scaled, and the clock is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import beta
from tqdm import tqdm

from maskbench.reading import read_run
from reports.baseline import CellHistory, Times
from reports.comparability import Run
from reports.gate import cell_statuses, histories_of
from reports.levels import MIN_RUNS
from reports.markdown import percent
from reports.nights import by_night
from reports.other_methods import ON_MEDIANS, mann_whitney
from reports.verdict import Status

RUNS_PER_NIGHT = 3
SCALES = {1.015: None, 1.02: 0.95, 1.03: 0.99, 1.05: 0.99}  # scale: share of cells to be found
STRIDE = 20  # every 20th cell is scaled at a time, so that the noise of the suite hardly changes
DRIFT, DRIFT_NIGHTS = 1.03, 30


@dataclass(frozen=True)
class Trial:
    """A night of unchanged code with the runs before it."""

    night: list[Run]
    history: list[Run]

    @property
    def knows_card(self) -> bool:
        """Whether the baseline has enough runs of the night's card."""
        card = self.night[-1].gpu_uuid
        return sum(run.gpu_uuid == card for run in self.history) >= MIN_RUNS


def timers(run: Run) -> set[str]:
    """The timers of a run's cells: times of two timers are not comparable."""
    return set(run.timed["timer"])


def trials(runs: Sequence[Run], size: int) -> list[Trial]:
    """Nights of `size` successive runs of one card with at least MIN_RUNS runs before them.

    No run is in two nights.
    """
    found = []
    for card in dict.fromkeys(run.gpu_uuid for run in runs):
        own = [run for run in runs if run.gpu_uuid == card]
        for start in range(len(own) % size, len(own) - size + 1, size):
            night = own[start : start + size]
            history = [
                run
                for run in runs
                if run.saved < night[0].saved and timers(run) == timers(night[0])
            ]
            if len(history) >= MIN_RUNS:
                found.append(Trial(night, by_night(history)))
    return found


def at_most(hits: int, count: int) -> float:
    """The upper 95 % bound of a share, of which `hits` of `count` were seen (Clopper, Pearson).

    NaN if `count` is 0.
    """
    if count == 0:
        return math.nan
    return float(beta.ppf(0.95, hits + 1, count - hits)) if hits < count else 1.0


def false_alarms(runs: Sequence[Run]) -> pd.DataFrame:
    """How often the gate reports a regression where nothing changed."""
    rows = []
    for size in (RUNS_PER_NIGHT, 1):
        found = trials(runs, size)
        for known in (True, False):
            those = [trial for trial in found if trial.knows_card == known]
            judged = [
                cell_statuses(histories_of(trial.night, trial.history, [])) for trial in those
            ]
            red = sum(bool((cells["status"] == Status.REGRESSION).any()) for cells in judged)
            cells = sum(len(cells) for cells in judged)
            slow = sum(int((cells["status"] == Status.REGRESSION).sum()) for cells in judged)
            clock = sum(int((cells["status"] == Status.SLOWER_CLOCK).sum()) for cells in judged)
            rows.append(
                {
                    "runs a night": size,
                    "card": "seen before" if known else "not seen before",
                    "nights": len(those),
                    "red nights": red,
                    "at most (95 %)": at_most(red, len(those)),
                    "cells judged": cells,
                    "red cells": slow,
                    "called slower clock": clock,
                }
            )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def slower(histories: list[CellHistory], factors: Mapping[str, float]) -> list[CellHistory]:
    """The cells as if some of them took longer in this night, by a factor each."""
    return [
        replace(one, new=replace(one.new, log_s=one.new.log_s + np.log(factors[one.name])))
        if one.name in factors
        else one
        for one in histories
    ]


def detection(runs: Sequence[Run]) -> pd.DataFrame:
    """The share of scaled cells that are found, and of cells scaled by their detectable change.

    The scale of the latter is NaN. So is the target of a scale for which the share is only stated.
    """
    found = [trial for trial in trials(runs, RUNS_PER_NIGHT) if trial.knows_card]
    hits: dict[float, list[bool]] = {scale: [] for scale in SCALES}
    stated: list[bool] = []
    for trial in tqdm(found, desc="nights", disable=None):
        histories = histories_of(trial.night, trial.history, [])
        plain = cell_statuses(histories)
        names = list(plain.index)
        for scale, seen in hits.items():
            for start in range(min(STRIDE, len(names))):
                seen += _found(histories, dict.fromkeys(names[start::STRIDE], scale))
        for start in range(min(STRIDE, len(names))):
            chosen = plain["detectable"].iloc[start::STRIDE].dropna()
            stated += _found(histories, dict(1 + chosen))
    rows = [
        {
            "scale": scale,
            "target": math.nan if (target := SCALES[scale]) is None else target,
            "found": np.mean(seen) if seen else math.nan,
            "cells": len(seen),
        }
        for scale, seen in hits.items()
    ]
    share = np.mean(stated) if stated else math.nan
    rows.append({"scale": math.nan, "target": 0.95, "found": share, "cells": len(stated)})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _found(histories: list[CellHistory], factors: Mapping[str, float]) -> list[bool]:
    """Which of the cells are a regression if they take so many times as long."""
    cells = cell_statuses(slower(histories, factors)).loc[list(factors)]
    tested = cells[cells["change"].notna()]
    return [status == Status.REGRESSION for status in tested["status"]]


def drift(runs: Sequence[Run]) -> str:
    """The share of cells that are red after 30 nights of slow drift.

    The noise of each night is that of real runs: the deviations of one card's runs from their mean,
    drawn with a fixed seed.
    """
    cards = pd.Series([run.gpu_uuid for run in runs]).value_counts()
    own = [
        run for run in runs if run.gpu_uuid == cards.index[0] and timers(run) == timers(runs[-1])
    ]
    draw = np.random.default_rng(0)
    nights = [own[i] for i in draw.integers(0, len(own), RUNS_PER_NIGHT * DRIFT_NIGHTS)]
    labels = np.repeat(np.arange(DRIFT_NIGHTS), RUNS_PER_NIGHT)
    growth = np.log(DRIFT) * labels / (DRIFT_NIGHTS - 1)
    histories = []
    for name in set.intersection(*(set(run.rows) for run in own)):
        rows = [run.rows[name] for run in nights]
        times = Times(
            np.log([row["median_s"] for row in rows]) + growth,
            np.log([row["clock_mhz"] for row in rows]),
            labels,
            np.full(len(rows), "", object),
        )
        last = labels == DRIFT_NIGHTS - 1
        past = times.where(~last)
        accepted = np.ones(len(past), bool)
        histories.append(CellHistory(name, rows[-1], (), times.where(last), past, accepted, None))
    red = (cell_statuses(histories)["status"] == Status.REGRESSION).tolist()
    return (
        f"After {DRIFT_NIGHTS} nights of drift to x{DRIFT:.2f}, {percent(red, 1)} of"
        f" {len(red)} cells are red (target: found)."
    )


def side_by_side(runs: Sequence[Run]) -> pd.DataFrame:
    """The gate and other methods on the same nights."""
    found = [trial for trial in trials(runs, RUNS_PER_NIGHT) if trial.knows_card]
    scales = [1.0, *SCALES]
    counts: dict[str, dict[float, list[bool]]] = {}
    suites: dict[str, list[bool]] = {}
    for trial in tqdm(found, desc="methods", disable=None):
        histories = histories_of(trial.night, trial.history, [])
        for method, scale, hits in _verdicts(trial, histories, scales):
            counts.setdefault(method, {one: [] for one in scales})[scale] += hits
            if scale == 1.0:
                suites.setdefault(method, []).append(any(hits))
    rows = []
    for method, by_scale in counts.items():
        row = {"method": method, "red nights": sum(suites[method]), "nights": len(found)}
        row |= {
            "red cells" if scale == 1.0 else f"finds x{scale:.3f}".rstrip("0"): (
                float(np.mean(hits)) if hits else math.nan
            )
            for scale, hits in by_scale.items()
        }
        rows.append(row)
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _verdicts(
    trial: Trial, histories: list[CellHistory], scales: list[float]
) -> Iterator[tuple[str, float, list[bool]]]:
    """For each method and scale: which of the cells are called slower."""
    with_past = [one for one in histories if len(one.past) >= MIN_RUNS]
    before, last = (_rounds(run) for run in (trial.history[-1], trial.night[-1]))
    for scale in scales:
        found: list[bool] = []
        for start in range(STRIDE):
            names = [one.name for one in with_past][start::STRIDE]
            found += _found(histories, dict.fromkeys(names, scale))
        yield "this gate", scale, found
        for method, judge in ON_MEDIANS.items():
            yield (
                method,
                scale,
                [judge(np.exp(c.past.log_s), scale * np.exp(c.new.log_s)) for c in with_past],
            )
        yield (
            "Mann-Whitney on the rounds",
            scale,
            [
                mann_whitney(before[c.name], scale * last[c.name])
                for c in with_past
                if c.name in before and c.name in last
            ],
        )


def _rounds(run: Run) -> dict[str, np.ndarray]:
    """The seconds of each round, by cell."""
    return {
        cell["fullname"]: np.array(cell["data"])
        for cell in read_run(run.path).timed
        if "data" in cell
    }
