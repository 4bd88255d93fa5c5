"""A simulated GPU, as far as the clock and torch's profiler use one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskbench.timing.nvml import NVMLDevice

SM_CLOCK_HZ = 1.8e9
EVENT_S = 1e-6  # how long the stream takes to record an event


class FakeGPU:
    """The stream of a GPU, on which work takes its time as soon as it is enqueued.

    Recording an event takes 1 us. A stamp of the cycle counters takes no time. The SMs run at
    1.8 GHz. `trace` lists what was enqueued, and when the host waited. The class also replaces the
    device properties that torch returns.
    """

    L2_cache_size, multi_processor_count = 1024, 4

    def __init__(self):
        self.now = 0.0  # s
        self.kernels = []  # (name, start in us, end in us), as the profiler gives them
        self.trace = []
        self.host_is_late = False
        self.cycle_counter = FakeCycleCounter(self)

    def work(self, seconds):
        """Work on the stream that the profiler does not see."""
        self.now += seconds

    def kernel(self, name, seconds):
        self.trace.append(name)
        self.kernels.append((name, 1e6 * self.now, 1e6 * (self.now + seconds)))
        self.work(seconds)

    def event(self, enable_timing):
        return FakeEvent(self)


class FakeEvent:
    """A CUDA event on the stream of a `FakeGPU`."""

    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.gpu.trace.append("record event")
        self.gpu.work(EVENT_S)
        self.recorded_at = self.gpu.now

    def query(self):
        self.gpu.trace.append("query event")
        return self.gpu.host_is_late

    def synchronize(self):
        self.gpu.trace.append("wait for event")

    def elapsed_time(self, end):
        """In ms, as torch has it."""
        return 1e3 * (end.recorded_at - self.recorded_at)


def make_stamps(*rounds):
    """Stamps of rounds, [rounds, 2, SMs, 3]; a round is (SMs, cycles passed, ns passed)."""
    stamps = []
    for sms, cycles, ns in rounds:
        begin = [[sm, 1000 * sm, 5] for sm in range(sms)]
        end = [[sm, 1000 * sm + cycles, 5 + ns] for sm in reversed(range(sms))]
        stamps.append([begin, end])
    return np.array(stamps)


class FakeCycleCounter:
    """`SMCycleCounter` on a `FakeGPU`."""

    def __init__(self, gpu):
        self.gpu, self.passed_ns = gpu, []

    def reset(self, capacity):
        self.passed_ns.clear()

    def begin(self):
        self.gpu.kernel("stamp", 0.0)
        self.began_at = self.gpu.now

    def end(self):
        self.gpu.kernel("stamp", 0.0)
        self.passed_ns.append(round(1e9 * (self.gpu.now - self.began_at)))

    def read(self):
        return np.concatenate(
            [make_stamps((4, SM_CLOCK_HZ / 1e9 * ns, ns)) for ns in self.passed_ns]
        )


class FakeProfile:
    """torch's profiler on a `FakeGPU`: the kernels since it was entered."""

    def __init__(self, gpu):
        self.gpu = gpu

    def __enter__(self):
        self.gpu.kernels.clear()
        return self

    def __exit__(self, *error):
        pass

    def events(self):
        cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
        events = [
            SimpleNamespace(
                name=name, device_type=cuda, time_range=SimpleNamespace(start=start, end=end)
            )
            for name, start, end in self.gpu.kernels
        ]
        return [SimpleNamespace(name="cudaLaunchKernel", device_type=cpu), *reversed(events)]


@pytest.fixture
def fake_gpu(monkeypatch):
    """A `FakeGPU` that torch.cuda uses; NVML has no answer for it."""
    gpu = FakeGPU()
    module = SimpleNamespace(SMCycleCounter=lambda device, capacity: gpu.cycle_counter)
    monkeypatch.setitem(sys.modules, "maskbench.timing.sm_cycles", module)
    monkeypatch.setattr(NVMLDevice, "query", lambda self, function, *arguments: None)
    for name, value in {
        "get_device_properties": lambda device: gpu,
        "Event": gpu.event,
        "_sleep": lambda cycles: gpu.kernel("spin_kernel(long)", cycles / SM_CLOCK_HZ),
        "synchronize": lambda device=None: None,
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 164,
        "reset_peak_memory_stats": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return gpu
