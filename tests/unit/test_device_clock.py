"""DeviceClock on the fake GPU: the order of a round, and what is subtracted."""

import gc
import time

import pytest
import torch

from maskbench.timing import runner
from maskbench.timing.device_clock import DeviceClock
from maskbench.timing.nvml import FALLBACK_MAX_SM_CLOCK_MHZ
from tests.unit.fake_benchmark import TimedRounds

CPU = torch.device("cpu")

ROUND = [
    *("spin_kernel(long)", "stamp", "record event", "attention", "record event"),
    *("query event", "stamp", "wait for event"),
]


@pytest.mark.parametrize("by", ["the clock", "pytest-benchmark"])
def test_order_of_a_round(by, fake_gpu):
    clock = DeviceClock(CPU, launch_overhead_s=0.0)
    clock.flush_buffer.fill_(1)
    fake_gpu.trace.clear()

    def call():
        assert not clock.flush_buffer.any(), "the L2 is flushed first"
        fake_gpu.kernel("attention", 1e-3)

    if by == "the clock":
        clock.round(call)
    else:
        TimedRounds(clock).pedantic(call, clock.flush_and_block, rounds=1)
    assert fake_gpu.trace == ROUND


def test_flush_buffer_is_twice_the_l2(fake_gpu):
    assert DeviceClock(CPU).flush_buffer.nbytes == 2 * fake_gpu.L2_cache_size


def test_spin_lasts_at_least_as_long_as_the_blocking_kernel(fake_gpu):
    clock = DeviceClock(CPU)
    fake_gpu.kernels.clear()
    clock.blocking_kernel_s = 2e-3
    clock.flush_and_block()
    name, start_us, end_us = fake_gpu.kernels[0]
    assert name == "spin_kernel(long)"
    assert end_us - start_us == pytest.approx(2e3 * FALLBACK_MAX_SM_CLOCK_MHZ / 1800)


def test_late_round_is_counted(fake_gpu):
    clock = DeviceClock(CPU)
    fake_gpu.host_is_late = True
    clock.round(lambda: None)
    assert (clock.late_rounds, clock.blocking_kernel_s) == (1, 2e-3)
    clock.reset_counters(1)
    assert clock.late_rounds == 0


def test_overheads_are_subtracted(fake_gpu):
    clock = DeviceClock(CPU, launch_overhead_s=0.25e-6)
    assert clock.event_overhead_s == pytest.approx(1e-6)
    assert clock.timer.__name__ == "cuda_kernel_timer"
    assert clock.round(lambda: fake_gpu.work(1e-3))[0] == pytest.approx(1e-3 - 0.25e-6)
    uncalibrated = DeviceClock(CPU)
    assert uncalibrated.timer.__name__ == "cuda_event_timer"
    assert uncalibrated.round(lambda: fake_gpu.work(1e-3))[0] == pytest.approx(1e-3)


def test_long_call_has_a_longer_blocking_kernel(fake_gpu, monkeypatch):
    clock = DeviceClock(CPU)
    clock.size_blocking_kernel(lambda: None)
    short_s = clock.blocking_kernel_s
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: time.sleep(0.1))
    clock.size_blocking_kernel(lambda: None)
    assert short_s < 1e-3 < clock.blocking_kernel_s < 0.01


def test_old_tensors_are_not_freed_between_readings_of_the_memory(fake_gpu):
    """The garbage collector freed gigabytes between two readings: a saved peak was negative."""
    clock, enabled = DeviceClock(CPU), []
    clock.size_blocking_kernel(lambda: enabled.append(gc.isenabled()))
    assert set(enabled) == {False}
    assert gc.isenabled()


def test_saved_fields_of_a_device_clock(fake_gpu, pytestconfig):
    clock = DeviceClock(CPU, launch_overhead_s=0.0)
    saved = runner.measure(TimedRounds(clock), lambda: fake_gpu.work(1e-3), clock, pytestconfig)
    assert saved["call_clock_mhz"] == pytest.approx(1800)
    assert saved["cycles"] == pytest.approx(1.8e6, rel=1e-3)
    assert saved["peak_memory_bytes"] == 64
    assert saved["late_rounds"] == 0
    assert saved["interval"] < 1e-6
