"""How many rounds a cell needs, and the statistics of its rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

TARGET_CI = 0.005  # half-width of the 95 % confidence interval of the median, over the median
NOISY_ABOVE = 0.05  # the same of a cell whose median says little
TYPICAL_ROUNDS, MAX_ROUNDS = 20, 1000
Z_95 = statistics.NormalDist().inv_cdf(0.975)
NORMAL_IQR = 1.349  # the inter-quartile range of a normal distribution, over sigma
NORMAL_MEDIAN_SE = 1.2533  # sqrt(pi / 2): standard error of its median, over sigma / sqrt(n)
# Factor on the number of rounds that a normal distribution needs. The interval by order statistics
# is a fifth wider than the normal one, and a pilot has too few rounds to give sigma precisely.
ROUNDS_MARGIN = 4
MIN_MODE_GAP = 0.01  # between two modes, over the median: smaller gaps hardly move the median


def inter_quartile_range(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The 75th percentile minus the 25th."""
    # scipy.stats takes 0.6 s to import, and the process that only supervises does not need it.
    from scipy.stats import iqr

    return float(iqr(values))


def relative_median_ci(seconds: Sequence[float]) -> float:
    """Half-width of the 95 % confidence interval of the median, relative to the median.

    The interval is by order statistics (scipy.stats.quantile_test). It does not exist for fewer
    than 6 rounds: the result then falls back to half the range.
    """
    from scipy.stats import quantile_test  # here for the same reason

    low, high = quantile_test(seconds, q=statistics.median(seconds)).confidence_interval(0.95)
    if not (isfinite(low) and isfinite(high)):
        low, high = min(seconds), max(seconds)
    return float((high - low) / 2 / statistics.median(seconds))


def is_bimodal(seconds: Sequence[float]) -> bool:
    """Whether the times fall into two groups, so that their median says little.

    Each group has at least a fifth of the times. The gap between the groups is larger than 1 % of
    the median and larger than the sum of the groups' inter-quartile ranges. False for fewer than
    `TYPICAL_ROUNDS` times, which are too few to tell.
    """
    if len(seconds) < TYPICAL_ROUNDS:
        return False
    times, min_size = np.sort(seconds), ceil(len(seconds) / 5)  # smaller groups are outliers
    gaps = np.diff(times)[min_size - 1 : len(times) - min_size]
    split = min_size + int(gaps.argmax())
    spread = inter_quartile_range(times[:split]) + inter_quartile_range(times[split:])
    return bool(gaps.max() > max(MIN_MODE_GAP * float(np.median(times)), spread))


def required_rounds(
    seconds: Sequence[float], round_wall_s: float, min_rounds: int, max_seconds: float
) -> int:
    """The number of rounds that brings the confidence interval of the median to `TARGET_CI`.

    The median of n normal values has the standard error 1.2533 sigma / sqrt(n). sigma is estimated
    from the inter-quartile range of the pilot's times.

    Parameters
    ----------
    seconds
        The times of the pilot's rounds.
    round_wall_s
        The wall time of one round, in seconds.
    min_rounds
        The least number of rounds, whatever the time they take.
    max_seconds
        The wall time that all rounds may take, in seconds.

    Returns
    -------
    int
        Between `TYPICAL_ROUNDS` and `MAX_ROUNDS`, no more than fit into `max_seconds`, but never
        less than `min_rounds`.
    """
    sigma = inter_quartile_range(seconds) / NORMAL_IQR
    needed = (NORMAL_MEDIAN_SE * Z_95 * sigma / (TARGET_CI * statistics.median(seconds))) ** 2
    affordable = int(max_seconds / round_wall_s)
    wanted = max(ceil(ROUNDS_MARGIN * needed), TYPICAL_ROUNDS)
    return max(min_rounds, min(wanted, MAX_ROUNDS, affordable))


def sm_clock_per_round(stamps: NDArray[np.int64]) -> NDArray[np.float64]:
    """The SM clock of each round in Hz, the median over the SMs; NaN if it is unknown.

    Parameters
    ----------
    stamps
        [rounds, 2 (before, after), programs, 3 (SM, cycles, ns)], from `SMCycleCounter.read`.

    Notes
    -----
    The GPU may run a program of a stamp on any SM, usually one program on each. The counters of
    two SMs cannot be subtracted: the clock of a round is unknown if its two stamps ran on
    different SMs.
    """
    order = stamps[..., 0].argsort(axis=-1, kind="stable")
    by_sm = np.take_along_axis(stamps, order[..., None], axis=-2)
    begin, end = by_sm[:, 0], by_sm[:, 1]
    same_sms = (begin[..., 0] == end[..., 0]).all(axis=-1)
    passed = end - begin
    hz = np.median(passed[..., 1] / passed[..., 2].clip(min=1), axis=-1) * 1e9
    return np.where(same_sms, hz, np.nan)


def cycle_statistics(
    seconds: Sequence[float], sm_clock_hz: NDArray[np.float64]
) -> dict[str, float | bool | None]:
    """Statistics of the SM cycles that a call takes, as fields of a saved run.

    Cycles repeat better than seconds: between processes the SM clock changes by more than the
    cycles of a kernel. The clock also changes within a process. The times then have two modes, and
    the cycles one mode.

    Parameters
    ----------
    seconds
        The time of each round.
    sm_clock_hz
        The SM clock of each round in Hz, NaN where unknown; empty on a CPU.

    Returns
    -------
    dict
        "call_clock_mhz" (the median SM clock during the calls), "cycles" (the median),
        "cycles_interval" (see `relative_median_ci`), all None if no clock is known, and
        "two_modes_by_clock" (the times are bimodal, the cycles are not).
    """
    if np.isnan(sm_clock_hz).all():  # also if it is empty
        unknown: dict[str, float | bool | None] = dict.fromkeys(
            ("call_clock_mhz", "cycles", "cycles_interval")
        )
        return {**unknown, "two_modes_by_clock": False}
    cycles = list((np.array(seconds) * sm_clock_hz)[~np.isnan(sm_clock_hz)])
    return {
        "call_clock_mhz": float(np.nanmedian(sm_clock_hz)) / 1e6,
        "cycles": float(np.median(cycles)),
        "cycles_interval": relative_median_ci(cycles),
        "two_modes_by_clock": is_bimodal(seconds) and not is_bimodal(cycles),
    }
