"""A card without a card: what the clock, the stamps and torch's profiler see of one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskbench.timing import clock as clocks


class FakeGPU:
    """A card's stream as far as the clock uses it: what is put on it takes time at once.

    Recording an event takes 1 us, a stamp nothing; its SMs run at 1.8 GHz.
    """

    L2_cache_size, multi_processor_count = 1024, 4

    def __init__(self):
        self.now, self.cycles, self.kernels = 0.0, FakeCycleCounter(self), []

    def work(self, seconds):
        self.now += seconds

    def kernel(self, name, seconds):
        """What the profiler sees, in us."""
        self.kernels.append((name, 1e6 * self.now, 1e6 * (self.now + seconds)))
        self.work(seconds)

    def event(self, enable_timing):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, card):
        self.clock_state = card

    def record(self):
        self.clock_state.work(1e-6)
        self.at = self.clock_state.now

    def query(self):
        return False  # the host is never late

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


def stamps_of(*rounds):
    """[rounds, 2, SMs, 3]; of each round (SMs, cycles passed, ns passed)."""
    made = []
    for sms, cycles, ns in rounds:
        begin = [[sm, 1000 * sm, 5] for sm in range(sms)]
        end = [[sm, 1000 * sm + cycles, 5 + ns] for sm in reversed(range(sms))]
        made.append([begin, end])
    return np.array(made)


class FakeCycleCounter:
    def __init__(self, card):
        self.clock_state, self.ns = card, []

    def reset(self, capacity):
        self.ns.clear()

    def begin(self):
        self.clock_state.kernel("stamp", 0.0)
        self.began = self.clock_state.now

    def end(self):
        self.clock_state.kernel("stamp", 0.0)
        self.ns.append(round(1e9 * (self.clock_state.now - self.began)))

    def read(self):
        return np.concatenate([stamps_of((4, 1.8 * ns, ns)) for ns in self.ns])


class FakeProfile:
    """torch's profiler on the toy card: the kernels since it was entered."""

    def __init__(self, card):
        self.clock_state = card

    def __enter__(self):
        self.clock_state.kernels.clear()
        return self

    def __exit__(self, *failure):
        pass

    def events(self):
        cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
        seen = [
            SimpleNamespace(
                name=name, device_type=cuda, time_range=SimpleNamespace(start=start, end=end)
            )
            for name, start, end in self.clock_state.kernels
        ]
        return [SimpleNamespace(name="cudaLaunchKernel", device_type=cpu), *reversed(seen)]


@pytest.fixture
def fake_gpu(monkeypatch):
    card = FakeGPU()
    stub = SimpleNamespace(SMCycleCounter=lambda device, capacity: card.cycles)
    monkeypatch.setitem(sys.modules, "maskbench.timing.sm_cycles", stub)
    monkeypatch.setattr(clocks.DeviceClock, "ask", lambda self, question, *arguments: None)
    for name, value in {
        "get_device_properties": lambda device: card,
        "Event": card.event,
        "_sleep": lambda cycles: card.kernel("spin_kernel(long)", cycles / 1.8e9),
        "synchronize": lambda device=None: None,
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 164,
        "reset_peak_memory_stats": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return card
