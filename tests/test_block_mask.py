"""Time to build a BlockMask: from block bounds, by torch's search, by torch's compiled search."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.attention.flex_attention import BlockMask

from maskbench.backends.flex import cpp_compiler
from maskbench.records import Outcome
from maskbench.suite.attention_call import WrongResult
from maskbench.suite.block_masks import BUILDERS, blocks_by_brute_force, listed_blocks
from maskbench.suite.cell import CellStatus, time_call
from maskbench.suite.stages import stage_timer
from maskbench.suite.work import mask_work
from maskbench.suite.workload import Workload
from maskbench.timing.clock import Clock


def test_block_mask(
    builder: str,
    workload: Workload,
    cell_status: CellStatus,
    clock: Clock,
    benchmark: BenchmarkFixture,
    pytestconfig: pytest.Config,
) -> None:
    try:
        mask = workload.build_mask()
    except ValueError as error:
        cell_status.skip(Outcome.SKIPPED, str(error))
    if BUILDERS[builder].compiles and workload.device == "cpu" and not cpp_compiler():
        cell_status.skip(Outcome.UNSUPPORTED, "torch.compile on a CPU needs a C++ compiler")

    def check(block_mask: BlockMask) -> None:
        with stage_timer("check"):
            expected = blocks_by_brute_force(mask, workload.device)
            pairs = zip(listed_blocks(block_mask), expected, strict=True)
            wrong = sum(int((found != blocks).sum()) for found, blocks in pairs)
        if wrong:
            raise WrongResult(f"{wrong} blocks differ from those of the mask")

    def check_and_time() -> None:
        with stage_timer("compile"):
            build = BUILDERS[builder].prepare(mask, workload.device)
            block_mask = build()
        check(block_mask)
        benchmark.extra_info |= {
            **workload.fields(),
            **mask_work(workload).fields(),
            "backend": builder,
            "form": BUILDERS[builder].form,
            "formulation": BUILDERS[builder].formulation,
            "flops": 0,
            "tflops": 0.0,
            "bytes": 0,
            "gb_per_s": 0.0,
            "error": 0,
            "error_bound": 0,
            "error_of": "blocks",
            "checked": "all blocks",
        }
        benchmark.extra_info |= time_call(benchmark, build, clock, pytestconfig, check)

    cell_status.run_guarding_oom(check_and_time)
