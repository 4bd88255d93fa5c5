"""The launch overhead: what a pair of CUDA events reads beyond a kernel's own time by CUPTI.

The time between two events around a kernel includes parts of its launch and completion.
`launch_overhead` measures them in a process of its own, because kernel launches are slower for the
rest of a process that has used the profiler (on an H100 9.6 us of host time instead of 7.5). This
takes seconds, so the result is kept on disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pynvml
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from maskbench.timing.device_clock import DeviceClock

REPOSITORY = Path(__file__).parents[2]
# The modules that decide what is measured: their text is part of the key of the stored result.
SOURCES = [
    Path(__file__).with_name(name)
    for name in ("device_clock.py", "nvml.py", "sm_cycles.py", "calibration.py")
]
ROUNDS, DISCARDED_ROUNDS = 60, 5  # the first rounds are discarded
MAX_LAUNCH_OVERHEAD_S = 5e-6  # more is an error: on three H100s it was 0.9 to 1.2 us
PROFILED_BLOCKING_KERNEL_S = 5e-3  # the profiler slows the host down
# The kernels of a round, by parts of their names as CUPTI gives them
BLOCKING_KERNEL = "spin_kernel"
FLUSH_AND_STAMP_KERNELS = ("FillFunctor<signed char>", "stamp")


def measure_with_cupti(
    clock: DeviceClock, call: Callable[[], object], rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time the same calls by the clock and by CUPTI.

    Returns
    -------
    tuple of arrays
        [rounds] device times in seconds by the clock, and by CUPTI from the start of the call's
        first kernel to the end of its last.

    Raises
    ------
    RuntimeError
        If CUPTI did not record the kernels of every call.
    """
    # Without acc_events torch warns that the events of a profiling cycle are cleared at its end.
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        events_s = [clock.round(call)[0] for _ in range(rounds)]
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]  # not in its __all__
    kernels = [event for event in profiled.events() if event.device_type == cuda]
    call_spans: list[list[tuple[float, float]]] = []  # per call, (start, end) of its kernels in us
    for kernel in sorted(kernels, key=lambda kernel: kernel.time_range.start):
        if BLOCKING_KERNEL in kernel.name:
            call_spans.append([])
        elif call_spans and not any(name in kernel.name for name in FLUSH_AND_STAMP_KERNELS):
            call_spans[-1].append((kernel.time_range.start, kernel.time_range.end))
    if len(call_spans) != rounds or not all(call_spans):
        raise RuntimeError(f"CUPTI saw {sum(map(bool, call_spans))} of {rounds} calls")
    cupti_s = [(max(end for _, end in spans) - spans[0][0]) / 1e6 for spans in call_spans]
    return np.array(events_s), np.array(cupti_s)


def tiny_kernel() -> Callable[[], object]:
    """A call of one kernel that does almost nothing."""
    one = torch.zeros(1, device="cuda")
    return lambda: one.add_(1)


def measure_launch_overhead() -> float:
    """The launch overhead of a tiny kernel in seconds.

    The events of calls that are not profiled are compared with CUPTI's times of others, because
    CUPTI itself lengthens what the events read.

    Raises
    ------
    RuntimeError
        If CUPTI did not record the calls, or the result is not plausible.
    """
    clock, call = DeviceClock(torch.device("cuda")), tiny_kernel()
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    events_s = [clock.round(call)[0] for _ in range(ROUNDS)]
    _, cupti_s = measure_with_cupti(clock, call, ROUNDS)
    overhead = float(np.median(events_s[DISCARDED_ROUNDS:]) - np.median(cupti_s[DISCARDED_ROUNDS:]))
    if not 0 <= overhead <= MAX_LAUNCH_OVERHEAD_S:
        raise RuntimeError(f"events and CUPTI are {overhead * 1e6:.2f} us apart for a tiny kernel")
    return overhead


def cache_path() -> Path:
    """The file of the result for this GPU, driver, torch and code, beside the compiled kernels.

    `maskbench.suite.cache_folders` sets TORCHINDUCTOR_CACHE_DIR, unless the user has set it.
    """
    code = sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()
    driver = pynvml.nvmlSystemGetDriverVersion()
    key = f"{torch.cuda.get_device_name()} {driver} {torch.__version__} {code}"
    name = f"launch_{sha256(key.encode()).hexdigest()}"
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)


def launch_overhead() -> tuple[float | None, str]:
    """The launch overhead in seconds, from disk or measured in a process of its own.

    Returns
    -------
    tuple
        (seconds, ""), or (None, the reason) if it cannot be measured. A failure is not stored.
    """
    try:
        pynvml.nvmlInit()
        path = cache_path()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    with suppress(OSError, ValueError):  # there is none, or a damaged one
        stored = float(path.read_text())
        if 0 <= stored <= MAX_LAUNCH_OVERHEAD_S:
            return stored, ""
    # From the top of the repository, where Python finds the package without installing it.
    command = [sys.executable, "-m", "maskbench.timing.calibration"]
    try:
        process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    except OSError as error:
        return None, f"its process cannot be started: {error}"
    if process.returncode:
        return None, (process.stderr.strip().splitlines() or ["no reason given"])[-1]
    overhead_s = float(process.stdout.split()[-1])
    with suppress(OSError):  # it is measured again in the next run
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(str(overhead_s))
        os.replace(file.name, path)  # atomic: another process never reads half a number
    return overhead_s, ""


if __name__ == "__main__":
    print(measure_launch_overhead())
