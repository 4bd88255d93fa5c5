"""The clock on a real GPU: its results for calls whose time is known."""

import statistics
import time

import numpy as np
import pytest
import torch

from maskbench.timing import runner
from tests.unit.fake_benchmark import TimedRounds

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.fixture
def cuda_clock(clock):
    """The session's clock, warmed up; skips if the session runs on the CPU."""
    if not clock.is_device_time:
        pytest.skip("needs --device cuda")
    if not clock.warm:
        clock.warm_up()
    return clock


def test_empty_call_takes_no_time(cuda_clock):
    cuda_clock.size_blocking_kernel(lambda: None)
    median_s = statistics.median(cuda_clock.round(lambda: None)[0] for _ in range(50))
    error_s = median_s + cuda_clock.launch_overhead_s
    assert abs(error_s) < 0.5e-6, "without a kernel there is no launch to subtract"


def test_late_host_is_noticed(cuda_clock):
    x = torch.zeros(1024, device="cuda")
    cuda_clock.size_blocking_kernel(lambda: x.add_(1))
    cuda_clock.late_rounds = 0
    for _ in range(20):
        cuda_clock.round(lambda: x.add_(1))
    assert cuda_clock.late_rounds <= 1
    cuda_clock.late_rounds = 0
    cuda_clock.round(lambda: time.sleep(0.05))
    assert cuda_clock.late_rounds == 1


def test_call_that_sleeps_is_host_bound(cuda_clock, pytestconfig):
    x, benchmark = torch.zeros(1024, device="cuda"), TimedRounds(cuda_clock)

    def call():
        time.sleep(0.003)
        x.add_(1)

    saved = runner.measure(benchmark, call, cuda_clock, pytestconfig)
    assert saved["host_bound"]
    assert saved["host_us"] > 3000
    assert benchmark.stats["median"] < 1e-3, "its device time is that of the addition"


def test_cycles_of_a_call_are_counted(cuda_clock):
    """torch's spinning kernel returns after a given number of cycles, at any clock."""
    cycles = 2_000_000

    def call():
        torch.cuda._sleep(cycles)

    cuda_clock.size_blocking_kernel(call)
    cuda_clock.reset_counters(20)
    seconds = [cuda_clock.round(call)[0] for _ in range(20)]
    assert len(cuda_clock.sm_clock_hz()) == 20
    assert np.median(seconds * cuda_clock.sm_clock_hz()) == pytest.approx(cycles, rel=0.005)


def test_l2_is_cold(cuda_clock):
    """The second of two equal copies finds its data in the L2, the first does not."""
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    source = torch.ones(l2_bytes // 8, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy():
        target.copy_(source)

    def copy_twice():
        target.copy_(source)
        target.copy_(source)

    cuda_clock.size_blocking_kernel(copy)
    cold_s = statistics.median(cuda_clock.round(copy)[0] for _ in range(20))
    both_s = statistics.median(cuda_clock.round(copy_twice)[0] for _ in range(20))
    assert both_s - cold_s < cold_s
