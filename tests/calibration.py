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
from tempfile import NamedTemporaryFile

import pynvml
import torch
from torch.profiler import ProfilerActivity, profile

import measure

TOP = Path(__file__).parents[1]
CODE = ("measure.py", "tests/cycles.py", "tests/calibration.py")
ROUNDS, SETTLING = 60, 5  # the first rounds count not
LONGEST = 5e-6  # s, that is believed
BEFORE = ("spin_kernel", "FillFunctor<signed char>", "stamp")  # kernels of `settle`


def cupti(clock: measure.DeviceClock, call, rounds: int) -> list[float]:
    """Device s of each round from the first kernel's start to the last one's end, by CUPTI."""
    # acc_events, as without it torch warns that a cycle's events end with it
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
    """s, of a kernel that does next to nothing; RuntimeError where it cannot be that."""
    clock, one = measure.DeviceClock(torch.device("cuda")), torch.zeros(1, device="cuda")
    clock.block_seconds = 5e-3  # the profiler slows the host
    ours = [clock.round(lambda: one.add_(1))[0] for _ in range(ROUNDS)]
    theirs = cupti(clock, lambda: one.add_(1), ROUNDS)
    apart = statistics.median(ours[SETTLING:]) - statistics.median(theirs[SETTLING:])
    if not 0 <= apart <= LONGEST:
        raise RuntimeError(f"events and CUPTI are {apart * 1e6:.2f} us apart for a tiny kernel")
    return apart


def file_of() -> Path:
    """Where it is kept: of this card, driver, torch and this code, beside what was compiled."""
    code = sha256(b"".join((TOP / name).read_bytes() for name in CODE)).hexdigest()
    driver = pynvml.nvmlSystemGetDriverVersion()
    key = f"{torch.cuda.get_device_name()} {driver} {torch.__version__} {code}"
    name = f"launch_{sha256(key.encode()).hexdigest()}"
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)


def launch_overhead() -> tuple[float | None, str]:
    """(s, ""), or (None, why) where it cannot be measured."""
    try:
        pynvml.nvmlInit()
        kept = file_of()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    if not kept.exists():
        command = [sys.executable, "-m", "tests.calibration"]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(done.stdout.split()[-1])
        os.replace(file.name, kept)  # whole or not at all
    return float(kept.read_text()), ""


if __name__ == "__main__":
    print(measured())
