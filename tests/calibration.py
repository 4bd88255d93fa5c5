"""What a pair of CUDA events reads beyond a kernel's own time, by CUPTI's: `launch_overhead`.

Events lie around a kernel's launch and completion, too. In a process of its own, as each launch
after a use of the profiler takes longer (on an H100 9.6 us for the host, 7.5 before), and kept on
disk, as it takes seconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pynvml
import torch
from torch.profiler import ProfilerActivity, profile

import measure

ROUNDS, SETTLING = 60, 5  # the first rounds count not
BEFORE = ("spin_kernel", "FillFunctor<signed char>", "stamp")  # kernels of `settle`


def cupti(clock: measure.DeviceClock, call, rounds: int) -> list[float]:
    """Device s of each round from the first kernel's start to the last one's end, by CUPTI."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(rounds):
            clock.settle()
            call()
            torch.cuda.synchronize()
    cuda_type = torch.autograd.DeviceType.CUDA
    events = [e for e in profiled.events() if e.device_type == cuda_type]
    spans = []
    for event in sorted(events, key=lambda e: e.time_range.start):
        if "spin_kernel" in event.name:
            spans.append([])  # only the first stamp is between the blocker and the call
        elif spans and not any(name in event.name for name in BEFORE):
            spans[-1].append(event.time_range)
    if len(spans) != rounds or not all(spans):
        raise RuntimeError(f"CUPTI saw {sum(map(bool, spans))} of {rounds} calls")
    return [(s[-1].end - s[0].start) / 1e6 for s in spans]


def measured() -> float:
    """s, of a kernel that does next to nothing."""
    clock, one = measure.DeviceClock(torch.device("cuda")), torch.zeros(1, device="cuda")
    clock.block_seconds = 5e-3  # the profiler slows the host
    ours = [clock.round(lambda: one.add_(1))[0] for _ in range(ROUNDS)]
    theirs = cupti(clock, lambda: one.add_(1), ROUNDS)
    return statistics.median(ours[SETTLING:]) - statistics.median(theirs[SETTLING:])


def launch_overhead() -> tuple[float, str | None]:
    """(s, None), or (0.0, why) where it cannot be measured."""
    pynvml.nvmlInit()
    about = torch.cuda.get_device_name(), pynvml.nvmlSystemGetDriverVersion(), torch.__version__
    name = f"launch_{sha256(str(about).encode()).hexdigest()}"
    kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)
    if not kept.exists():
        command = [sys.executable, "-m", "tests.calibration"]
        top = Path(__file__).parents[1]
        done = subprocess.run(command, cwd=top, capture_output=True, text=True)
        if done.returncode:
            return 0.0, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout.split()[-1])
    return float(kept.read_text()), None


if __name__ == "__main__":
    print(measured())
