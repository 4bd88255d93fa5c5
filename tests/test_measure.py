"""The device times of the clock against the kernel times of CUPTI, on CUDA.

Run it with `python -m pytest tests/test_measure.py -s --device cuda`. It prints both times of each
cell and fails where they are more than 1 us and more than 1 % apart.
"""

from functools import cache

import numpy as np
import pytest

from maskbench.backends import registry
from maskbench.records import Phase
from maskbench.suite.attention_call import require_within_tolerance, run_attention
from maskbench.suite.workload import Shape, Workload, cached_inputs
from maskbench.timing import runner
from maskbench.timing.calibration import (
    DISCARDED_ROUNDS,
    PROFILED_BLOCKING_KERNEL_S,
    ROUNDS,
    measure_with_cupti,
    tiny_kernel,
)
from masks import PATTERNS

SHAPE = Shape(8, 16, 16, 64)
FIDELITY_CELLS = [
    (mask, seq_len, backend, direction)
    for mask, seq_len in (
        ("causal", 256),
        ("causal_sliding_window", 1024),
        ("multi_document_causal", 4096),
        ("causal", 16384),
    )
    for backend in ("flex", "flex_flash", "sdpa_cudnn", "flash_attn")
    for direction in ("forward", "backward")
]
PROFILED_ROUNDS = 30


@pytest.fixture
def cuda_clock(clock, pytestconfig):
    """The session's clock, warmed up; skips on a CPU, and with --benchmark-only."""
    if not clock.is_device_time:
        pytest.skip("device time is measured on CUDA only")
    if pytestconfig.getoption("benchmark_only"):
        pytest.skip("a test of the clock, not a benchmark: run without --benchmark-only")
    if not clock.warm:
        clock.warm_up()
    return clock


@cache
def profiled_launch_overhead(clock) -> float:
    """The time between two events around a tiny kernel, less its CUPTI time, in seconds.

    It is added to the clock's launch overhead: CUPTI enqueues work of its own before and after
    each kernel.
    """
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    events_s, cupti_s = measure_with_cupti(clock, tiny_kernel(), ROUNDS)
    return float(np.median((events_s - cupti_s)[DISCARDED_ROUNDS:]))


def profiled_times(clock, call) -> dict[str, float]:
    """Median device times of `call` by the clock and by CUPTI in seconds, and its SM cycles.

    Both time the same calls. At the power cap of a GPU, two groups of calls were up to 5 % apart.
    """
    launch_overhead_s = profiled_launch_overhead(clock)
    clock.blocking_kernel_s = PROFILED_BLOCKING_KERNEL_S
    clock.reset_counters(PROFILED_ROUNDS)
    events_s, cupti_s = measure_with_cupti(clock, call, PROFILED_ROUNDS)
    cycles = events_s * clock.sm_clock_hz()
    return {
        "events_s": float(np.median(events_s[DISCARDED_ROUNDS:])) - launch_overhead_s,
        "cupti_s": float(np.median(cupti_s[DISCARDED_ROUNDS:])),
        "watched_cycles": float(np.nanmedian(cycles[DISCARDED_ROUNDS:])),
        "watched_launch_s": launch_overhead_s,
    }


@pytest.mark.parametrize(("mask", "seq_len", "backend", "direction"), FIDELITY_CELLS)
def test_device_time_is_cuptis(
    mask, seq_len, backend, direction, cuda_clock, benchmark, pytestconfig
):
    workload = Workload(mask, seq_len, SHAPE, "float16", "cuda", Phase(direction))
    checked = cached_inputs(workload)
    inputs = checked.inputs
    try:
        bind = registry.load(backend)
    except registry.BackendUnavailable as error:
        pytest.skip(str(error))
    bound = bind(PATTERNS[mask](seq_len=seq_len, batch=SHAPE.batch), inputs.q, inputs.k, inputs.v)
    results, call = run_attention(bound, inputs.dout)
    require_within_tolerance(checked.reference.compare(results), "its first call")
    benchmark.extra_info |= {**workload.fields(), "direction": f"fidelity_{direction}"}
    benchmark.extra_info |= {
        "backend": backend,
        **runner.measure(benchmark, call, cuda_clock, pytestconfig),
    }
    profiled = profiled_times(cuda_clock, call)
    benchmark.extra_info |= profiled
    events_s, cupti_s = profiled["events_s"], profiled["cupti_s"]
    difference_us = (events_s - cupti_s) * 1e6
    row = f"{mask} {backend} {direction} S={seq_len}"
    print(f"{row:60} {events_s * 1e6:9.1f} {cupti_s * 1e6:9.1f} {difference_us:+7.2f} us")
    if not abs(events_s - cupti_s) <= max(1e-6, 0.01 * cupti_s):
        pytest.fail(f"the clock and CUPTI differ by {difference_us:+.2f} us")
