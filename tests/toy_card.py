"""A card without a card: what the clock, the stamps and torch's profiler see of one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import measure


class ToyCard:
    """A card's stream as far as the clock uses it: what is put on it takes time at once.

    Recording an event takes 1 us, a stamp nothing; its SMs run at 1.8 GHz.
    """

    L2_cache_size, multi_processor_count = 1024, 4

    def __init__(self):
        self.now, self.cycles, self.kernels = 0.0, ToyCycles(self), []

    def work(self, seconds):
        self.now += seconds

    def kernel(self, name, seconds):
        """What the profiler sees, in us."""
        self.kernels.append((name, 1e6 * self.now, 1e6 * (self.now + seconds)))
        self.work(seconds)

    def event(self, enable_timing):
        return ToyEvent(self)


class ToyEvent:
    def __init__(self, card):
        self.card = card

    def record(self):
        self.card.work(1e-6)
        self.at = self.card.now

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


class ToyCycles:
    def __init__(self, card):
        self.card, self.ns = card, []

    def reset(self, kept):
        self.ns.clear()

    def begin(self):
        self.card.kernel("stamp", 0.0)
        self.began = self.card.now

    def end(self):
        self.card.kernel("stamp", 0.0)
        self.ns.append(round(1e9 * (self.card.now - self.began)))

    def taken(self):
        return np.concatenate([stamps_of((4, 1.8 * ns, ns)) for ns in self.ns])


class ToyProfile:
    """torch's profiler on the toy card: the kernels since it was entered."""

    def __init__(self, card):
        self.card = card

    def __enter__(self):
        self.card.kernels.clear()
        return self

    def __exit__(self, *failure):
        pass

    def events(self):
        cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
        seen = [
            SimpleNamespace(
                name=name, device_type=cuda, time_range=SimpleNamespace(start=start, end=end)
            )
            for name, start, end in self.card.kernels
        ]
        return [SimpleNamespace(name="cudaLaunchKernel", device_type=cpu), *reversed(seen)]


@pytest.fixture
def toy_card(monkeypatch):
    card = ToyCard()
    stub = SimpleNamespace(Cycles=lambda device, kept: card.cycles)
    monkeypatch.setitem(sys.modules, "tests.cycles", stub)
    monkeypatch.setattr(measure.DeviceClock, "ask", lambda self, question, *arguments: None)
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
