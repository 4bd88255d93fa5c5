"""The pytest plugin: options, fixtures and hooks."""

from __future__ import annotations

import gc
import platform
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from maskbench.backends import registry
from maskbench.records import FORMAT, Outcome
from maskbench.suite import saving
from maskbench.suite.cell import Cell, CellStatus
from maskbench.suite.collection import CELL_KEY, assign_workloads, parametrize
from maskbench.suite.kernel_cache import unwritable_cache
from maskbench.suite.options import RunConfig, add_options, parse_config
from maskbench.suite.precompile import compile_task, precompile
from maskbench.suite.stages import STAGE_SECONDS, stage_timer, time_breakdown
from maskbench.suite.workload import Shape, Workload
from maskbench.timing import clock as clocks
from maskbench.timing.calibration import launch_overhead

DEFAULT_STORAGE = "file://./.benchmarks"
RUN_CONFIG, CLOCK = pytest.StashKey[RunConfig](), pytest.StashKey[clocks.Clock]()
UNTIMED_CELLS, CELL_RECORD = pytest.StashKey[list](), pytest.StashKey[dict]()


def pytest_addoption(parser):
    add_options(parser)


def pytest_configure(config):
    run = config.stash[RUN_CONFIG] = parse_config(config.option)
    config.stash[UNTIMED_CELLS] = []
    # pytest-benchmark's folder names the system but not the GPU: two GPUs would share a history.
    if config.option.benchmark_storage == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"{DEFAULT_STORAGE}/{device_name(run.device)}"


def device_name(device: str) -> str:
    """The device as a folder name, such as NVIDIA_H100_80GB_HBM3."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu_{platform.machine()}"
    return "".join(c if c.isalnum() else "_" for c in name)


def pytest_report_header(config):
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


def pytest_generate_tests(metafunc):
    parametrize(metafunc, metafunc.config.stash[RUN_CONFIG])


def pytest_collection_modifyitems(config, items):
    if config.option.benchmark_only:  # pytest-benchmark would skip the others one by one: seconds
        others = [item for item in items if "benchmark" not in item.fixturenames]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if "benchmark" in item.fixturenames]
    assign_workloads(items, config.stash[RUN_CONFIG])


def pytest_collection_finish(session):
    """Start the clock and compile in parallel, before the first cell."""
    config, option = session.config, session.config.option
    not_benchmarking = option.benchmark_skip or option.benchmark_disable or option.collectonly
    broken = session.testsfailed and not option.continue_on_collection_errors  # nothing will run
    if not_benchmarking or broken or hasattr(config, "workerinput"):  # a pytest-xdist worker
        return
    run = config.stash[RUN_CONFIG]
    timed = [item for item in session.items if {"clock", "benchmark"} <= {*item.fixturenames}]
    keys = [item.stash[CELL_KEY] for item in session.items if CELL_KEY in item.stash]
    tasks = [task for key in keys if (task := compile_task(*key))]
    uses_cache = tasks or (timed and run.device == "cuda")
    if uses_cache and (problem := unwritable_cache()):
        raise pytest.UsageError(problem)
    if timed:
        start_clock(config)
    for item in session.items:
        if "benchmark" in item.fixturenames:
            set_benchmark_options(item)
    if not tasks:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with stage_timer("compile ahead"), capture.global_and_fixture_disabled():
        failures = precompile(tasks, run.jobs)
    for line in failures:
        config.get_terminal_writer().line(f"maskbench: compiled in the timing process: {line}")


def get_clock(config) -> clocks.Clock:
    if CLOCK not in config.stash:
        config.stash[CLOCK] = clocks.make_clock(torch.device(config.stash[RUN_CONFIG].device))
    return config.stash[CLOCK]


def start_clock(config) -> None:
    """Make the clock of a run that times; on a GPU measure the launch overhead first."""
    device, overhead_s = config.stash[RUN_CONFIG].device, None
    if device == "cuda":
        with stage_timer("warm up"):
            overhead_s, problem = launch_overhead()
        if problem:
            line = f"maskbench: times hold a kernel's launch and completion: {problem}"
            config.get_terminal_writer().line(line)
    config.stash[CLOCK] = clocks.make_clock(torch.device(device), overhead_s)


def set_benchmark_options(item) -> None:
    """Set the timer and the group in a single mark: pytest-benchmark reads only one."""
    options = {}
    if "clock" in item.fixturenames:
        options["timer"] = get_clock(item.config).timer
    if CELL_KEY in item.stash:
        workload, _ = item.stash[CELL_KEY]
        options["group"] = f"{workload.mask} {workload.phase} {workload.seq_len}"
    item.add_marker(pytest.mark.benchmark(**options))


@pytest.fixture
def clock(pytestconfig) -> clocks.Clock:
    """The clock of the session's device."""
    return get_clock(pytestconfig)


@pytest.fixture(scope="session")
def device(pytestconfig) -> str:
    """The session's device: "cuda" or "cpu"."""
    return pytestconfig.stash[RUN_CONFIG].device


@pytest.fixture
def shape(pytestconfig) -> Shape:
    """The session's batch, heads and head dimension."""
    return pytestconfig.stash[RUN_CONFIG].shape


@pytest.fixture
def workload(request, mask, seq_len) -> Workload:
    """What the cell computes."""
    return request.node.stash[CELL_KEY].workload


@pytest.fixture
def cell_status(request, workload) -> Iterator[CellStatus]:
    """Records why a cell was not timed; frees its memory afterwards."""
    key = request.node.stash[CELL_KEY]
    request.node.stash[CELL_RECORD] = {**workload.fields(), "backend": key.variant}
    yield CellStatus(request.node.stash[CELL_RECORD])
    if workload.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        if torch.cuda.memory_reserved() > properties.total_memory / 3:
            gc.collect()  # takes 0.3 s, so only when memory may run short
            torch.cuda.empty_cache()


@pytest.fixture
def cell(request, workload, benchmark, clock, cell_status) -> Cell:
    """Checks one backend on one workload, then times it: `cell.check_and_time()`."""
    named = request.config.stash[RUN_CONFIG].backends_named
    backend = request.node.stash[CELL_KEY].variant
    return Cell(workload, backend, named, benchmark, clock, request.config, cell_status)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    fields = item.stash.get(CELL_RECORD, None)
    if fields is not None and call.when == "call":
        if report.failed:
            first = (str(call.excinfo.value).strip().splitlines() or [""])[0]
            fields["outcome"] = Outcome.FAILED.value
            fields["reason"] = f"{call.excinfo.typename}: {first}"
        if "outcome" in fields:
            item.config.stash[UNTIMED_CELLS].append({"fullname": item.nodeid, **fields})
    return report


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info |= get_clock(config).machine_info()


def pytest_benchmark_update_commit_info(config, commit_info):
    commit_info |= saving.software_versions()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Save why each untimed cell was not timed, and where the time went."""
    output_json["maskbench"] = {
        "format": FORMAT,
        "untimed": config.stash[UNTIMED_CELLS],
        "seconds": time_breakdown(),
        "jobs": config.stash[RUN_CONFIG].jobs,
        "launch_us": 1e6 * get_clock(config).launch_overhead_s,
    }


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """If nothing was timed, pytest-benchmark saves nothing: save the reasons."""
    result, config = (yield), session.config
    path = saving.json_target(config)
    if path and config.stash[UNTIMED_CELLS] and not (path.exists() and path.stat().st_size):
        saving.save_untimed_run(config, path)
    return result


def pytest_terminal_summary(terminalreporter, config):
    if STAGE_SECONDS["time"]:
        seconds = time_breakdown()
        total = seconds.pop("total")
        parts = ", ".join(f"{stage} {s:.1f} s" for stage, s in seconds.items())
        terminalreporter.section("maskbench: where the time went")
        terminalreporter.write_line(f"{total:.1f} s: {parts}")
    counts = Counter((cell["outcome"], cell["reason"]) for cell in config.stash[UNTIMED_CELLS])
    if counts:
        terminalreporter.section("maskbench: cells that were not timed")
    for (outcome, reason), number in counts.most_common():
        terminalreporter.write_line(f"{number:5} {outcome}: {reason}")
