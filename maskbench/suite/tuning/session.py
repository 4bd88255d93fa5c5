"""The searches of a pytest session."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from maskbench.suite.cell import will_be_skipped
from maskbench.suite.collection import CELL_KEY
from maskbench.suite.journaling import JOURNALING
from maskbench.suite.options import RUN_CONFIG, benchmarking
from maskbench.suite.precompile import use_one_compile_thread
from maskbench.suite.tuned import require_targets
from maskbench.suite.tuning.results import ResultReporter
from maskbench.suite.tuning.searches import Searches
from maskbench.suite.workload import Workload

# torch's own search of a backward takes as long as several problems take on average.
PROBLEMS_AHEAD = 10
WORKERS_SHARE = 0.75  # of the GPU's free memory; the rest is for the process that times
WORKER_BYTES = 2**30  # of a CUDA context, the kernels and the buffer that flushes the L2
TENSORS_FORWARD, TENSORS_BACKWARD = 5, 10  # q, k, v, out, dout, dq, dk, dv and what is in between


def start_searches(session: pytest.Session) -> Searches:
    """The searches of the session's cells that have no result yet.

    A CPU has one worker, because each kernel uses all cores; a GPU's workers leave a core to the
    process that times, and fit into the GPU's memory. With several GPUs, it is not known which
    process gets the next problem, so nothing is compiled ahead.
    """
    config = session.config
    if not benchmarking(config):
        pytest.skip("a search times, and benchmarks are disabled")
    run, is_finished = config.stash[RUN_CONFIG], config.stash[JOURNALING].is_finished
    cells = [
        item.stash[CELL_KEY]
        for item in session.items
        if CELL_KEY in item.stash and not is_finished(item)
    ]
    workloads = [
        workload
        for workload, variant in cells
        if workload.phase.is_search and not will_be_skipped(workload, variant, True)
    ]
    require_targets(workloads)
    use_one_compile_thread()
    config.pluginmanager.register(ResultReporter(config), "maskbench-tuning")
    jobs = 1 if run.device == "cpu" else max(1, min(run.jobs - 1, workers_that_fit(workloads)))
    return Searches(workloads, jobs, 0 if config.option.gpus else PROBLEMS_AHEAD, run.mask_request)


def workers_that_fit(workloads: Sequence[Workload]) -> int:
    """How many workers the memory of the GPU has room for, beside the process that times.

    A candidate that found no memory would be dropped, although it may be the fastest.
    """
    if not workloads:
        return 1
    free, _ = torch.cuda.mem_get_info()
    worker = WORKER_BYTES + max(map(_bytes_of_a_call, workloads))
    return max(1, int(WORKERS_SHARE * free / worker))


def _bytes_of_a_call(workload: Workload) -> int:
    """Of its tensors, each as large as q, or k if that is larger."""
    shape = workload.shape
    rows = max(
        shape.heads * (workload.q_len or workload.seq_len), shape.kv_heads * workload.seq_len
    )
    numbers = shape.batch * rows * max(shape.head_dim, shape.out_dim)
    tensors = TENSORS_BACKWARD if workload.phase.needs_gradients else TENSORS_FORWARD
    return tensors * numbers * int(getattr(torch, workload.dtype).itemsize)
