"""Wall time from binding FlexAttention to its first result: what compilation costs a user.

Cold: empty caches, as on a new machine. Warm: compiled by an earlier process, so the call is
traced, looked up and loaded. Python and the compiler have been started before. The backward's
cells hold the forward of training too, up to the first gradients.
"""

from contextlib import suppress

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import Full
from maskbench.records import Outcome
from maskbench.suite.cell import run_attention
from maskbench.suite.kernel_cache import CACHE_VARIABLES
from maskbench.suite.stages import stage_timer
from maskbench.suite.workload import Inputs, make_inputs, mask_statistics

CACHES = {"cold": 1, "warm": 3}  # rounds of each
pytestmark = pytest.mark.compile


def compile_once(mask, q, k, v, dout):
    run_attention(registry.load("flex")(mask, q, k, v), dout)
    if q.is_cuda:
        torch.cuda.synchronize()


@pytest.fixture(scope="module")
def compiler(device):
    """Starts the compiler: its first kernel takes seconds longer than the next."""
    q = torch.randn(1, 1, 256, 64, device=device)
    with suppress(Unsupported):  # each cell says so
        compile_once(Full(seq_len=256), *Inputs(q, q, q, None))


def compile_and_time(workload, cache, benchmark, cell_status, monkeypatch, tmp_path_factory):
    try:
        mask = workload.build_mask()
    except ValueError as error:
        cell_status.skip(Outcome.SKIPPED, str(error))
    needs_gradients = workload.phase.needs_gradients
    inputs = make_inputs(mask, workload.shape, workload.dtype, workload.device, needs_gradients)

    def empty_caches():
        if cache == "cold":
            for name in CACHE_VARIABLES:
                monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))

    def time():
        if cache == "warm":
            compile_once(mask, *inputs)
        benchmark.extra_info |= {
            **workload.fields(),
            **mask_statistics(workload.mask, workload.seq_len, workload.shape.batch),
            **{"backend": "flex", "form": f"{cache} cache", "cache": cache},
            **{"formulation": f"{cache}_cache"},
            **{"host_bound": False, "late_rounds": 0, "throttle": []},  # wall time, not a device's
        }
        try:
            benchmark.pedantic(
                compile_once, args=(mask, *inputs), setup=empty_caches, rounds=CACHES[cache]
            )
        except BaseException:
            benchmark.has_error = True  # pytest-benchmark then saves the other cells
            raise

    try:
        with stage_timer("compile"):
            cell_status.run_guarding_oom(time)
    except Unsupported as reason:
        cell_status.skip(Outcome.UNSUPPORTED, str(reason))


def test_compile_forward(
    cache, workload, benchmark, cell_status, compiler, monkeypatch, tmp_path_factory
):
    compile_and_time(workload, cache, benchmark, cell_status, monkeypatch, tmp_path_factory)


def test_compile_backward(
    cache, workload, benchmark, cell_status, compiler, monkeypatch, tmp_path_factory
):
    compile_and_time(workload, cache, benchmark, cell_status, monkeypatch, tmp_path_factory)
