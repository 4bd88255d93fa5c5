"""What NVML reports about a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import pynvml
import torch

FALLBACK_MAX_SM_CLOCK_MHZ = 3000  # if NVML reports none: above that of data-center GPUs
THROTTLE_REASONS = {
    "power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
    "software thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware thermal": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "power brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
}


class GPUClockState(NamedTuple):
    """The SM clock in MHz, None if unknown, and the reasons why the GPU limits it now."""

    sm_clock_mhz: int | None
    throttle: list[str]


class NVMLDevice:
    """NVML's view of a CUDA device.

    NVML is initialized by the first query. Every query gives None if this GPU, driver or MIG
    partition does not support it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def _handle(self) -> Any:
        """By UUID, because NVML and CUDA may number the GPUs differently."""
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def query(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call `function(handle, *arguments)`; return None if NVML raises an error."""
        try:
            return function(self._handle, *arguments)
        except pynvml.NVMLError:
            return None

    @cached_property
    def max_sm_clock_hz(self) -> float:
        """The highest SM clock in Hz: a spin of n cycles lasts at least n / this seconds."""
        max_mhz: int | None = self.query(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM)
        return (max_mhz or FALLBACK_MAX_SM_CLOCK_MHZ) * 1e6

    def clock_state(self) -> GPUClockState:
        """The SM clock and the throttle reasons now."""
        reasons = self.query(pynvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return GPUClockState(
            self.query(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            [name for name, bit in THROTTLE_REASONS.items() if reasons & bit],
        )

    def power_limit_w(self) -> float | None:
        """The enforced power limit in watts."""
        milliwatts: int | None = self.query(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        return milliwatts and milliwatts / 1e3

    def driver_version(self) -> str | None:
        """The version of the NVIDIA driver."""
        version: str | None = self.query(lambda handle: pynvml.nvmlSystemGetDriverVersion())
        return version
