"""Compares a few calls by alternating rounds, so that a change of the clock affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from maskbench.timing.clock import Clock
from maskbench.timing.statistics import relative_median_ci

Key = TypeVar("Key")
MIN_ROUNDS, MAX_ROUNDS = 6, 60
MIN_GAIN = 0.005  # beyond the interval: two processes differ by about as much


class Gain(NamedTuple):
    """How much faster a call is than the default.

    `value` is the median over pairs of rounds of the default's time divided by the call's,
    `interval` the half-width of its 95 % confidence interval, relative to it.
    """

    value: float
    interval: float

    @property
    def is_significant(self) -> bool:
        """Whether the call is faster by more than its interval and `MIN_GAIN`."""
        return self.value * (1 - self.interval) > 1 + MIN_GAIN


def time_alternately(
    calls: Mapping[Key, Callable[[], object]], clock: Clock, max_seconds: float
) -> dict[Key, list[float]]:
    """Device times in seconds of all calls, one round of each after the other.

    There are `MAX_ROUNDS` rounds of each, or fewer if they take longer than `max_seconds` of wall
    time, but at least `MIN_ROUNDS`.
    """
    host_s = {}
    for key, call in calls.items():
        dry_run = clock.size_blocking_kernel(call)
        host_s[key] = dry_run.host_s if dry_run else 0.0
    clock.size_blocking_kernel(calls[max(host_s, key=host_s.__getitem__)])  # one size for all
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    start = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - start > max_seconds:
            break
        for key, call in calls.items():
            seconds[key].append(clock.round(call)[0])
    return seconds


def gain(default_s: Sequence[float], seconds: Sequence[float]) -> Gain:
    """The gain of a call, from rounds that alternated with the default's."""
    ratios = [default / own for default, own in zip(default_s, seconds, strict=True)]
    return Gain(statistics.median(ratios), relative_median_ci(ratios))


def by_median(seconds: Mapping[Key, Sequence[float]]) -> list[Key]:
    """The keys, the shortest median first."""
    return sorted(seconds, key=lambda key: statistics.median(seconds[key]))
