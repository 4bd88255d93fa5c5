"""The clocks: device time on a GPU (`DeviceClock`), wall time on a CPU (`HostClock`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from maskbench.timing.device_clock import DeviceClock, DryRun
from maskbench.timing.nvml import GPUClockState

CPU_TIME_SHARE = 1 / 3  # fewer rounds on a CPU, where preparing a cell already takes long


class Clock(Protocol):
    """What the suite needs from a clock; `DeviceClock` and `HostClock` implement it."""

    late_rounds: int  # rounds since `reset_counters` in which the device waited for the host

    @property
    def timer(self) -> Callable[[], object]:
        """pytest-benchmark's timer: two of its results subtract to seconds.

        Its `__name__` is saved with every time: times of different timers are not comparable.
        """

    @property
    def warm(self) -> bool:
        """Whether `warm_up` is done or not needed."""

    @property
    def launch_overhead_s(self) -> float:
        """Seconds subtracted from each time for a kernel's launch; 0 if unknown."""

    @property
    def is_device_time(self) -> bool:
        """Whether the times exclude the host's time to enqueue a call."""

    @property
    def time_budget_share(self) -> float:
        """The share of --benchmark-max-time that the rounds of a cell may take."""

    def warm_up(self) -> None:
        """Keep the device busy until its clock is stable."""

    def reset_counters(self, rounds: int) -> None:
        """Count late rounds from 0; keep the SM clock of the last `rounds` rounds."""

    def sm_clock_hz(self) -> NDArray[np.float64]:
        """The SM clock during each call since `reset_counters`, in Hz, NaN where unknown."""

    def flush_and_block(self) -> None:
        """Prepare a round. Nothing but the call may come between this and the timer."""

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """Time one call: its device time and the host's time to enqueue it, in seconds."""

    def size_blocking_kernel(self, call: Callable[[], object]) -> DryRun | None:
        """Make the blocking kernel outlast the host's time for `call`; None on a CPU."""

    def blocker_too_short(self, rounds: int) -> bool:
        """Whether a pilot of `rounds` rounds must be repeated with the longer blocking kernel."""

    def clock_state(self) -> GPUClockState:
        """The SM clock and the throttle reasons now."""

    def machine_info(self) -> dict[str, object]:
        """The facts about the device that must match for two runs to be comparable."""


class HostClock:
    """Wall time, for a CPU: there is nothing to flush, to warm up or to wait for."""

    is_device_time, time_budget_share = False, CPU_TIME_SHARE
    warm, launch_overhead_s, late_rounds = True, 0.0, 0
    timer = staticmethod(time.perf_counter)

    def warm_up(self) -> None:
        """Do nothing."""

    def reset_counters(self, rounds: int) -> None:
        """Do nothing: nothing is counted on a CPU."""

    def sm_clock_hz(self) -> NDArray[np.float64]:
        """Empty: a CPU has no SMs."""
        return np.empty(0)

    def flush_and_block(self) -> None:
        """Do nothing."""

    def round(self, call: Callable[[], object]) -> tuple[float, float]:
        """Time one call: its wall time in seconds, twice, because the host is the device."""
        start = self.timer()
        call()
        seconds = self.timer() - start
        return seconds, seconds

    def size_blocking_kernel(self, call: Callable[[], object]) -> None:
        """Do nothing: there is no blocking kernel, and torch does not count a CPU's memory."""

    def blocker_too_short(self, rounds: int) -> bool:
        """False."""
        return False

    def clock_state(self) -> GPUClockState:
        """Unknown and no reasons."""
        return GPUClockState(None, [])

    def machine_info(self) -> dict[str, object]:
        """The facts about the CPU that must match for two runs to be comparable."""
        return {"device": "cpu", "torch_threads": torch.get_num_threads()}


class ClockUnavailable(Exception):
    """The device's clock could not be made. The message says why."""


class UnavailableClock(HostClock):
    """In the place of a clock that could not be made: whatever is to be timed fails."""

    warm = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def warm_up(self) -> None:
        """Raise ClockUnavailable."""
        raise ClockUnavailable(f"the clock of the GPU cannot be made: {self.reason}")

    def machine_info(self) -> dict[str, object]:
        """Nothing: no time was measured."""
        return {}


def make_clock(device: torch.device, launch_overhead_s: float | None = None) -> Clock:
    """The clock of a device; `launch_overhead_s` is for CUDA, None if unknown (`DeviceClock`)."""
    return DeviceClock(device, launch_overhead_s) if device.type == "cuda" else HostClock()
