"""The noise of one cell between runs, from a history that may have steps, drift and outliers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from reports.thresholds import SD_OVER_MAD

NEIGHBOURS = 5  # runs in the moving median
MIN_RUNS_FOR_OUTLIERS = 10
OUTLIER_SDS, MIN_OUTLIER = 5, 0.008
MIN_NIGHTS = 4  # whose successive differences show the noise between nights
DIFFERENCE_EFFICIENCY = 2 / 3  # of successive differences as an estimate of a variance


class Noise(NamedTuple):
    """Variances of the logarithm of a cell's time, with their degrees of freedom."""

    process: float  # between the processes of one night
    process_degrees: float
    night: float  # between the means of nights
    night_degrees: float


def noise_within_levels(x: np.ndarray) -> float:
    """The standard deviation of `x` around its level.

    It is estimated from successive differences, which a step hardly changes.
    """
    return float(SD_OVER_MAD * float(np.median(np.abs(np.diff(x)))) / np.sqrt(2))


def usual_runs(x: np.ndarray) -> np.ndarray:
    """Which runs are no outliers, as flags; all of them if there are few runs.

    A run is an outlier if it is far from the moving median, which follows a step.
    """
    if len(x) < MIN_RUNS_FOR_OUTLIERS:
        return np.ones(len(x), bool)
    apart = np.abs(x - median_filter(x, size=NEIGHBOURS, mode="mirror"))
    usual: np.ndarray = apart <= max(MIN_OUTLIER, OUTLIER_SDS * noise_within_levels(x))
    return usual


def measure_noise(x: np.ndarray, nights: np.ndarray, may_have_steps: bool = True) -> Noise:
    """The noise between processes and between nights.

    Parameters
    ----------
    x
        Logarithms of the times, oldest first, shape [runs].
    nights
        The number of each run's night, shape [runs].
    may_have_steps
        Whether two nights that differ may be before and after a step. If so, the noise between
        fewer than four nights is unknown.
    """
    usual = usual_runs(x)
    x, nights = x[usual], nights[usual]
    _, place, counts = np.unique(nights, return_inverse=True, return_counts=True)
    means = np.bincount(place, x) / counts
    process_degrees = len(x) - len(means)
    squares = float(np.sum(np.square(x - means[place])))
    process = squares / process_degrees if process_degrees else np.nan
    if len(means) < MIN_NIGHTS:
        if may_have_steps or len(means) < 2:
            return Noise(process, process_degrees, np.nan, 0.0)
        return Noise(process, process_degrees, float(np.var(means, ddof=1)), len(means) - 1)
    return Noise(process, process_degrees, *_variance_between(means))


def _variance_between(means: np.ndarray) -> tuple[float, float]:
    """The variance of the means of nights and its degrees of freedom.

    It is estimated from successive differences. Large ones are steps and do not count; drift
    changes each a little. At least three differences are needed: the limit is made of their median,
    and it must not be that of a step.
    """
    differences = np.abs(np.diff(means))
    limit = max(MIN_OUTLIER, OUTLIER_SDS * SD_OVER_MAD * float(np.median(differences)))
    kept = differences[differences <= limit]
    return float(np.mean(np.square(kept))) / 2, DIFFERENCE_EFFICIENCY * len(kept)
