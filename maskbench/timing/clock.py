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
from typing import NamedTuple

import numpy as np
import torch

from maskbench.timing.nvml import GPUClockState, NVMLDevice
from maskbench.timing.statistics import MAX_ROUNDS, sm_clock_per_round

SINGLE_DRY_RUN_S = 0.02  # s: of a longer one the host's time needs no second look
MAX_BLOCKING_KERNEL_S = 20e-3  # s, of a blocker that grew as the host was late
WARMUP_WINDOW_S, MAX_WARMUP_S = 1.0, 20.0  # s
WARMUP_TOLERANCE, WARMUP_WINDOWS = 0.001, 4  # of the SM clock, over so many windows


@dataclass(frozen=True)
class EventTimestamp:
    """A recorded CUDA event; the difference of two is the device time between them, in s.

    To take it ends the round: the second stamp is put on the stream, and the device waited for.
    """

    event: torch.cuda.Event
    clock: DeviceClock

    def __sub__(self, start: EventTimestamp) -> float:
        if start.event.query():  # reached before the whole call was enqueued: the device waited
            self.clock.record_late_round()
        self.clock.cycles.end()
        self.event.synchronize()
        return (
            start.event.elapsed_time(self.event) / 1e3
            - self.clock.overhead
            - self.clock.launch_overhead_s
        )


class DryRun(NamedTuple):
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

    def __init__(self, device: torch.device, launch_overhead_s: float | None = None):
        from maskbench.timing.sm_cycles import (
            SMCycleCounter,  # Triton, which comes with torch for CUDA only
        )

        self.device, self.overhead, self.launch_overhead_s, self.late_rounds = device, 0.0, 0.0, 0
        self.blocking_kernel_s, self.cycles, self.warm = (
            1e-3,
            SMCycleCounter(device, MAX_ROUNDS),
            False,
        )
        self.nvml = NVMLDevice(device)
        self.timer = self.cuda_event_timer if launch_overhead_s is None else self.cuda_kernel_timer
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(2 * l2_bytes, dtype=torch.int8, device=device)
        self.overhead = statistics.median(self.round(lambda: None)[0] for _ in range(100))
        self.launch_overhead_s = launch_overhead_s or 0.0

    def cuda_event_timer(self) -> EventTimestamp:
        """A timer for pytest-benchmark: records an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return EventTimestamp(event, self)

    def cuda_kernel_timer(self) -> EventTimestamp:
        """The same, where a kernel's launch is taken off."""
        return self.cuda_event_timer()

    def flush_and_block(self) -> None:
        """What precedes each round: flush the L2, then keep the device busy."""
        self.flush.zero_()
        # Private, as torch has no public way to keep a device busy for a given time without
        # heating it (seen on 2.11 and 2.13): spins for a number of SM clock cycles.
        torch.cuda._sleep(int(self.blocking_kernel_s * self.nvml.max_sm_clock_hz))
        self.cycles.begin()

    def reset_counters(self, rounds: int) -> None:
        """Count late rounds and cycles anew, the latter of so many rounds."""
        self.late_rounds = 0
        self.cycles.reset(rounds)

    def sm_clock_hz(self) -> np.ndarray:
        """The SM clock during each call since `forget`; NaN where it was not seen."""
        return sm_clock_per_round(self.cycles.read())

    def warm_up(self) -> None:
        """Keep the card at work until the clock that it holds under load is steady.

        In its first seconds from rest an H100 changed that clock by 3 % from cell to cell, where
        NVML saw nothing, and times went with it. Later the clock still moves, by 1 %.
        """
        a, began, seen = torch.randn(4096, 4096, device=self.device).half(), time.perf_counter(), []
        self.size_blocking_kernel(lambda: a @ a)
        while time.perf_counter() - began < MAX_WARMUP_S:
            self.reset_counters(MAX_ROUNDS)
            window = time.perf_counter()
            while time.perf_counter() - window < WARMUP_WINDOW_S:
                self.round(lambda: a @ a)
            seen = [*seen, np.nanmedian(self.sm_clock_hz())][-WARMUP_WINDOWS:]
            if len(seen) == WARMUP_WINDOWS and max(seen) - min(seen) < WARMUP_TOLERANCE * max(seen):
                break
        self.warm = True

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """(device s, host s to enqueue) of one call."""
        self.flush_and_block()
        start, host = self.timer(), time.perf_counter()
        call()
        host = time.perf_counter() - host
        return self.timer() - start, host

    def size_blocking_kernel(self, call: Callable[[], object]) -> DryRun:
        """Set the blocker to outlast what the host takes to enqueue this call."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        hosts, first = [], time.perf_counter()
        while len(hosts) < 3 and time.perf_counter() - first < SINGLE_DRY_RUN_S:
            began = time.perf_counter()
            call()
            hosts.append(time.perf_counter() - began)
            torch.cuda.synchronize(self.device)  # idle for the next, as a call may wait for it
        wall, host = (time.perf_counter() - first) / len(hosts), statistics.median(hosts)
        # and the first stamp's launch, and more where it costs next to nothing: few rounds are
        # had of a long call, and on an H100 in most cells of 30 ms and longer one of them was late
        self.blocking_kernel_s = 1.5 * host + 100e-6 + wall / 50
        self.late_rounds = 0
        return DryRun(wall, host, torch.cuda.max_memory_allocated(self.device) - before)

    def record_late_round(self) -> None:
        """Counts a round in which the device waited for the host; the next blocker is longer.

        Hosts pause for milliseconds at times, longer than what any pilot has seen; on an H100
        most cells whose rounds were of two kinds were of rounds late and not late.
        """
        self.late_rounds += 1
        self.blocking_kernel_s = min(
            2 * self.blocking_kernel_s, max(self.blocking_kernel_s, MAX_BLOCKING_KERNEL_S)
        )

    def blocker_too_short(self, rounds: int) -> bool:
        """After a pilot of so many rounds: whether its times are of too short a blocker.

        Not where no more than a quarter were late: neither its median nor its quartiles see them.
        A call that waits for the device itself outlasts every blocker: it gets none, and what
        it takes is the time that its user waits, the host's part included.
        """
        late, self.late_rounds = self.late_rounds, 0
        if late == rounds:
            self.blocking_kernel_s = 0.0
        return late > rounds / 4

    def clock_state(self) -> GPUClockState:
        """The SM clock and the throttle reasons now."""
        return self.nvml.clock_state()

    def machine_info(self) -> dict[str, object]:
        """The facts about the GPU that must match for two runs to be comparable."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "device": "cuda",
            "gpu": properties.name,
            "gpu_uuid": str(properties.uuid),
            "gpu_count": torch.cuda.device_count(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_bytes": properties.total_memory,
            "power_limit_w": self.nvml.power_limit_w(),
            "driver": self.nvml.driver_version(),
        }


class HostClock:
    """Wall time, for a CPU: nothing to flush, nothing to wait for."""

    timer, warm, launch_overhead_s, late_rounds = staticmethod(time.perf_counter), True, 0.0, 0

    def reset_counters(self, rounds: int) -> None:
        """Nothing is counted here."""

    def sm_clock_hz(self) -> np.ndarray:
        """Empty: of no CPU."""
        return np.empty(0)

    def flush_and_block(self) -> None:
        pass

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """(s, s) of one call: host and device are one."""
        start = self.timer()
        call()
        seconds = self.timer() - start
        return seconds, seconds

    def size_blocking_kernel(self, call: Callable[[], object]) -> None:
        """None: nothing to set, and torch does not count a CPU's memory."""

    def blocker_too_short(self, rounds: int) -> bool:
        return False

    def clock_state(self) -> GPUClockState:
        return GPUClockState(None, [])

    def machine_info(self) -> dict[str, object]:
        return {"device": "cpu", "torch_threads": torch.get_num_threads()}


Clock = DeviceClock | HostClock


def make_clock(
    device: torch.device, launch_overhead_s: float | None = None
) -> DeviceClock | HostClock:
    """The clock of a device; `launch` in s, None where it is not known."""
    return DeviceClock(device, launch_overhead_s) if device.type == "cuda" else HostClock()
