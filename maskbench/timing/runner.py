"""How many rounds a cell gets, and the fields that are saved beside its time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.timing.clock import Clock
from maskbench.timing.device_clock import DryRun
from maskbench.timing.statistics import (
    TYPICAL_ROUNDS,
    cycle_statistics,
    is_bimodal,
    relative_median_ci,
    required_rounds,
)

PILOT_ROUNDS = 10
MIN_ROUNDS = 6  # the confidence interval of the median does not exist for fewer
PILOT_SHARE = 0.2  # of the time that the rounds of a cell may take
SYNCHRONIZING_SHARE = 1 / 2  # of its wall time: a call with more host time waits for the device


class Pilot(NamedTuple):
    """The rounds from which the number of rounds is chosen: their times in seconds."""

    device_s: list[float]
    host_s: list[float]
    round_wall_s: float  # of one round, with its flush and blocking kernel


def run_pilot(clock: Clock, call: Callable[[], object], max_seconds: float) -> Pilot:
    """Run up to `PILOT_ROUNDS` rounds; stop after the first that ends beyond `max_seconds`."""
    device_times: list[float] = []
    host_times: list[float] = []
    start = time.perf_counter()
    while len(device_times) < PILOT_ROUNDS:
        device_s, host_s = clock.round(call)
        device_times.append(device_s)
        host_times.append(host_s)
        if time.perf_counter() - start > max_seconds:
            break
    round_wall_s = (time.perf_counter() - start) / len(device_times)
    return Pilot(device_times, host_times, round_wall_s)


def choose_pilot(
    clock: Clock, call: Callable[[], object], dry_run: DryRun | None, max_seconds: float
) -> Pilot:
    """Run a pilot, twice if its blocking kernel was too short; the dry run instead if it is long.

    If fewer than `TYPICAL_ROUNDS` rounds fit into `max_seconds`, the call gets as many as fit, and
    a pilot could not change that. A call that seems to wait for the device still gets a pilot,
    because only that can remove its blocking kernel (see `DeviceClock.blocker_too_short`).
    """
    if dry_run:
        synchronizes = dry_run.host_s > SYNCHRONIZING_SHARE * dry_run.wall_s
        if dry_run.wall_s * TYPICAL_ROUNDS > max_seconds and not synchronizes:
            return Pilot([dry_run.wall_s], [dry_run.host_s], dry_run.wall_s)
    pilot = run_pilot(clock, call, PILOT_SHARE * max_seconds)
    if clock.blocker_too_short(len(pilot.device_s)):
        pilot = run_pilot(clock, call, PILOT_SHARE * max_seconds)
    return pilot


class InvalidTime(Exception):
    """The clock returned a time that no call can take."""


def recorded_seconds(benchmark: BenchmarkFixture) -> list[float]:
    """The times of the rounds in seconds. Raises InvalidTime if one is not above 0 and finite."""
    if benchmark.stats is None:
        raise InvalidTime("pytest-benchmark recorded no rounds")
    return valid_seconds(benchmark.stats["data"])


def valid_seconds(seconds: list[float]) -> list[float]:
    """The times themselves. Raises InvalidTime if one is not above 0 and finite."""
    invalid = [s for s in seconds if not (math.isfinite(s) and s > 0)]
    if invalid or not seconds:
        found = (
            f"{len(invalid)} of {len(seconds)} rounds took {invalid[0]} s" if invalid else "none"
        )
        raise InvalidTime(f"the clock is wrong: {found}")
    return seconds


def max_round_seconds(config: pytest.Config, clock: Clock) -> float:
    """The wall time in seconds that the rounds of a cell may take."""
    return float(config.getoption("benchmark_max_time")) * clock.time_budget_share


def median_times(
    clock: Clock, call: Callable[[], object], max_seconds: float
) -> tuple[float, float]:
    """Time `call` in rounds that pytest-benchmark does not record.

    Returns
    -------
    tuple
        The medians of its device time and of the host's time to enqueue it, in seconds.

    Raises
    ------
    InvalidTime
        If a device time is not above 0 and finite.
    """
    dry_run = clock.size_blocking_kernel(call)
    pilot = choose_pilot(clock, call, dry_run, max_seconds)
    rounds = required_rounds(pilot.device_s, pilot.round_wall_s, MIN_ROUNDS, max_seconds)
    clock.reset_counters(rounds)
    timed = [clock.round(call) for _ in range(rounds)]
    device_s = valid_seconds([device for device, _ in timed])
    return statistics.median(device_s), statistics.median(host for _, host in timed)


def accept(result: object) -> None:
    """The check of a call whose result needs none."""


def measure(
    benchmark: BenchmarkFixture,
    call: Callable[[], object],
    clock: Clock,
    config: pytest.Config,
    check: Callable[[object], None] = accept,
) -> dict[str, object]:
    """Time `call` with pytest-benchmark.

    Parameters
    ----------
    benchmark
        The fixture of pytest-benchmark, with `clock.timer` as its timer.
    call
        The function to be timed. It has run before, so that nothing is compiled here.
    clock
        The clock of the device, warmed up.
    config
        Its --benchmark-min-rounds and --benchmark-max-time bound the number of rounds.
    check
        Called with the result of the last round; raises if it is wrong.

    Returns
    -------
    dict
        The fields to be saved beside the time. Empty with --benchmark-disable, where `call` runs
        once.

    Raises
    ------
    BaseException
        Whatever `call` or `check` raises, or InvalidTime. pytest-benchmark then saves no time.
    """
    if not benchmark.enabled:
        check(benchmark.pedantic(call))  # type: ignore[no-untyped-call]  # it has no annotations
        return {}
    max_seconds = max_round_seconds(config, clock)
    min_rounds = max(MIN_ROUNDS, config.getoption("benchmark_min_rounds"))
    dry_run = clock.size_blocking_kernel(call)
    pilot = choose_pilot(clock, call, dry_run, max_seconds)
    rounds = required_rounds(pilot.device_s, pilot.round_wall_s, min_rounds, max_seconds)
    clock.reset_counters(rounds)
    before = clock.clock_state()
    try:
        result = benchmark.pedantic(  # type: ignore[no-untyped-call]
            call, setup=clock.flush_and_block, rounds=rounds
        )
        after = clock.clock_state()
        seconds = recorded_seconds(benchmark)
        check(result)
    except BaseException:
        benchmark.has_error = True  # pytest-benchmark then saves no time
        raise
    host_s = statistics.median(pilot.host_s)
    return {
        "interval": relative_median_ci(seconds),
        "two_modes": is_bimodal(seconds),
        "host_us": host_s * 1e6,
        "host_bound": clock.is_device_time and host_s > statistics.median(seconds),
        "late_rounds": clock.late_rounds,
        "peak_memory_bytes": dry_run and dry_run.peak_bytes,
        "sm_clock_mhz": [before.sm_clock_mhz, after.sm_clock_mhz],
        **cycle_statistics(seconds, clock.sm_clock_hz()),
        "throttle": sorted({*before.throttle, *after.throttle}),
    }
