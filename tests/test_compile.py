"""Wall time from binding FlexAttention to its first result: what compilation costs a user.

Cold: the caches are empty, as on a new machine. Warm: an earlier call has compiled the kernels, so
the call is traced, looked up and loaded. Python and the compiler have been started before. Cells of
the backward include the forward of training, up to the first gradients.
"""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import Full, Mask
from maskbench.records import Outcome
from maskbench.suite.attention_call import run_attention
from maskbench.suite.cell import CellStatus
from maskbench.suite.kernel_cache import CACHE_VARIABLES
from maskbench.suite.stages import stage_timer
from maskbench.suite.work import mask_work
from maskbench.suite.workload import Inputs, Workload, make_inputs

CACHES = {"cold": 1, "warm": 3}  # state of the caches -> rounds
pytestmark = pytest.mark.compile


def compile_once(mask: Mask, inputs: Inputs) -> None:
    """One first call of FlexAttention; with dout also its gradients."""
    q, k, v, dout = inputs
    run_attention(registry.load("flex")(mask, q, k, v), dout)
    if q.is_cuda:
        torch.cuda.synchronize()


@pytest.fixture(scope="module")
def compiler(device: str) -> None:
    """Starts the compiler: its first kernel takes seconds longer than the next."""
    q = torch.randn(1, 1, 256, 64, device=device)
    with suppress(Unsupported):  # each cell reports the reason
        compile_once(Full(seq_len=256), Inputs(q, q, q, None))


def compile_and_time(
    cache: str,
    workload: Workload,
    benchmark: BenchmarkFixture,
    cell_status: CellStatus,
    empty_caches: Callable[[], None],
) -> None:
    """Time first calls of FlexAttention, each with empty caches if `cache` is "cold"."""
    try:
        mask = workload.build_mask()
    except ValueError as error:
        cell_status.skip(Outcome.SKIPPED, str(error))
    needs_gradients = workload.phase.needs_gradients
    inputs = make_inputs(mask, workload.shape, workload.dtype, workload.device, needs_gradients)

    def time_first_calls() -> None:
        if cache == "warm":
            compile_once(mask, inputs)
        benchmark.extra_info |= {
            **workload.fields(),
            **mask_work(workload).fields(),
            "backend": "flex",
            "form": f"{cache} cache",
            "formulation": f"{cache}_cache",
            "cache": cache,
            # The next three fields describe device time; a compile time is wall time.
            "host_bound": False,
            "late_rounds": 0,
            "throttle": [],
        }
        try:
            benchmark.pedantic(
                compile_once,
                args=(mask, inputs),
                setup=empty_caches if cache == "cold" else None,
                rounds=CACHES[cache],
            )
        except BaseException:
            benchmark.has_error = True  # pytest-benchmark then saves no time of this cell
            raise

    try:
        with stage_timer("compile"):
            cell_status.run_guarding_oom(time_first_calls)
    except Unsupported as reason:
        cell_status.skip(Outcome.UNSUPPORTED, str(reason))


@pytest.fixture
def empty_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], None]:
    """A function that points every cache at a new folder."""

    def set_folders() -> None:
        for name in CACHE_VARIABLES:
            monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))

    return set_folders


def test_compile_forward(
    cache: str,
    workload: Workload,
    benchmark: BenchmarkFixture,
    cell_status: CellStatus,
    compiler: None,
    empty_caches: Callable[[], None],
) -> None:
    compile_and_time(cache, workload, benchmark, cell_status, empty_caches)


def test_compile_backward(
    cache: str,
    workload: Workload,
    benchmark: BenchmarkFixture,
    cell_status: CellStatus,
    compiler: None,
    empty_caches: Callable[[], None],
) -> None:
    compile_and_time(cache, workload, benchmark, cell_status, empty_caches)
