"""What NVML reports about a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import pynvml
import torch

FALLBACK_MAX_SM_CLOCK_MHZ = 3000  # if NVML does not report the highest SM clock
THROTTLE_REASONS = {
    "power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
    "software thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware thermal": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "power brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
}


class GPUClockState(NamedTuple):
    """The SM clock in MHz, None if unknown, and why the GPU limits it now."""

    sm_clock_mhz: int | None
    throttle: list[str]


class NVMLDevice:
    """NVML's view of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def _handle(self):
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def query(self, function: Callable, *arguments):
        """What NVML answers; None if this GPU, driver or partition has no answer."""
        try:
            return function(self._handle, *arguments)
        except pynvml.NVMLError:
            return None

    @cached_property
    def max_sm_clock_hz(self) -> float:
        """The highest SM clock, so that a spin of n cycles lasts at least n / this seconds."""
        highest = self.query(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM)
        return (highest or FALLBACK_MAX_SM_CLOCK_MHZ) * 1e6

    def clock_state(self) -> GPUClockState:
        reasons = self.query(pynvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return GPUClockState(
            self.query(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            [name for name, bit in THROTTLE_REASONS.items() if reasons & bit],
        )

    def power_limit_w(self) -> float | None:
        milliwatts = self.query(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        return milliwatts and milliwatts / 1e3

    def driver_version(self) -> str | None:
        return self.query(lambda handle: pynvml.nvmlSystemGetDriverVersion())
