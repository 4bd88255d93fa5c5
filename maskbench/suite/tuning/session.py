"""The searches of a pytest session."""

from __future__ import annotations

import pytest

from maskbench.suite.cell import known_skip_reason
from maskbench.suite.collection import CELL_KEY
from maskbench.suite.journaling import JOURNALING
from maskbench.suite.options import RUN_CONFIG, benchmarking
from maskbench.suite.precompile import use_one_compile_thread
from maskbench.suite.tuned import kept_here
from maskbench.suite.tuning.results import ResultReporter
from maskbench.suite.tuning.searches import Searches

AHEAD = 6  # problems


def start_searches(session: pytest.Session) -> Searches:
    """The searches of the session's cells that have no result yet.

    A CPU has one worker, because each kernel uses all cores; a GPU's workers leave a core to the
    process that times. With several GPUs, nobody knows whose the next problem will be, so nothing
    is compiled ahead.
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
        if workload.phase.is_search
        and not known_skip_reason(workload, variant, True)
        and not kept_here(workload)
    ]
    use_one_compile_thread()
    config.pluginmanager.register(ResultReporter(config), "maskbench-tuning")
    jobs = 1 if run.device == "cpu" else max(1, run.jobs - 1)
    return Searches(workloads, jobs, 0 if config.option.gpus else AHEAD, run.mask_request)
