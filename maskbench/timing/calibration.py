"""What a pair of CUDA events reads beyond a kernel's own time, by CUPTI's: `launch_overhead`.

Events lie around a kernel's launch and completion, too. In a process of its own, as each launch
after a use of the profiler takes longer (on an H100 9.6 us for the host, 7.5 before), and kept on
disk, as it takes seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pynvml
import torch
from torch.profiler import ProfilerActivity, profile

from maskbench.timing import clock as clocks

TOP = Path(__file__).parents[2]
CODE = ("clock.py", "sm_cycles.py", "calibration.py")
ROUNDS, DISCARDED_ROUNDS = 60, 5  # the first rounds count not
LONGEST = 5e-6  # s, that is believed
PROFILED_BLOCKING_KERNEL_S = 5e-3  # s, of a blocker where the profiler slows the host
HARNESS_KERNELS = (
    "FillFunctor<signed char>",
    "stamp",
)  # a round's kernels beside the spin and the call's


def cupti(clock: clocks.DeviceClock, call, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Device s of the same calls by our events and by CUPTI.

    By CUPTI from the first kernel's start to the last one's end. RuntimeError where it did not see
    each call.
    """
    # acc_events, as without it torch warns that a cycle's events end with it
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        ours = [clock.round(call)[0] for _ in range(rounds)]
        torch.cuda.synchronize()
    cuda_type = torch.autograd.DeviceType.CUDA
    events = [e for e in profiled.events() if e.device_type == cuda_type]
    spans = []
    for event in sorted(events, key=lambda e: e.time_range.start):
        if "spin_kernel" in event.name:
            spans.append([])
        elif spans and not any(name in event.name for name in HARNESS_KERNELS):
            spans[-1].append(event.time_range)
    if len(spans) != rounds or not all(spans):
        raise RuntimeError(f"CUPTI saw {sum(map(bool, spans))} of {rounds} calls")
    theirs = [(max(t.end for t in span) - span[0].start) / 1e6 for span in spans]
    return np.array(ours), np.array(theirs)


def tiny_kernel():
    """A call of one kernel that does next to nothing."""
    one = torch.zeros(1, device="cuda")
    return lambda: one.add_(1)


def measure_launch_overhead() -> float:
    """s, of the smallest kernel; RuntimeError where it cannot be that."""
    clock, call = clocks.DeviceClock(torch.device("cuda")), tiny_kernel()
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    ours = [clock.round(call)[0] for _ in range(ROUNDS)]
    _, theirs = cupti(clock, call, ROUNDS)
    overhead = float(np.median(ours[DISCARDED_ROUNDS:]) - np.median(theirs[DISCARDED_ROUNDS:]))
    if not 0 <= overhead <= LONGEST:
        raise RuntimeError(f"events and CUPTI are {overhead * 1e6:.2f} us apart for a tiny kernel")
    return overhead


def cache_path() -> Path:
    """Where it is kept: of this card, driver, torch and this code, beside what was compiled."""
    code = sha256(
        b"".join(Path(__file__).with_name(name).read_bytes() for name in CODE)
    ).hexdigest()
    driver = pynvml.nvmlSystemGetDriverVersion()
    key = f"{torch.cuda.get_device_name()} {driver} {torch.__version__} {code}"
    name = f"launch_{sha256(key.encode()).hexdigest()}"
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)


def launch_overhead() -> tuple[float | None, str]:
    """(s, ""), or (None, why) where it cannot be measured."""
    try:
        pynvml.nvmlInit()
        kept = cache_path()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    if not kept.exists():
        command = [sys.executable, "-m", "maskbench.timing.calibration"]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(done.stdout.split()[-1])
        os.replace(file.name, kept)  # whole or not at all
    return float(kept.read_text()), ""


if __name__ == "__main__":
    print(measure_launch_overhead())
