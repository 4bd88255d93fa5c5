"""Options and fixtures that join masks, backends and the clock, and pytest-benchmark's hooks."""

from __future__ import annotations

import gc
import json
import platform
import time
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import pytest
import torch

import backends
import measure
from tests import ahead
from tests.calibration import launch_overhead
from tests.cells import Cell, Outcome, Problem, Shape
from tests.options import ONE_LENGTH, add_options, grid_of

FORMAT = 1  # of what is saved under "maskbench"; reports/table.py knows it
DEFAULT_STORAGE = "file://./.benchmarks"
GRID, CLOCK = pytest.StashKey[dict](), pytest.StashKey()
UNTIMED, CURRENT = pytest.StashKey[list](), pytest.StashKey[dict]()
CELL = pytest.StashKey[tuple[Problem, str]]()  # of an item: what is computed, and by whom
WHO = ("backend", "builder", "spelling", "cache")  # what a cell's last parameter may be
BEGAN = time.perf_counter()


def pytest_addoption(parser):
    add_options(parser)


def pytest_configure(config):
    grid = config.stash[GRID] = grid_of(config.option)
    config.stash[UNTIMED] = []
    # pytest-benchmark's folder names the system but not the card: two cards would share one.
    if config.option.benchmark_storage == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"{DEFAULT_STORAGE}/{device_name(grid['device'])}"


def device_name(device: str) -> str:
    """A folder's name for what is measured, such as NVIDIA_H100_80GB_HBM3."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu_{platform.machine()}"
    return "".join(c if c.isalnum() else "_" for c in name)


def pytest_report_header(config):
    grid = config.stash[GRID]
    found, missing = [], []
    for name in backends.MODULES:
        try:
            backends.load(name)
            found.append(name)
        except backends.Missing as said:  # here, and by each of its cells, which are skipped
            missing.append(f"{name} ({said})")
    line = f"maskbench: device {device_name(grid['device'])}, torch {torch.__version__}"
    line += f", backends found: {', '.join(found)}"
    return line + f"; missing: {', '.join(missing) or 'none'}"


def pytest_generate_tests(metafunc):
    grid = metafunc.config.stash[GRID]
    what = f"{grid['shape']}-{grid['dtype']}"
    if "cell" in metafunc.fixturenames and "spelling" in metafunc.fixturenames:
        lengths, known = one_length(metafunc.config), metafunc.module.SPELLINGS
        values = [(m, s, n) for m in grid["masks"] for s in lengths for n in known.get(m, ())]
        ids = [f"{m}-{n}-s{s}-{what}" for m, s, n in values]
        metafunc.parametrize(("mask", "seq_len", "spelling"), values, ids=ids)
    elif "cell" in metafunc.fixturenames:
        values = list(product(grid["masks"], grid["seq_lens"], grid["backends"]))
        ids = [f"{m}-{b}-s{s}-{what}" for m, s, b in values]
        metafunc.parametrize(("mask", "seq_len", "backend"), values, ids=ids)
    elif "builder" in metafunc.fixturenames:
        lengths = one_length(metafunc.config)
        values = list(product(grid["masks"], lengths, metafunc.module.BUILDERS))
        ids = [f"{m}-{b}-s{s}-b{grid['shape'].batch}" for m, s, b in values]
        metafunc.parametrize(("mask", "seq_len", "builder"), values, ids=ids)
    elif "cache" in metafunc.fixturenames:
        values = list(product(grid["masks"], one_length(metafunc.config), metafunc.module.CACHES))
        ids = [f"{m}-{c}-s{s}-{what}" for m, s, c in values]
        metafunc.parametrize(("mask", "seq_len", "cache"), values, ids=ids)


def one_length(config) -> list[int]:
    """The lengths that are asked for; else the one that what is the same at each is timed at."""
    grid = config.stash[GRID]
    return grid["seq_lens"] if config.option.seq_lens else [ONE_LENGTH[grid["device"]]]


def clock_of(config):
    if CLOCK not in config.stash:
        config.stash[CLOCK] = measure.clock_for(torch.device(config.stash[GRID]["device"]))
    return config.stash[CLOCK]


def start_clock(config) -> None:
    """The clock of a run that times, calibrated."""
    device, launch = config.stash[GRID]["device"], None
    if device == "cuda":
        with ahead.spent("warm up"):
            launch, problem = launch_overhead()
        if problem:
            line = f"maskbench: times hold a kernel's launch and completion: {problem}"
            config.get_terminal_writer().line(line)
    config.stash[CLOCK] = measure.clock_for(torch.device(device), launch)


def pytest_collection_modifyitems(config, items):
    if config.option.benchmark_only:  # to skip 2600 others one by one takes seconds
        others = [item for item in items if "benchmark" not in item.fixturenames]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if "benchmark" in item.fixturenames]
    grid = config.stash[GRID]
    for item in items:
        names, given = item.fixturenames, item.callspec.params if hasattr(item, "callspec") else {}
        if "problem" not in names or given.get("mask") not in grid["masks"]:
            continue  # not a cell, or one of an empty list
        direction = item.function.__name__.removeprefix("test_")
        problem = Problem(
            *(given["mask"], given["seq_len"], grid["shape"]),
            *(grid["dtype"], grid["device"], direction),
        )
        (who,) = (given[name] for name in WHO if name in given)
        item.stash[CELL] = problem, who


def mark(item) -> None:
    """Tell pytest-benchmark an item's timer and group: in one mark, as it reads but one."""
    options = {}
    if "clock" in item.fixturenames:
        options["timer"] = clock_of(item.config).timer
    if CELL in item.stash:
        problem, _ = item.stash[CELL]
        options["group"] = f"{problem.mask} {problem.direction} {problem.seq_len}"
    item.add_marker(pytest.mark.benchmark(**options))


def pytest_collection_finish(session):
    """Start the clock, and compile what is to be timed, in parallel, before the first cell."""
    config = session.config
    option = config.option
    idle = option.benchmark_skip or option.benchmark_disable or option.collectonly
    broken = session.testsfailed and not option.continue_on_collection_errors  # nothing will run
    if idle or broken or hasattr(config, "workerinput"):  # or one of pytest-xdist's workers
        return
    timed = [item for item in session.items if {"clock", "benchmark"} <= {*item.fixturenames}]
    cells = [item.stash[CELL] for item in session.items if CELL in item.stash]
    cells = [cell for cell in cells if ahead.compiles(*cell)]
    kept = cells or (timed and config.stash[GRID]["device"] == "cuda")  # in the cache folders
    if kept and (problem := ahead.unwritable()):
        raise pytest.UsageError(problem)
    if timed:
        start_clock(config)
    for item in session.items:
        if "benchmark" in item.fixturenames:
            mark(item)
    if not cells:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with ahead.spent("compile ahead"), capture.global_and_fixture_disabled():
        left = ahead.compile_ahead(cells, config.stash[GRID]["jobs"])
    for line in left:
        config.get_terminal_writer().line(f"maskbench: compiled in the timing process: {line}")


@pytest.fixture
def clock(pytestconfig):
    return clock_of(pytestconfig)


@pytest.fixture(scope="session")
def device(pytestconfig) -> str:
    """The device that the session is for: "cuda" or "cpu"."""
    return pytestconfig.stash[GRID]["device"]


@pytest.fixture
def shape(pytestconfig) -> Shape:
    """The batch, heads and head dimension that the session is for."""
    return pytestconfig.stash[GRID]["shape"]


@pytest.fixture
def problem(request, mask, seq_len) -> Problem:
    """What the cell is to compute."""
    return request.node.stash[CELL][0]


@pytest.fixture
def outcome(request, problem):
    """Keeps why a cell was not timed, for the saved file; hands its memory back after it."""
    request.node.stash[CURRENT] = {**problem.fields(), "backend": request.node.stash[CELL][1]}
    yield Outcome(request.node.stash[CURRENT])
    if problem.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        if torch.cuda.memory_reserved() > properties.total_memory / 3:
            gc.collect()  # takes 0.3 s, so only where memory may get short
            torch.cuda.empty_cache()


@pytest.fixture
def cell(request, problem, benchmark, clock, outcome) -> Cell:
    """Checks one backend on one problem and then times it: `cell.check_and_time()`."""
    by_name = request.config.stash[GRID]["by_name"]
    backend = request.node.stash[CELL][1]
    return Cell(problem, backend, by_name, benchmark, clock, request.config, outcome)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    fields = item.stash.get(CURRENT, None)
    if fields is not None and call.when == "call":
        if report.failed:
            last = str(call.excinfo.value).strip().splitlines() or [""]
            reason = f"{call.excinfo.typename}: {last[0]}"
            fields |= {"outcome": "failed", "reason": reason}
        if "outcome" in fields:
            item.config.stash[UNTIMED].append({"fullname": item.nodeid, **fields})
    return report


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info |= clock_of(config).describe()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def pytest_benchmark_update_commit_info(config, commit_info):
    commit_info |= {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    for package in ("triton", "xformers", "flash-attn", "flash-attn-4"):
        commit_info[package.replace("-", "_")] = installed(package)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Beside the timed cells, why each other cell was not timed."""
    output_json["maskbench"] = {
        "format": FORMAT,
        "untimed": config.stash[UNTIMED],
        "seconds": seconds(),
        "jobs": config.stash[GRID]["jobs"],
        "launch_us": 1e6 * clock_of(config).launch,
    }


def seconds() -> dict[str, float]:
    """Where the time since the start went."""
    total = time.perf_counter() - BEGAN
    return {**ahead.SPENT, "other": total - ahead.SPENT.total(), "total": total}


def saved_without_times(config) -> dict:
    """What pytest-benchmark would save, made with its hooks, of a run that timed nothing."""
    hook, about = config.hook, {"datetime": datetime.now(timezone.utc).isoformat()}
    for what in ("machine_info", "commit_info"):
        about[what] = getattr(hook, f"pytest_benchmark_generate_{what}")(config=config)
        getattr(hook, f"pytest_benchmark_update_{what}")(config=config, **{what: about[what]})
    about |= {"benchmarks": []}
    hook.pytest_benchmark_update_json(config=config, benchmarks=[], output_json=about)
    return about


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """pytest-benchmark saves nothing where nothing was timed: save then why."""
    result, config = (yield), session.config
    given = config.option.benchmark_json  # a path, up to pytest-benchmark 5.2 an open file
    path = given and Path(given.name if hasattr(given, "write") else given)
    if path and config.stash[UNTIMED] and not (path.exists() and path.stat().st_size):
        path.write_text(json.dumps(saved_without_times(config), indent=4))
    return result


def pytest_terminal_summary(terminalreporter, config):
    if ahead.SPENT["time"]:
        parts = ", ".join(f"{what} {s:.1f} s" for what, s in seconds().items() if what != "total")
        terminalreporter.section("maskbench: where the time went")
        terminalreporter.write_line(f"{seconds()['total']:.1f} s: {parts}")
    counts = Counter((cell["outcome"], cell["reason"]) for cell in config.stash[UNTIMED])
    if counts:
        terminalreporter.section("maskbench: cells that were not timed")
    for (outcome, reason), number in counts.most_common():
        terminalreporter.write_line(f"{number:5} {outcome}: {reason}")
