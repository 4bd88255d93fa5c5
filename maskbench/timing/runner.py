"""How many rounds a cell gets, and what is saved beside its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from maskbench.timing.clock import DeviceClock, HostClock
from maskbench.timing.statistics import (
    TYPICAL_ROUNDS,
    cycle_statistics,
    is_bimodal,
    relative_median_ci,
    required_rounds,
)

PILOT_ROUNDS, MIN_ROUNDS = 10, 6
PILOT_SHARE = 0.2  # of the seconds that a cell's rounds may take
CPU_SHARE = 1 / 3  # of --benchmark-max-time: a CPU cell takes longer to set up than it is worth


def pilot(clock: DeviceClock | HostClock, call, affordable: float) -> tuple[list, list, float]:
    """Device s and host s of a few rounds, and the wall s of one.

    Stops early once it has taken `affordable` s: of calls that long few rounds can be had.
    """
    times, hosts, began = [], [], time.perf_counter()
    while len(times) < PILOT_ROUNDS:
        device, host = clock.round(call)
        times.append(device)
        hosts.append(host)
        if time.perf_counter() - began > affordable:
            break
    return times, hosts, (time.perf_counter() - began) / len(times)


def measure(benchmark, call: Callable[[], object], clock: DeviceClock | HostClock, options) -> dict:
    """Time `call` with pytest-benchmark's `benchmark` and return what belongs beside the time.

    `options` is pytest's config: --benchmark-min-rounds and --benchmark-max-time bound the
    rounds. Returns an empty dict under --benchmark-disable, where the call just runs once.
    """
    if not benchmark.enabled:
        benchmark.pedantic(call)
        return {}
    max_seconds = float(options.getoption("benchmark_max_time"))
    max_seconds *= CPU_SHARE if isinstance(clock, HostClock) else 1
    fewest = max(MIN_ROUNDS, options.getoption("benchmark_min_rounds"))
    first = clock.size_blocking_kernel(call)
    synchronizes = first and first.host > first.wall / 2  # for the device: the pilot's to notice
    if first and first.wall * TYPICAL_ROUNDS > max_seconds and not synchronizes:
        # as many rounds as there is time for, whatever a pilot would say
        times, hosts, wall = [first.wall], [first.host], first.wall
    else:
        times, hosts, wall = pilot(clock, call, PILOT_SHARE * max_seconds)
        if clock.blocker_too_short(len(times)):
            times, hosts, wall = pilot(clock, call, PILOT_SHARE * max_seconds)
    rounds = required_rounds(times, wall, fewest, max_seconds)
    clock.reset_counters(rounds)
    before = clock.clock_state()
    try:
        benchmark.pedantic(call, setup=clock.flush_and_block, rounds=rounds)
        after = clock.clock_state()
    except BaseException:
        benchmark.has_error = True  # pytest-benchmark then saves no time
        raise
    median, host = benchmark.stats["median"], statistics.median(hosts)
    return {
        "interval": relative_median_ci(benchmark.stats["data"]),
        "two_modes": is_bimodal(benchmark.stats["data"]),
        "host_us": host * 1e6,
        "host_bound": isinstance(clock, DeviceClock) and host > median,
        "late_rounds": clock.late_rounds,
        "peak_memory_bytes": first and first.peak,
        "sm_clock_mhz": [before.sm_clock_mhz, after.sm_clock_mhz],
        **cycle_statistics(benchmark.stats["data"], clock.sm_clock_hz()),
        "throttle": sorted({*before.throttle, *after.throttle}),
    }
