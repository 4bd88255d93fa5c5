"""Options and fixtures that join masks, backends and the clock, and pytest-benchmark's hooks."""

from __future__ import annotations

import gc
import json
import platform
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import pytest
import torch

import backends
import measure
from masks import PATTERNS
from tests.cells import Cell, Outcome, Problem, Shape

DTYPES = ("float16", "bfloat16", "float32")
DEFAULTS = {
    "cuda": {"batch": 8, "heads": 16, "head_dim": 64, "dtype": "float16"},
    "cpu": {"batch": 1, "heads": 4, "head_dim": 64, "dtype": "float32"},
}
SEQ_LENS = {"cuda": (1024, 2048, 4096, 8192, 16384), "cpu": (512, 1024, 2048)}
FORMAT = 1  # of what is saved under "maskbench"; reports/table.py knows it
DEFAULT_STORAGE = "file://./.benchmarks"
GRID, CLOCK = pytest.StashKey[dict](), pytest.StashKey()
UNTIMED, CURRENT = pytest.StashKey[list](), pytest.StashKey[dict]()


def pytest_addoption(parser):
    group = parser.getgroup("maskbench", "maskbench: attention masks, backends and shapes")

    def either(name: str) -> str:
        return ", ".join(f"{DEFAULTS[d][name]} on {d}" for d in DEFAULTS)

    def comma(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    group.addoption("--device", help="cuda or cpu. Default: cuda where there is a GPU, else cpu.")
    group.addoption(
        "--masks", type=comma, help=f"Masks, comma-separated. Default: all: {', '.join(PATTERNS)}."
    )
    group.addoption(
        "--backends",
        type=comma,
        help=f"Backends, comma-separated. Default: all: {', '.join(backends.MODULES)}; "
        f"{' and '.join(sorted(backends.HOLDS_SCORES))} up to S = 2048 unless named.",
    )
    lengths = "; ".join(f"{','.join(map(str, SEQ_LENS[d]))} on {d}" for d in SEQ_LENS)
    group.addoption(
        "--seq-lens", type=comma, help=f"Sequence lengths, comma-separated. Default: {lengths}."
    )
    group.addoption("--batch", type=int, help=f"Batch size. Default: {either('batch')}.")
    group.addoption("--heads", type=int, help=f"Query heads. Default: {either('heads')}.")
    group.addoption(
        "--kv-heads", type=int, help="Key/value heads, a divisor of --heads. Default: as --heads."
    )
    group.addoption("--head-dim", type=int, help=f"Head dimension. Default: {either('head_dim')}.")
    group.addoption("--dtype", help=f"{', '.join(DTYPES)}. Default: {either('dtype')}.")


def chosen(option: str, asked: list[str] | None, valid) -> list[str]:
    unknown = [name for name in asked or () if name not in valid]
    if unknown:
        raise pytest.UsageError(
            f"{option}: unknown {', '.join(unknown)}; valid are {', '.join(valid)}"
        )
    if asked == []:
        raise pytest.UsageError(f"{option}: names nothing; valid are {', '.join(valid)}")
    return list(dict.fromkeys(asked or valid))


def device_of(asked: str | None) -> str:
    there = torch.cuda.is_available()
    (device,) = chosen("--device", [asked or ("cuda" if there else "cpu")], ("cuda", "cpu"))
    if device == "cuda" and not there:
        raise pytest.UsageError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; valid here: cpu"
        )
    return device


def whole(option: str, value) -> int:
    """A positive whole number, else a usage error."""
    if not str(value).isdecimal() or int(value) < 1:
        raise pytest.UsageError(f"{option}: {value} is not a whole number of 1 or more")
    return int(value)


def grid_of(option) -> dict:
    """The options, checked and completed. Raises pytest.UsageError (exit status 4)."""
    device = device_of(option.device)
    default = DEFAULTS[device]

    def number(name: str, fallback: int) -> int:
        given = getattr(option, name)
        return whole(f"--{name.replace('_', '-')}", fallback if given is None else given)

    heads = number("heads", default["heads"])
    kv_heads = number("kv_heads", heads)
    if heads % kv_heads:
        raise pytest.UsageError(f"--kv-heads: {kv_heads} does not divide --heads {heads}")
    lengths = SEQ_LENS[device] if option.seq_lens is None else option.seq_lens
    if not lengths:
        raise pytest.UsageError("--seq-lens: names no length")
    return {
        "device": device,
        "masks": chosen("--masks", option.masks, list(PATTERNS)),
        "backends": chosen("--backends", option.backends, list(backends.MODULES)),
        "by_name": option.backends is not None,
        "seq_lens": list(dict.fromkeys(whole("--seq-lens", n) for n in lengths)),
        "shape": Shape(
            number("batch", default["batch"]),
            heads,
            kv_heads,
            number("head_dim", default["head_dim"]),
        ),
        "dtype": chosen("--dtype", [option.dtype or default["dtype"]], DTYPES)[0],
    }


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
    if "cell" in metafunc.fixturenames:
        values = list(product(grid["masks"], grid["seq_lens"], grid["backends"]))
        what = f"{grid['shape']}-{grid['dtype']}"
        ids = [f"{m}-{b}-s{s}-{what}" for m, s, b in values]
        metafunc.parametrize(("mask", "seq_len", "backend"), values, ids=ids)
    elif "builder" in metafunc.fixturenames:
        # a CPU's default grid is to stay short: the longest length, where building costs most
        whole_grid = grid["device"] == "cuda" or metafunc.config.option.seq_lens
        lengths = grid["seq_lens"] if whole_grid else grid["seq_lens"][-1:]
        values = list(product(grid["masks"], lengths, metafunc.module.BUILDERS))
        ids = [f"{m}-{b}-s{s}-b{grid['shape'].batch}" for m, s, b in values]
        metafunc.parametrize(("mask", "seq_len", "builder"), values, ids=ids)


def clock_of(config):
    if CLOCK not in config.stash:
        config.stash[CLOCK] = measure.clock_for(torch.device(config.stash[GRID]["device"]))
    return config.stash[CLOCK]


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "clock" in item.fixturenames and hasattr(item, "callspec"):
            given = item.callspec.params
            if "mask" not in given:
                continue
            what = item.module.__name__.rpartition("test_")[2]
            item.add_marker(
                pytest.mark.benchmark(
                    timer=clock_of(config).timer, group=f"{given['mask']} {what} {given['seq_len']}"
                )
            )


@pytest.fixture
def clock(pytestconfig):
    return clock_of(pytestconfig)


@pytest.fixture
def device(pytestconfig) -> str:
    """The device that the session is for: "cuda" or "cpu"."""
    return pytestconfig.stash[GRID]["device"]


@pytest.fixture
def shape(pytestconfig) -> Shape:
    """The batch, heads and head dimension that the session is for."""
    return pytestconfig.stash[GRID]["shape"]


@pytest.fixture
def problem(request, mask, seq_len, shape) -> Problem:
    """What the cell is to compute; its module says in which DIRECTION."""
    grid = request.config.stash[GRID]
    direction = request.module.DIRECTION
    return Problem(mask, seq_len, shape, grid["dtype"], grid["device"], direction)


@pytest.fixture
def outcome(request, problem):
    """Keeps why a cell was not timed, for the saved file; hands its memory back after it."""
    who = request.node.callspec.params
    who = who.get("backend") or who["builder"]
    request.node.stash[CURRENT] = {**problem.fields(), "backend": who}
    yield Outcome(request.node.stash[CURRENT])
    if problem.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        if torch.cuda.memory_reserved() > properties.total_memory / 3:
            gc.collect()  # takes 0.3 s, so only where memory may get short
        torch.cuda.empty_cache()


@pytest.fixture
def cell(request, problem, backend, benchmark, clock, outcome) -> Cell:
    """Checks one backend on one problem and then times it: `cell.check_and_time()`."""
    by_name = request.config.stash[GRID]["by_name"]
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
    output_json["maskbench"] = {"format": FORMAT, "untimed": config.stash[UNTIMED]}


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
    counts = Counter((cell["outcome"], cell["reason"]) for cell in config.stash[UNTIMED])
    if counts:
        terminalreporter.section("maskbench: cells that were not timed")
    for (outcome, reason), number in counts.most_common():
        terminalreporter.write_line(f"{number:5} {outcome}: {reason}")
