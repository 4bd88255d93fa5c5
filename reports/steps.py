"""Detects when the level of a cell's time changed and stayed changed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import ruptures

from reports.thresholds import NOISE_FLOOR

MIN_RUNS_PER_LEVEL = 3
SD_OVER_MAD = 1.4826  # of a normal distribution


def noise_within_levels(xs: np.ndarray) -> float:
    """The standard deviation of `xs` around its level.

    It is estimated from successive differences, which a step hardly changes.
    """
    return float(SD_OVER_MAD * float(np.median(np.abs(np.diff(xs)))) / np.sqrt(2))


def detect_steps(xs: np.ndarray, min_change: float) -> list[int]:
    """The indices at which a new level begins.

    PELT (ruptures, https://centre-borelli.github.io/ruptures-docs) finds the levels, with a
    penalty of 3 log(n) variances. A linear kernel has the cost of the squared deviations, and
    ruptures computes it in C.

    Parameters
    ----------
    xs
        Logarithms of times, oldest first.
    min_change
        The smallest relative change between the medians of two levels that counts.
    """
    if len(xs) < 2 * MIN_RUNS_PER_LEVEL:
        return []
    noise = max(noise_within_levels(xs), NOISE_FLOOR)
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_RUNS_PER_LEVEL)
    edges = [0, *search.fit(np.asarray(xs, float)).predict(pen=3 * np.log(len(xs)) * noise**2)]
    levels = [np.median(xs[start:end]) for start, end in pairwise(edges)]
    jumps = np.abs(np.diff(levels))
    smallest = np.log1p(min_change)
    return [int(edge) for edge, jump in zip(edges[1:-1], jumps, strict=True) if jump >= smallest]
