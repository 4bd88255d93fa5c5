"""Detects when the level of a cell's time changed and stayed changed, and slow drift."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import ruptures

from reports.noise import noise_within_levels, usual_runs
from reports.thresholds import EFFECT, NOISE_FLOOR

MIN_RUNS_PER_LEVEL = 3
MIN_RUNS_AT_END = 2  # of the last level
STEPS_OF_DRIFT = 3  # or more in one direction may be slow drift
ENDS = 5  # runs at each end of a history that show its drift
DRIFT_ERRORS = 4  # drift must exceed this many standard errors


def detect_steps(xs: np.ndarray) -> list[int]:
    """The indices at which a new level begins.

    PELT (ruptures, https://centre-borelli.github.io/ruptures-docs) finds the levels, with a
    penalty of 3 log(n) variances. A linear kernel has the cost of the squared deviations, and
    ruptures computes it in C. Outliers are left out. A step counts if it is at least EFFECT.
    Several in one direction that vanish with a linear trend are slow drift, and no steps.

    Parameters
    ----------
    xs
        Logarithms of times, oldest first.
    """
    kept = np.flatnonzero(usual_runs(xs))
    xs = np.asarray(xs, float)[kept]
    steps = _levels(xs)
    jumps = [
        np.median(xs[edge : edge + 3]) - np.median(xs[max(edge - 3, 0) : edge]) for edge in steps
    ]
    if len(steps) >= STEPS_OF_DRIFT and (np.min(jumps) > 0 or np.max(jumps) < 0):
        runs = np.arange(len(xs))
        if not _levels(xs - np.polyval(np.polyfit(runs, xs, 1), runs)):
            return []
    return [int(kept[edge]) for edge in steps]


def _levels(xs: np.ndarray) -> list[int]:
    """The indices at which new levels begin."""
    if len(xs) < 2 * MIN_RUNS_PER_LEVEL:
        return []
    noise = max(noise_within_levels(xs), NOISE_FLOOR)
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_RUNS_PER_LEVEL)
    edges = [0, *search.fit(xs).predict(pen=3 * np.log(len(xs)) * noise**2)]
    placed = [
        _placed(xs, start, edge, end)
        for start, edge, end in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    return [edge for edge in placed if edge is not None]


def _placed(xs: np.ndarray, start: int, edge: int, end: int) -> int | None:
    """Where the step near `edge` is; None if it is too small.

    The levels before and after it last from `start` and until `end`.
    """
    before, after = np.median(xs[start:edge]), np.median(xs[edge:end])
    while edge < end and abs(xs[edge] - before) < abs(xs[edge] - after):
        edge += 1
    while edge > start + 1 and abs(xs[edge - 1] - after) < abs(xs[edge - 1] - before):
        edge -= 1
    if end - edge < (MIN_RUNS_AT_END if end == len(xs) else MIN_RUNS_PER_LEVEL):
        return None
    jump = np.median(xs[edge:end]) - np.median(xs[start:edge])
    return edge if abs(jump) >= np.log1p(EFFECT) else None


def drift(xs: np.ndarray, steps: list[int]) -> float:
    """The change of log t from the first runs to the last that no step explains; 0 if none.

    Parameters
    ----------
    xs
        Logarithms of times, oldest first.
    steps
        The indices at which `detect_steps` found new levels.
    """
    if len(xs) < 2 * ENDS:
        return 0.0
    parts = pairwise([0, *steps, len(xs)])
    change = sum(_end(xs[start:end]) - _end(xs[start:end][::-1]) for start, end in parts)
    error = noise_within_levels(xs) * np.sqrt(2 / ENDS * (len(steps) + 1))
    is_real = abs(change) >= max(np.log1p(EFFECT), DRIFT_ERRORS * max(error, NOISE_FLOOR / ENDS))
    return float(change) if is_real else 0.0


def _end(xs: np.ndarray) -> float:
    """The level at the end of a part of a history."""
    return float(np.median(xs[-ENDS:]))
