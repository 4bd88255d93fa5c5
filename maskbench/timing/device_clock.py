"""Device time on a GPU, by CUDA events.

A saved time is the device time of the call alone, with a cold L2, warm code, and a GPU that was
busy before. A round flushes the L2 by writing a buffer of twice its size, keeps the device busy
for longer than the host takes to enqueue the call, stamps the cycle counters of the SMs, records
an event, makes the call, records an event and stamps again.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from maskbench.timing.nvml import GPUClockState, NVMLDevice
from maskbench.timing.statistics import MAX_ROUNDS, sm_clock_per_round

EMPTY_ROUNDS = 100  # their median is the event overhead
INITIAL_BLOCKING_KERNEL_S = 1e-3  # in the empty rounds: longer than the host takes for two events
DRY_RUNS, SINGLE_DRY_RUN_S = 3, 0.02  # after a call this long, its host time is precise enough
HOST_TIME_MARGIN = 1.5  # the blocking kernel over the median host time, as host times scatter
STAMP_LAUNCH_S = 100e-6  # for the host to launch the stamp between blocking kernel and call
# This share of a call's wall time is added to its blocking kernel. Long calls get few rounds, so it
# costs little. Without it, most cells of 30 ms and longer had one late round on an H100.
WALL_TIME_MARGIN = 1 / 50
MAX_BLOCKING_KERNEL_S = 20e-3  # late rounds lengthen it up to this: hosts pause for milliseconds
MAX_LATE_SHARE = 1 / 4  # share of a pilot's rounds: fewer do not move its quartiles
WARMUP_WINDOW_S, MAX_WARMUP_S = 1.0, 20.0
WARMUP_TOLERANCE, WARMUP_WINDOWS = 0.001, 4  # relative range of the SM clock over these windows


class DryRun(NamedTuple):
    """The wall and host time of a call in seconds, and the bytes that it allocates at its peak."""

    wall_s: float
    host_s: float
    peak_bytes: int


@contextmanager
def garbage_collection_disabled() -> Iterator[None]:
    """Python frees no reference cycles within this context.

    Cycles can hold gigabytes of tensors of earlier calls. When they were freed between two readings
    of the allocated memory, a run saved a negative peak.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class EventTimestamp:
    """A recorded CUDA event; `end - start` is the device time between them in seconds.

    Subtracting ends the round: it enqueues the second stamp and waits for the device.
    """

    event: torch.cuda.Event
    clock: DeviceClock

    def __sub__(self, start: EventTimestamp) -> float:
        # The device reached the start before the whole call was enqueued: it waited for the host.
        if start.event.query():  # type: ignore[no-untyped-call]  # torch's Event has no annotations
            self.clock.record_late_round()
        self.clock.cycle_counter.end()
        self.event.synchronize()
        elapsed_ms: float = start.event.elapsed_time(self.event)
        return elapsed_ms / 1e3 - self.clock.event_overhead_s - self.clock.launch_overhead_s


class EventTimer:
    """A timer for pytest-benchmark that records a CUDA event on the current stream.

    pytest-benchmark saves the `__name__` of a timer, which says what its times contain.
    """

    def __init__(self, clock: DeviceClock, name: str) -> None:
        self.clock, self.__name__ = clock, name

    def __call__(self) -> EventTimestamp:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return EventTimestamp(event, self.clock)


class DeviceClock:
    """Device time by CUDA events, each round with a cold L2 and behind a blocking kernel.

    Parameters
    ----------
    device
        The CUDA device.
    launch_overhead_s
        What a pair of events around a kernel reads beyond the kernel's own time and the event
        overhead, in seconds (see `calibration`). It is subtracted from each time. None if
        unknown: the timer then has another name, because its times include the launch.

    Attributes
    ----------
    event_overhead_s
        What a pair of events around nothing reads, in seconds; also subtracted.
    blocking_kernel_s
        How long the device is kept busy before each call, in seconds.
    """

    is_device_time, time_budget_share = True, 1.0

    def __init__(self, device: torch.device, launch_overhead_s: float | None = None) -> None:
        # Here, because it imports Triton, which torch for CPUs does not have.
        from maskbench.timing.sm_cycles import SMCycleCounter

        self.device, self.warm, self.late_rounds = device, False, 0
        self.nvml, self.cycle_counter = NVMLDevice(device), SMCycleCounter(device, MAX_ROUNDS)
        name = "cuda_event_timer" if launch_overhead_s is None else "cuda_kernel_timer"
        self.timer = EventTimer(self, name)
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush_buffer = torch.empty(2 * l2_bytes, dtype=torch.int8, device=device)
        self.blocking_kernel_s = INITIAL_BLOCKING_KERNEL_S
        self.event_overhead_s, self.launch_overhead_s = 0.0, 0.0  # for the empty rounds
        empty_s = [self.round(lambda: None)[0] for _ in range(EMPTY_ROUNDS)]
        self.event_overhead_s = statistics.median(empty_s)
        self.launch_overhead_s = launch_overhead_s or 0.0

    def flush_and_block(self) -> None:
        """Flush the L2, keep the device busy, and stamp the cycle counters, in this order."""
        self.flush_buffer.zero_()
        # Private (seen in torch 2.11 and 2.13): torch has no public way to keep a device busy for
        # a given time without heating it. It spins for a number of SM clock cycles.
        spin_cycles = int(self.blocking_kernel_s * self.nvml.max_sm_clock_hz)
        torch.cuda._sleep(spin_cycles)  # type: ignore[no-untyped-call]
        self.cycle_counter.begin()

    def reset_counters(self, rounds: int) -> None:
        """Count late rounds from 0; keep the cycles of the last `rounds` rounds."""
        self.late_rounds = 0
        self.cycle_counter.reset(rounds)

    def sm_clock_hz(self) -> NDArray[np.float64]:
        """The SM clock during each call since `reset_counters`, in Hz, NaN where unknown."""
        return sm_clock_per_round(self.cycle_counter.read())

    def warm_up(self) -> None:
        """Multiply matrices until the SM clock under load is stable, for 4 to 20 seconds.

        In the first seconds after idling, an H100 changed this clock by 3 % from cell to cell, and
        the times with it, where NVML showed nothing. It still moves by 1 % later.
        """
        a, start = torch.randn(4096, 4096, device=self.device).half(), time.perf_counter()
        medians: list[float] = []  # of the SM clock in each window
        self.size_blocking_kernel(lambda: a @ a)
        while time.perf_counter() - start < MAX_WARMUP_S:
            self.reset_counters(MAX_ROUNDS)
            window_start = time.perf_counter()
            while time.perf_counter() - window_start < WARMUP_WINDOW_S:
                self.round(lambda: a @ a)
            medians = [*medians, float(np.nanmedian(self.sm_clock_hz()))][-WARMUP_WINDOWS:]
            is_stable = max(medians) - min(medians) < WARMUP_TOLERANCE * max(medians)
            if len(medians) == WARMUP_WINDOWS and is_stable:
                break
        self.warm = True

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """Time one call: its device time and the host's time to enqueue it, in seconds."""
        self.flush_and_block()
        start, host_start = self.timer(), time.perf_counter()
        call()
        host_s = time.perf_counter() - host_start
        return self.timer() - start, host_s

    def size_blocking_kernel(self, call: Callable[[], object]) -> DryRun:
        """Run `call` a few times; make the blocking kernel outlast the host's time for it."""
        torch.cuda.synchronize(self.device)
        host_times_s: list[float] = []
        with garbage_collection_disabled():
            allocated = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            start = time.perf_counter()
            while len(host_times_s) < DRY_RUNS and time.perf_counter() - start < SINGLE_DRY_RUN_S:
                host_start = time.perf_counter()
                call()
                host_times_s.append(time.perf_counter() - host_start)
                # So that a next call that synchronizes does not wait for this one.
                torch.cuda.synchronize(self.device)
            wall_s = (time.perf_counter() - start) / len(host_times_s)
            peak_bytes = torch.cuda.max_memory_allocated(self.device) - allocated
        host_s = statistics.median(host_times_s)
        enqueue_s = HOST_TIME_MARGIN * host_s + STAMP_LAUNCH_S
        self.blocking_kernel_s = enqueue_s + WALL_TIME_MARGIN * wall_s
        self.late_rounds = 0
        return DryRun(wall_s, host_s, peak_bytes)

    def record_late_round(self) -> None:
        """Count a round in which the device waited for the host; lengthen the blocking kernel.

        Hosts sometimes pause for milliseconds, longer than any pilot has seen. On an H100 most
        bimodal cells mixed late and on-time rounds.
        """
        self.late_rounds += 1
        self.blocking_kernel_s = min(
            2 * self.blocking_kernel_s, max(self.blocking_kernel_s, MAX_BLOCKING_KERNEL_S)
        )

    def blocker_too_short(self, rounds: int) -> bool:
        """Whether more than a quarter of a pilot's rounds were late; count from 0 again.

        If all were late, the call synchronizes and outlasts any blocking kernel. It gets none: its
        time is what its user waits for, the host's part included.
        """
        late, self.late_rounds = self.late_rounds, 0
        if late == rounds:
            self.blocking_kernel_s = 0.0
        return late > MAX_LATE_SHARE * rounds

    def clock_state(self) -> GPUClockState:
        """The SM clock and the throttle reasons now, from NVML."""
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
