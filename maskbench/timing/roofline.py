"""The limits of the device: the most floating-point operations and bytes per second.

A large matrix product measures the first limit, and a large copy the second. The data sheet's
numbers are not used, because they assume a clock that a card does not hold.
Williams, Waterman, Patterson: Roofline, https://doi.org/10.1145/1498765.1498785
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from maskbench.timing.clock import Clock
from maskbench.timing.runner import run_pilot, valid_seconds

GEMM_SIZE = {"cuda": 8192, "cpu": 512}  # rows and columns
COPY_BYTES = {"cuda": 2**29, "cpu": 2**27}  # more than the caches of the device
MAX_SECONDS = {"cuda": 0.2, "cpu": 0.1}  # of the rounds of each


class Roofline(NamedTuple):
    """The two limits of a device; the names are those of saved fields.

    Parameters
    ----------
    gemm_tflops
        Floating-point operations per second of a large square matrix product, / 1e12.
    copy_gb_per_s
        Bytes per second that a large copy reads and writes, / 1e9.
    """

    gemm_tflops: float
    copy_gb_per_s: float


_MEASURED: dict[tuple[str, str], Roofline] = {}  # a process uses one card


def measured_roofline(clock: Clock, device: str, dtype: str) -> Roofline:
    """The limits of the device for a data type. They are measured once in a process.

    Parameters
    ----------
    clock
        The clock of the device, warmed up.
    device, dtype
        "cuda" or "cpu", and the name of the data type of the matrices.

    Raises
    ------
    InvalidTime
        If the clock returned a time that no call can take.
    """
    key = device, dtype
    if key not in _MEASURED:
        gemm_tflops = _gemm_tflops(clock, device, getattr(torch, dtype))
        _MEASURED[key] = Roofline(gemm_tflops, _copy_gb_per_s(clock, device))
    return _MEASURED[key]


def _fastest_seconds(clock: Clock, device: str, call: Callable[[], object]) -> float:
    """The time of the fastest round, which other work on the machine has slowed the least."""
    clock.size_blocking_kernel(call)
    return min(valid_seconds(run_pilot(clock, call, MAX_SECONDS[device]).device_s))


def _gemm_tflops(clock: Clock, device: str, dtype: torch.dtype) -> float:
    size = GEMM_SIZE[device]
    # The operands have the magnitude of attention's: the power of a GPU depends on the values.
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _fastest_seconds(clock, device, lambda: torch.mm(a, b, out=out)) / 1e12


def _copy_gb_per_s(clock: Clock, device: str) -> float:
    source = torch.zeros(COPY_BYTES[device], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _fastest_seconds(clock, device, lambda: target.copy_(source)) / 1e9
