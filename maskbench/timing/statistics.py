"""How many rounds a cell needs, and what they say: statistics for clocks.py."""

from __future__ import annotations

import statistics
from math import ceil, isfinite

import numpy as np
from scipy.stats import iqr, quantile_test

TARGET_CI = 0.005  # half-width of the 95 % confidence interval of the median, of the median
TYPICAL_ROUNDS, MAX_ROUNDS = 20, 1000
NORMAL_95 = statistics.NormalDist().inv_cdf(0.975)


def relative_median_ci(seconds: list[float]) -> float:
    """Half-width of the 95 % confidence interval of the median, relative to the median.

    By order statistics (scipy.stats.quantile_test). Of fewer than 6 rounds there is no such
    interval: half their range stands in.
    """
    low, high = quantile_test(seconds, q=statistics.median(seconds)).confidence_interval(0.95)
    if not (isfinite(low) and isfinite(high)):
        low, high = min(seconds), max(seconds)
    return float((high - low) / 2 / statistics.median(seconds))


def is_bimodal(seconds: list[float]) -> bool:
    """Whether times fall into two groups, so that their median says little.

    Each group has a fifth of them at least, and the gap between is more than 1 % of the median
    and than the inter-quartile ranges of both together. Of fewer than USUAL_ROUNDS none can say.
    """
    if len(seconds) < TYPICAL_ROUNDS:
        return False
    times, fewest = np.sort(seconds), ceil(len(seconds) / 5)
    gaps = np.diff(times)[fewest - 1 : len(times) - fewest]
    cut = fewest + int(gaps.argmax())
    spread = iqr(times[:cut]) + iqr(times[cut:])
    return bool(gaps.max() > max(0.01 * float(np.median(times)), spread))


def required_rounds(
    seconds: list[float], round_wall: float, fewest: int, max_seconds: float
) -> int:
    """Rounds that bring the interval to TARGET, judged by a pilot's times.

    The median of n normal values has the standard error 1.2533 sigma / sqrt(n), and the interval
    by order statistics is a fifth wider. sigma is taken from the pilot's inter-quartile range;
    as that is of few rounds, four times as many are run. Between USUAL_ROUNDS and
    MOST_ROUNDS, and within `max_seconds` of `round_wall` seconds each, but never less than
    `fewest`.
    """
    sigma = iqr(seconds) / 1.349
    needed = (1.2533 * NORMAL_95 * sigma / (TARGET_CI * statistics.median(seconds))) ** 2
    affordable = int(max_seconds / round_wall)
    return max(fewest, min(max(ceil(4 * needed), TYPICAL_ROUNDS), MAX_ROUNDS, affordable))


def sm_clock_per_round(stamps: np.ndarray) -> np.ndarray:
    """The SM clock of each round in Hz, the median over the SMs.

    `stamps` is [rounds, begin and end, programs, (SM, its cycles, ns)]. The programs of a stamp
    run on any SM each, as a rule on one of their own: NaN for a round whose two stamps are of
    different SMs.
    """
    order = stamps[..., 0].argsort(axis=-1, kind="stable")
    ordered = np.take_along_axis(stamps, order[..., None], axis=-2)
    begin, end = ordered[:, 0], ordered[:, 1]
    same = (begin[..., 0] == end[..., 0]).all(axis=-1)
    passed = end - begin
    hz = np.median(passed[..., 1] / passed[..., 2].clip(min=1), axis=-1) * 1e9
    return np.where(same, hz, np.nan)


def cycle_statistics(seconds: list[float], hz: np.ndarray) -> dict[str, float | bool | None]:
    """The median SM clock during the calls, the cycles that a call took, and their interval.

    Cycles repeat better than s: a card's clock moves between processes by more than a kernel's
    cycles do. It also moves within one: then times have two modes, which cycles have not.
    """
    if np.isnan(hz).all():  # or there are none, as on a CPU
        nothing = dict.fromkeys(("call_clock_mhz", "cycles", "cycles_interval"))
        return {**nothing, "two_modes_by_clock": False}
    cycles = list((np.array(seconds) * hz)[~np.isnan(hz)])
    return {
        "call_clock_mhz": float(np.nanmedian(hz)) / 1e6,
        "cycles": float(np.median(cycles)),
        "cycles_interval": relative_median_ci(cycles),
        "two_modes_by_clock": is_bimodal(seconds) and not is_bimodal(cycles),
    }
