"""The clock on CUDA: what it takes for nothing, and its device times against CUPTI's."""

import statistics
import time
from functools import cache

import numpy as np
import pytest
import torch

from maskbench.backends import registry
from maskbench.records import Phase
from maskbench.suite.cell import run_attention
from maskbench.suite.workload import Shape, Workload, cached_inputs
from maskbench.timing import clock as clocks
from maskbench.timing import runner
from maskbench.timing.calibration import (
    DISCARDED_ROUNDS,
    PROFILED_BLOCKING_KERNEL_S,
    ROUNDS,
    cupti,
    tiny_kernel,
)
from masks import PATTERNS


@pytest.fixture
def cuda(clock, pytestconfig):
    if not isinstance(clock, clocks.DeviceClock):
        pytest.skip("device time is measured on CUDA only")
    if pytestconfig.getoption("benchmark_only"):
        pytest.skip("a test of the clock, not a benchmark: run without --benchmark-only")
    if not clock.warm:
        clock.warm_up()
    return clock


def test_empty_call_takes_no_time(cuda):
    cuda.size_blocking_kernel(lambda: None)
    median = statistics.median(cuda.round(lambda: None)[0] for _ in range(50))
    assert abs(median + cuda.launch_overhead_s) < 0.5e-6, "no kernel, so no launch to take off"


def test_a_host_that_is_late_is_noticed(cuda):
    x = torch.zeros(1024, device="cuda")
    cuda.size_blocking_kernel(lambda: x.add_(1))
    cuda.late_rounds = 0
    for _ in range(20):
        cuda.round(lambda: x.add_(1))
    assert cuda.late_rounds <= 1
    cuda.late_rounds = 0
    cuda.round(lambda: time.sleep(0.05))
    assert cuda.late_rounds == 1


def test_a_host_that_sleeps_is_host_bound(cuda, benchmark, pytestconfig):
    x = torch.zeros(1024, device="cuda")

    def call():
        time.sleep(0.003)
        x.add_(1)

    measured = runner.measure(benchmark, call, cuda, pytestconfig)
    assert measured["host_bound"]
    assert measured["host_us"] > 3000
    assert benchmark.stats["median"] < 1e-3, "its device time is the addition's"
    benchmark.has_error = True  # no cell, so not to be saved


def test_cycles_of_a_call_are_counted(cuda):
    """torch's spinning kernel returns after so many cycles, whatever the clock."""
    cycles = 2_000_000
    cuda.size_blocking_kernel(lambda: torch.cuda._sleep(cycles))
    cuda.reset_counters(20)
    times = [cuda.round(lambda: torch.cuda._sleep(cycles))[0] for _ in range(20)]
    assert len(cuda.sm_clock_hz()) == 20
    assert np.median(times * cuda.sm_clock_hz()) == pytest.approx(cycles, rel=0.005)


def test_l2_is_cold(cuda):
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    source = torch.ones(l2_bytes // 8, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    cuda.size_blocking_kernel(lambda: target.copy_(source))
    cold = statistics.median(cuda.round(lambda: target.copy_(source))[0] for _ in range(20))

    def twice():
        target.copy_(source)
        target.copy_(source)

    warm = statistics.median(cuda.round(twice)[0] for _ in range(20)) - cold
    assert warm < cold


FIDELITY = [
    (*place, backend, direction)
    for place in (
        ("causal", 256),
        ("causal_sliding_window", 1024),
        ("multi_document_causal", 4096),
        ("causal", 16384),
    )
    for backend in ("flex", "flex_flash", "sdpa_cudnn", "flash_attn")
    for direction in ("forward", "backward")
]


WATCHED_ROUNDS = 30


@cache
def watched_launch(clock) -> float:
    """Beyond its launch, s that a pair of events reads around the smallest kernel under CUPTI.

    CUPTI puts work of its own on the stream, before and after each kernel.
    """
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    ours, theirs = cupti(clock, tiny_kernel(), ROUNDS)
    return float(np.median((ours - theirs)[DISCARDED_ROUNDS:]))


def watched(clock, call) -> dict[str, float]:
    """Median device s of the same calls by our events and by CUPTI, and the SM cycles they took.

    Of the same calls: at a card's power cap two groups of calls were up to 5 % apart.
    """
    launch_overhead_s = watched_launch(clock)
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    clock.reset_counters(WATCHED_ROUNDS)
    ours, theirs = cupti(clock, call, WATCHED_ROUNDS)
    cycles = ours * clock.sm_clock_hz()
    return {
        "events_s": float(np.median(ours[DISCARDED_ROUNDS:])) - launch_overhead_s,
        "cupti_s": float(np.median(theirs[DISCARDED_ROUNDS:])),
        "watched_cycles": float(np.nanmedian(cycles[DISCARDED_ROUNDS:])),
        "watched_launch_s": launch_overhead_s,
    }


# by CUDA's events, so that pytest-benchmark's own figures are the device's, too
@pytest.mark.parametrize(("mask", "seq_len", "backend", "direction"), FIDELITY)
def test_device_time_is_cuptis(mask, seq_len, backend, direction, cuda, benchmark, pytestconfig):
    workload = Workload(mask, seq_len, Shape(8, 16, 16, 64), "float16", "cuda", Phase(direction))
    tensors = cached_inputs(workload)
    built = PATTERNS[mask](seq_len=seq_len, batch=8)
    try:
        bind = registry.load(backend)
    except registry.BackendUnavailable as said:
        pytest.skip(str(said))
    results, call = run_attention(
        bind(built, tensors.inputs.q, tensors.inputs.k, tensors.inputs.v), tensors.inputs.dout
    )
    assert tensors.reference.compare(results).within_tolerance
    benchmark.extra_info |= {**workload.fields(), "direction": f"fidelity_{direction}"}
    benchmark.extra_info |= {
        "backend": backend,
        **runner.measure(benchmark, call, cuda, pytestconfig),
    }
    found = watched(cuda, call)
    benchmark.extra_info |= found
    ours, theirs = found["events_s"], found["cupti_s"]
    row = f"{mask} {backend} {direction} S={seq_len}"
    print(f"{row:60} {ours * 1e6:9.1f} {theirs * 1e6:9.1f} {(ours - theirs) * 1e6:+7.2f} us")
    assert abs(ours - theirs) <= max(1e-6, 0.01 * theirs)
