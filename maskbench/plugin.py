"""The pytest plugin, in the order of a session: options, header, cells, compilation, fixtures.

`RunSaver` and `ProgressReporter` are plugins of their own, which are registered here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.backends import registry
from maskbench.suite.cache_folders import unusable_folder
from maskbench.suite.cache_repair import repair
from maskbench.suite.cell import Cell, CellStatus, CheckedCell, will_be_skipped
from maskbench.suite.collection import (
    CELL_KEY,
    assign_workloads,
    cell_keys,
    is_benchmark,
    parametrize,
    uses_clock,
)
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.device_name import device_name
from maskbench.suite.isolation import CellIsolation
from maskbench.suite.journaling import JOURNALING, Journaling
from maskbench.suite.locks import lock_target
from maskbench.suite.nothing_to_time import why_nothing_is_timed
from maskbench.suite.option_parsing import parse_config, select_device, visible_gpus
from maskbench.suite.options import RUN_CONFIG, add_options, benchmarking
from maskbench.suite.outcomes import CELL_RECORD
from maskbench.suite.precompile import compile_task, precompile
from maskbench.suite.process_state import restored_after_import
from maskbench.suite.progress import ProgressReporter
from maskbench.suite.refused_options import refuse_grouping, refuse_options
from maskbench.suite.replay import Replay
from maskbench.suite.saving import RUN_SAVER, RunSaver
from maskbench.suite.session_clock import get_clock, start_clock
from maskbench.suite.stages import stage_timer
from maskbench.suite.supervised import Supervised, end_on_signals
from maskbench.suite.targets import NO_TARGETS, take_over_targets
from maskbench.suite.workload import Shape, Workload
from maskbench.supervision.all_gpus import run_on_all_gpus
from maskbench.supervision.link import REPORT, TIME, Assignment, SupervisorLink
from maskbench.supervision.streams import keep_streams_usable
from maskbench.supervision.supervisor import Supervisor
from maskbench.timing.clock import Clock

PYTEST_MODULE = ("pytest", "__main__.py")  # the end of sys.argv[0] in python -m pytest
LINK = pytest.StashKey["SupervisorLink | None"]()
DEFAULT_STORAGE = "file://./.benchmarks"  # pytest-benchmark's


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run a session with benchmarks in a child process, so that a crash does not end it."""
    if benchmarking(config):
        keep_streams_usable()
    link = config.stash[LINK] = SupervisorLink.connect()
    if link or not can_be_supervised(config):
        return None  # pytest goes on in this process
    option = config.option
    gpus = visible_gpus(option.gpus, select_device(option.device))
    supervisor = Supervisor(option.cell_timeout)
    return run_on_all_gpus(supervisor, gpus) if gpus else supervisor.run()


def can_be_supervised(config: pytest.Config) -> bool:
    """Whether the session times, and the command of this process can be run again as a child.

    A debugger needs the process that it was started for, and a profile the one that was profiled.
    """
    program = Path(sys.argv[0])
    is_pytest = program.stem in ("pytest", "py.test") or program.parts[-2:] == PYTEST_MODULE
    is_command = is_pytest and [*config.invocation_params.args] == sys.argv[1:]
    option = config.option
    needs_one_process = option.usepdb or option.trace or option.benchmark_cprofile
    return benchmarking(config) and is_command and not needs_one_process


def pytest_configure(config: pytest.Config) -> None:
    run = config.stash[RUN_CONFIG] = parse_config(config.option)
    refuse_options(config)
    config.pluginmanager.register(CellIsolation(), "maskbench-isolation")
    # pytest-benchmark's folder names the system but not the GPU: two GPUs would share a history.
    if config.option.benchmark_storage == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"{DEFAULT_STORAGE}/{device_name(run.device)}"
    link = config.stash.get(LINK, None)  # None in workers of pytest-xdist, too
    if config.option.gpus and benchmarking(config) and not link:
        raise pytest.UsageError("--gpus: needs pytest as a command, without --pdb and --trace")
    assignment = link.assignment if link else Assignment()
    plugins = config.pluginmanager
    if benchmarking(config):
        config.add_cleanup(end_on_signals())
    journaling = config.stash[JOURNALING] = Journaling(config, assignment)
    plugins.register(journaling, "maskbench-journaling")
    targets = take_over_targets(config)
    if assignment.role == TIME:  # the last child saves; until then the first holds its target
        if targets.json and assignment.worker == 0:
            config.add_cleanup(lock_target("--benchmark-json", targets.json).remove)
        targets = NO_TARGETS
    elif assignment.role == REPORT:
        config.option.maxfail = 0  # -x has ended the children that time, not this one
    saver = config.stash[RUN_SAVER] = RunSaver(config, targets, journaling)
    plugins.register(saver, "maskbench-saving")
    if link:
        has_all = saver.has_all_of_the_journal
        supervised = Supervised(link, run.device, journaling.is_finished, has_all)
        plugins.register(supervised, "maskbench-supervised")


def pytest_sessionstart(session: pytest.Session) -> None:
    # Not in pytest_configure: the terminal reporter may be registered later than this plugin.
    config = session.config
    terminal: pytest.TerminalReporter | None
    terminal = config.pluginmanager.get_plugin("terminalreporter")  # None with -p no:terminal
    if terminal and benchmarking(config):
        is_finished = config.stash[JOURNALING].is_finished
        progress = ProgressReporter(terminal, config.stash[RUN_CONFIG], is_finished)
        config.pluginmanager.register(progress, "maskbench-progress")


def pytest_report_header(config: pytest.Config) -> str:
    found, missing = [], []
    with restored_after_import():
        for name in registry.BACKENDS:
            try:
                registry.load(name)
                found.append(name)
            except registry.BackendUnavailable as error:  # its cells are skipped with this reason
                missing.append(f"{name} ({error})")
    device = device_name(config.stash[RUN_CONFIG].device)
    line = f"maskbench: device {device}, torch {torch.__version__}"
    line += f", backends found: {', '.join(found)}"
    return line + f"; missing: {', '.join(missing) or 'none'}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, metafunc.config.stash[RUN_CONFIG])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # pytest-benchmark would skip the unwanted items one by one, which takes seconds.
    if config.option.benchmark_only:
        _keep(config, items, is_benchmark)
    elif config.option.benchmark_skip:
        _keep(config, items, lambda item: not is_benchmark(item))
    assign_workloads(items, config.stash[RUN_CONFIG])


def _keep(
    config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]
) -> None:
    """Deselect the items that are not wanted."""
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


@pytest.hookimpl(trylast=True)  # after the terminal reports how many cells there are
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the clock and compile in parallel, before the first cell."""
    config = session.config
    nothing_will_run = session.testsfailed and not config.option.continue_on_collection_errors
    if not benchmarking(config) or nothing_will_run:
        return
    run = config.stash[RUN_CONFIG]
    refuse_grouping(session.items, config.option.benchmark_group_by)
    journaling = config.stash[JOURNALING]
    pending = [item for item in session.items if not journaling.is_finished(item)]
    with restored_after_import():
        if nothing_to_time := why_nothing_is_timed(pending, run):
            raise pytest.UsageError(nothing_to_time)
    with restored_after_import():
        keys = [key for key in cell_keys(pending) if not will_be_skipped(*key, run.backends_named)]
        tasks = [task for key in keys if (task := compile_task(*key))]
    timed = any(map(uses_clock, pending))
    uses_cache = tasks or (timed and run.device == "cuda")
    if uses_cache and (problem := unusable_folder()):
        raise pytest.UsageError(problem)
    for line in repair() if uses_cache else []:
        write_line(config, line)
    if timed and (problem := start_clock(config)):
        write_line(config, f"times include a kernel's launch and completion: {problem}")
    for item in filter(is_benchmark, session.items):
        set_benchmark_options(item, journaling.replay)
    saver = config.stash[RUN_SAVER]
    journaling.begin(saver.info, saver.shares_device())
    if tasks:
        with stage_timer("compile ahead"):
            failures = precompile(tasks, run.jobs, run.mask_request)
        for failure in failures:
            write_line(config, f"compiled in the timing process: {failure}")
    if link := config.stash.get(LINK, None):
        journal = journaling.journal
        planned = len(journaling.planned)
        link.send("ready", journal=journal and str(journal.path), planned=planned)


def write_line(config: pytest.Config, text: str) -> None:
    """Write a line to the terminal, unless pytest has none (-p no:terminal)."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal:
        terminal.write_line(f"maskbench: {text}")


def set_benchmark_options(item: pytest.Item, replay: Replay | None) -> None:
    """Set the timer and the group in a single mark: pytest-benchmark reads only one."""
    options: dict[str, object] = {}
    if replay and (timer := replay.timer(item.nodeid)):
        options["timer"] = timer
    elif uses_clock(item):
        options["timer"] = get_clock(item.config).timer
    if CELL_KEY in item.stash:
        workload, _ = item.stash[CELL_KEY]
        options["group"] = f"{workload.mask} {workload.phase} {workload.seq_len}"
    item.add_marker(pytest.mark.benchmark(**options))


@pytest.fixture
def clock(pytestconfig: pytest.Config) -> Clock:
    """The clock of the session's device."""
    return get_clock(pytestconfig)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """The session's device: "cuda" or "cpu"."""
    return pytestconfig.stash[RUN_CONFIG].device


@pytest.fixture
def shape(pytestconfig: pytest.Config) -> Shape:
    """The session's batch, heads and head dimension."""
    return pytestconfig.stash[RUN_CONFIG].shape


@pytest.fixture
def workload(
    request: pytest.FixtureRequest, mask: str, seq_len: int, q_len: int | None
) -> Workload:
    """What the cell computes."""
    item: pytest.Item = request.node
    return item.stash[CELL_KEY].workload


@pytest.fixture
def cell_status(request: pytest.FixtureRequest, workload: Workload) -> Iterator[CellStatus]:
    """Records why a cell was not timed; afterwards frees GPU memory if it may run short."""
    item: pytest.Item = request.node
    record = item.stash[CELL_KEY].fields()
    item.stash[CELL_RECORD] = record
    yield CellStatus(record, workload.device)
    if workload.device == "cuda" and not device_is_lost("cuda"):
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        if torch.cuda.memory_reserved() > total_bytes / 3:
            gc.collect()  # takes 0.3 s, so only when memory may run short
            torch.cuda.empty_cache()


@pytest.fixture
def checked_cell(
    request: pytest.FixtureRequest,
    workload: Workload,
    benchmark: BenchmarkFixture,
    cell_status: CellStatus,
) -> CheckedCell:
    """Checks one backend on one workload, for tests that measure something else than its time."""
    item: pytest.Item = request.node
    return CheckedCell(
        workload=workload,
        backend=item.stash[CELL_KEY].variant,
        backend_named=item.config.stash[RUN_CONFIG].backends_named,
        benchmark=benchmark,
        status=cell_status,
    )


@pytest.fixture
def cell(checked_cell: CheckedCell, clock: Clock, pytestconfig: pytest.Config) -> Cell:
    """Checks one backend on one workload, then times it: `cell.check_and_time()`."""
    return Cell(**vars(checked_cell), clock=clock, config=pytestconfig)
