"""The pytest plugin, in the order of a session: options, header, cells, compilation, fixtures.

`RunSaver` and `ProgressReporter` are plugins of their own, which are registered here.
"""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.backends import registry
from maskbench.suite.cache_folders import unusable_folder
from maskbench.suite.cache_repair import repair
from maskbench.suite.cell import Cell, CellStatus
from maskbench.suite.collection import (
    CELL_KEY,
    assign_workloads,
    cell_keys,
    is_benchmark,
    parametrize,
    uses_clock,
)
from maskbench.suite.options import RUN_CONFIG, add_options, benchmarking, parse_config
from maskbench.suite.precompile import compile_task, precompile
from maskbench.suite.progress import ProgressReporter
from maskbench.suite.saving import CELL_RECORD, RunSaver, require_writable_output
from maskbench.suite.session_clock import get_clock, start_clock
from maskbench.suite.stages import stage_timer
from maskbench.suite.workload import Shape, Workload
from maskbench.timing.clock import Clock

DEFAULT_STORAGE = "file://./.benchmarks"  # pytest-benchmark's


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    run = config.stash[RUN_CONFIG] = parse_config(config.option)
    require_writable_output(config)
    config.pluginmanager.register(RunSaver(config), "maskbench-saving")
    # pytest-benchmark's folder names the system but not the GPU: two GPUs would share a history.
    if config.option.benchmark_storage == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"{DEFAULT_STORAGE}/{device_name(run.device)}"


def device_name(device: str) -> str:
    """The device as a folder name, such as NVIDIA_H100_80GB_HBM3."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu_{platform.machine()}"
    return "".join(c if c.isalnum() else "_" for c in name)


def pytest_sessionstart(session: pytest.Session) -> None:
    # Not in pytest_configure: the terminal reporter may be registered later than this plugin.
    config = session.config
    terminal: pytest.TerminalReporter | None
    terminal = config.pluginmanager.get_plugin("terminalreporter")  # None with -p no:terminal
    if terminal and benchmarking(config):
        progress = ProgressReporter(terminal, config.stash[RUN_CONFIG])
        config.pluginmanager.register(progress, "maskbench-progress")


def pytest_report_header(config: pytest.Config) -> str:
    found, missing = [], []
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
    tasks = [task for key in cell_keys(session.items) if (task := compile_task(*key))]
    timed = any(map(uses_clock, session.items))
    uses_cache = tasks or (timed and run.device == "cuda")
    if uses_cache and (problem := unusable_folder()):
        raise pytest.UsageError(problem)
    for line in repair() if uses_cache else []:
        write_line(config, line)
    if timed and (problem := start_clock(config)):
        write_line(config, f"times include a kernel's launch and completion: {problem}")
    for item in filter(is_benchmark, session.items):
        set_benchmark_options(item)
    if tasks:
        with stage_timer("compile ahead"):
            failures = precompile(tasks, run.jobs)
        for failure in failures:
            write_line(config, f"compiled in the timing process: {failure}")


def write_line(config: pytest.Config, text: str) -> None:
    """Write a line to the terminal, unless pytest has none (-p no:terminal)."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal:
        terminal.write_line(f"maskbench: {text}")


def set_benchmark_options(item: pytest.Item) -> None:
    """Set the timer and the group in a single mark: pytest-benchmark reads only one."""
    options: dict[str, object] = {}
    if uses_clock(item):
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
def workload(request: pytest.FixtureRequest, mask: str, seq_len: int) -> Workload:
    """What the cell computes."""
    item: pytest.Item = request.node
    return item.stash[CELL_KEY].workload


@pytest.fixture
def cell_status(request: pytest.FixtureRequest, workload: Workload) -> Iterator[CellStatus]:
    """Records why a cell was not timed; afterwards frees GPU memory if it may run short."""
    item: pytest.Item = request.node
    record = {**workload.fields(), "backend": item.stash[CELL_KEY].variant}
    item.stash[CELL_RECORD] = record
    yield CellStatus(record)
    if workload.device == "cuda":
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        if torch.cuda.memory_reserved() > total_bytes / 3:
            gc.collect()  # takes 0.3 s, so only when memory may run short
            torch.cuda.empty_cache()


@pytest.fixture
def cell(
    request: pytest.FixtureRequest,
    workload: Workload,
    benchmark: BenchmarkFixture,
    clock: Clock,
    cell_status: CellStatus,
) -> Cell:
    """Checks one backend on one workload, then times it: `cell.check_and_time()`."""
    item: pytest.Item = request.node
    return Cell(
        workload=workload,
        backend=item.stash[CELL_KEY].variant,
        backend_named=item.config.stash[RUN_CONFIG].backends_named,
        benchmark=benchmark,
        clock=clock,
        config=item.config,
        status=cell_status,
    )
