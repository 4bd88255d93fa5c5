"""The clock, the L2 flush and the rounds: nothing else in the suite measures.

What a time means: device time of the call alone, cold L2, warm code, on a card that was at work.
A round on CUDA is: write a buffer of twice the L2, keep the device busy for longer than the host
takes to enqueue the call, stamp the SMs' cycles, record an event, the call, record an event, stamp
again. On a CPU a round is the call between two readings of time.perf_counter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pynvml
import torch

from tests.rounds import (
    MOST_ROUNDS,
    USUAL_ROUNDS,
    in_cycles,
    interval,
    rates,
    rounds_for,
    two_modes,
)

PILOT_ROUNDS, FEWEST_ROUNDS = 10, 6
PILOT_SHARE = 0.2  # of the seconds that a cell's rounds may take
CPU_SHARE = 1 / 3  # of --benchmark-max-time: a CPU cell takes longer to set up than it is worth
LONG_CALL = 0.02  # s: of a longer one the host's time needs no second look
LONGEST_BLOCK = 20e-3  # s, of a blocker that grew as the host was late
HIGHEST_MHZ = 3000  # where NVML does not say how high the SM clock can go
WINDOW, LONGEST_WARM_UP = 1.0, 20.0  # s
STEADY, ALIKE = 0.001, 4  # of the SM clock, over so many windows


@dataclass(frozen=True)
class Mark:
    """A recorded CUDA event; the difference of two is the device time between them, in s.

    To take it ends the round: the second stamp is put on the stream, and the device waited for.
    """

    event: torch.cuda.Event
    clock: DeviceClock

    def __sub__(self, start: Mark) -> float:
        if start.event.query():  # reached before the whole call was enqueued: the device waited
            self.clock.was_late()
        self.clock.cycles.end()
        self.event.synchronize()
        return start.event.elapsed_time(self.event) / 1e3 - self.clock.overhead - self.clock.launch


class Prepared(NamedTuple):
    """What the calls before a pilot tell: s of one call and of its enqueueing, bytes at most."""

    wall: float
    host: float
    peak: int


class DeviceClock:
    """Device time by CUDA events, each round with a cold L2 behind a blocker.

    `overhead` is what an empty pair of events reads, in s, and `launch` what a pair around a
    kernel reads beyond that and the kernel's own time; both are taken off every time. Where
    `launch` is not known, the timer has another name: its times are not to be compared with others.
    """

    def __init__(self, device: torch.device, launch: float | None = None):
        from tests.cycles import Cycles  # Triton, which comes with torch for CUDA only

        self.device, self.overhead, self.launch, self.late_rounds = device, 0.0, 0.0, 0
        self.block_seconds, self.cycles, self.warm = 1e-3, Cycles(device, MOST_ROUNDS), False
        self.timer = self.cuda_event_timer if launch is None else self.cuda_kernel_timer
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(2 * l2_bytes, dtype=torch.int8, device=device)
        self.overhead = statistics.median(self.round(lambda: None)[0] for _ in range(100))
        self.launch = launch or 0.0

    def cuda_event_timer(self) -> Mark:
        """A timer for pytest-benchmark: records an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return Mark(event, self)

    def cuda_kernel_timer(self) -> Mark:
        """The same, where a kernel's launch is taken off."""
        return self.cuda_event_timer()

    def settle(self) -> None:
        """What precedes each round: flush the L2, then keep the device busy."""
        self.flush.zero_()
        # Private, as torch has no public way to keep a device busy for a given time without
        # heating it (seen on 2.11 and 2.13): spins for a number of SM clock cycles.
        torch.cuda._sleep(int(self.block_seconds * self.highest_hz))
        self.cycles.begin()

    def forget(self, rounds: int) -> None:
        """Count late rounds and cycles anew, the latter of so many rounds."""
        self.late_rounds = 0
        self.cycles.reset(rounds)

    def call_hz(self) -> np.ndarray:
        """The SM clock during each call since `forget`; NaN where it was not seen."""
        return rates(self.cycles.taken())

    def warm_up(self) -> None:
        """Keep the card at work until the clock that it holds under load is steady.

        In its first seconds from rest an H100 changed that clock by 3 % from cell to cell, where
        NVML saw nothing, and times went with it. Later the clock still moves, by 1 %.
        """
        a, began, seen = torch.randn(4096, 4096, device=self.device).half(), time.perf_counter(), []
        self.prepare(lambda: a @ a)
        while time.perf_counter() - began < LONGEST_WARM_UP:
            self.forget(MOST_ROUNDS)
            window = time.perf_counter()
            while time.perf_counter() - window < WINDOW:
                self.round(lambda: a @ a)
            seen = [*seen, np.nanmedian(self.call_hz())][-ALIKE:]
            if len(seen) == ALIKE and max(seen) - min(seen) < STEADY * max(seen):
                break
        self.warm = True

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """(device s, host s to enqueue) of one call."""
        self.settle()
        start, host = self.timer(), time.perf_counter()
        call()
        host = time.perf_counter() - host
        return self.timer() - start, host

    def prepare(self, call: Callable[[], object]) -> Prepared:
        """Set the blocker to outlast what the host takes to enqueue this call."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        hosts, first = [], time.perf_counter()
        while len(hosts) < 3 and time.perf_counter() - first < LONG_CALL:
            began = time.perf_counter()
            call()
            hosts.append(time.perf_counter() - began)
            torch.cuda.synchronize(self.device)  # idle for the next, as a call may wait for it
        wall, host = (time.perf_counter() - first) / len(hosts), statistics.median(hosts)
        # and the first stamp's launch, and more where it costs next to nothing: few rounds are
        # had of a long call, and on an H100 in most cells of 30 ms and longer one of them was late
        self.block_seconds = 1.5 * host + 100e-6 + wall / 50
        self.late_rounds = 0
        return Prepared(wall, host, torch.cuda.max_memory_allocated(self.device) - before)

    def was_late(self) -> None:
        """Counts a round in which the device waited for the host; the next blocker is longer.

        Hosts pause for milliseconds at times, longer than what any pilot has seen; on an H100
        most cells whose rounds were of two kinds were of rounds late and not late.
        """
        self.late_rounds += 1
        self.block_seconds = min(2 * self.block_seconds, max(self.block_seconds, LONGEST_BLOCK))

    def adapt(self, rounds: int) -> bool:
        """After a pilot of so many rounds: whether its times are of too short a blocker.

        Not where no more than a quarter were late: neither its median nor its quartiles see them.
        A call that waits for the device itself outlasts every blocker: it gets none, and what
        it takes is the time that its user waits, the host's part included.
        """
        late, self.late_rounds = self.late_rounds, 0
        if late == rounds:
            self.block_seconds = 0.0
        return late > rounds / 4

    @cached_property
    def highest_hz(self) -> float:
        """By it a spin lasts about as long as asked, or longer."""
        highest = self.ask(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM)
        return (highest or HIGHEST_MHZ) * 1e6

    @cached_property
    def _nvml(self):
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def ask(self, question: Callable, *arguments):
        """What NVML answers; None where this card, driver or partition has no answer."""
        try:
            return question(self._nvml, *arguments)
        except pynvml.NVMLError:
            return None

    def card(self) -> dict[str, object]:
        """The SM clock in MHz and the reasons for which the card holds it down now."""
        reasons = self.ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return {
            "sm_clock_mhz": self.ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            "throttle": [name for name, bit in THROTTLE.items() if reasons & bit],
        }

    def describe(self) -> dict[str, object]:
        """The card for machine_info: what has to be alike for two runs to be compared."""
        properties = torch.cuda.get_device_properties(self.device)
        milliwatts = self.ask(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        return {
            "device": "cuda",
            "gpu": properties.name,
            "gpu_uuid": str(properties.uuid),
            "gpu_count": torch.cuda.device_count(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_bytes": properties.total_memory,
            "power_limit_w": milliwatts and milliwatts / 1e3,
            "driver": self.ask(lambda card: pynvml.nvmlSystemGetDriverVersion()),
        }


THROTTLE = {
    "power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
    "software thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware thermal": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "power brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
}


class HostClock:
    """Wall time, for a CPU: nothing to flush, nothing to wait for."""

    timer, warm, launch, late_rounds = staticmethod(time.perf_counter), True, 0.0, 0

    def forget(self, rounds: int) -> None:
        """Nothing is counted here."""

    def call_hz(self) -> np.ndarray:
        """Empty: of no CPU."""
        return np.empty(0)

    def settle(self) -> None:
        pass

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """(s, s) of one call: host and device are one."""
        start = self.timer()
        call()
        seconds = self.timer() - start
        return seconds, seconds

    def prepare(self, call: Callable[[], object]) -> None:
        """None: nothing to set, and torch does not count a CPU's memory."""

    def adapt(self, rounds: int) -> bool:
        return False

    def card(self) -> dict[str, object]:
        return {"sm_clock_mhz": None, "throttle": []}

    def describe(self) -> dict[str, object]:
        return {"device": "cpu", "torch_threads": torch.get_num_threads()}


def clock_for(device: torch.device, launch: float | None = None) -> DeviceClock | HostClock:
    """The clock of a device; `launch` in s, None where it is not known."""
    return DeviceClock(device, launch) if device.type == "cuda" else HostClock()


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
    fewest = max(FEWEST_ROUNDS, options.getoption("benchmark_min_rounds"))
    first = clock.prepare(call)
    waits = first and first.host > first.wall / 2  # for the device: the pilot's to notice
    if first and first.wall * USUAL_ROUNDS > max_seconds and not waits:
        # as many rounds as there is time for, whatever a pilot would say
        times, hosts, wall = [first.wall], [first.host], first.wall
    else:
        times, hosts, wall = pilot(clock, call, PILOT_SHARE * max_seconds)
        if clock.adapt(len(times)):
            times, hosts, wall = pilot(clock, call, PILOT_SHARE * max_seconds)
    rounds = rounds_for(times, wall, fewest, max_seconds)
    clock.forget(rounds)
    before = clock.card()
    try:
        benchmark.pedantic(call, setup=clock.settle, rounds=rounds)
        after = clock.card()
    except BaseException:
        benchmark.has_error = True  # pytest-benchmark then saves no time
        raise
    median, host = benchmark.stats["median"], statistics.median(hosts)
    return {
        "interval": interval(benchmark.stats["data"]),
        "two_modes": two_modes(benchmark.stats["data"]),
        "host_us": host * 1e6,
        "host_bound": isinstance(clock, DeviceClock) and host > median,
        "late_rounds": clock.late_rounds,
        "peak_memory_bytes": first and first.peak,
        "sm_clock_mhz": [before["sm_clock_mhz"], after["sm_clock_mhz"]],
        **in_cycles(benchmark.stats["data"], clock.call_hz()),
        "throttle": sorted({*before["throttle"], *after["throttle"]}),
    }
