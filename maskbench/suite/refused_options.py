"""Refuses options of pytest-benchmark and other plugins that would lose or falsify times."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

import pytest

from maskbench.suite.collection import is_benchmark
from maskbench.suite.options import benchmarking

WITHOUT_BENCHMARKS = "use --benchmark-skip to run only the tests with it"
IN_PARALLEL = (
    "cells that are timed in parallel disturb each other; use --gpus to time on several GPUs, "
    f"or {WITHOUT_BENCHMARKS}"
)
IN_CHILDREN = (
    "the times of a cell stay in its own process and are lost; the suite itself goes on in a new "
    f"process after a cell that crashes; {WITHOUT_BENCHMARKS}"
)


@dataclass(frozen=True)
class RefusedOption:
    """An option of another plugin that benchmarks cannot have.

    Parameters
    ----------
    option, attribute
        Its name on the command line and in `config.option`.
    reason
        Why it is refused and what to do.
    harmless
        The values with which it does nothing.
    """

    option: str
    attribute: str
    reason: str
    harmless: Container[object] = (None, False, 0, "0", "")


REFUSED = (
    RefusedOption("-n (pytest-xdist)", "numprocesses", IN_PARALLEL),
    RefusedOption("--tx (pytest-xdist)", "tx", IN_PARALLEL, harmless=(None, [])),
    RefusedOption("--dist (pytest-xdist)", "dist", IN_PARALLEL, harmless=(None, "no")),
    RefusedOption("--forked (pytest-forked)", "forked", IN_CHILDREN),
    RefusedOption("--boxed (pytest-xdist)", "boxed", IN_CHILDREN),
    RefusedOption("--workers (pytest-parallel)", "workers", IN_PARALLEL),
    RefusedOption("--tests-per-worker (pytest-parallel)", "tests_per_worker", IN_PARALLEL),
    RefusedOption("--mp (pytest-mp)", "use_mp", IN_PARALLEL),
    RefusedOption(
        "--parallel-threads (pytest-run-parallel)",
        "parallel_threads",
        IN_PARALLEL,
        harmless=(None, 1, "1"),
    ),
    RefusedOption(
        "--count (pytest-repeat)",
        "count",
        "a cell is timed once in a run, under one name; run pytest again for a second run",
        harmless=(None, 0, 1),
    ),
)


# Of --benchmark-group-by, as in pytest-benchmark 5.3's pytest_benchmark_group_stats.
GROUPINGS = ("group", "name", "func", "fullname", "fullfunc", "param")
PARAMETER = "param:"  # and a name


def refuse_options(config: pytest.Config) -> None:
    """Refuse what would lose times, and numbers that make no sense, before anything is timed.

    Raises
    ------
    pytest.UsageError
        With the option, the reason and what to do instead.
    """
    option = config.option
    if option.benchmark_only and option.benchmark_skip:
        raise pytest.UsageError(
            "--benchmark-only and --benchmark-skip exclude each other: "
            "the first runs only benchmarks, the second runs none"
        )
    max_seconds = float(option.benchmark_max_time)
    if not (math.isfinite(max_seconds) and max_seconds > 0):
        raise pytest.UsageError(
            f"--benchmark-max-time: {option.benchmark_max_time} is not a time above 0 s"
        )
    if not benchmarking(config):
        return
    # pytest-benchmark itself says so after the last cell.
    for grouping in option.benchmark_group_by.split(","):
        if grouping not in GROUPINGS and not grouping.startswith(PARAMETER):
            raise pytest.UsageError(
                f"--benchmark-group-by: {grouping!r} is none of {', '.join(GROUPINGS)} "
                f"and {PARAMETER}NAME"
            )
    if option.benchmark_compare_fail and not option.benchmark_compare:
        raise pytest.UsageError(
            "--benchmark-compare-fail: needs --benchmark-compare, the run to compare with"
        )
    if option.benchmark_cprofile and option.resume:
        raise pytest.UsageError(
            "--resume: cells that are not run again have no --benchmark-cprofile"
        )
    for refused in REFUSED:
        if getattr(option, refused.attribute, None) not in refused.harmless:
            raise pytest.UsageError(f"{refused.option}: {refused.reason}")
    if timer_given(config):
        config.issue_config_time_warning(
            pytest.PytestConfigWarning(
                "--benchmark-timer does not change how maskbench's cells are timed: they have the "
                "suite's clock. It times only benchmarks of your own that do not use the clock."
            ),
            stacklevel=2,
        )


def refuse_grouping(items: list[pytest.Item], group_by: str) -> None:
    """Refuse to group the benchmarks among `items` by a parameter that one of them lacks.

    Raises
    ------
    pytest.UsageError
        With the parameters that there are.
    """
    parts = [part for part in group_by.split(",") if part.startswith(PARAMETER)]
    for name in (part.removeprefix(PARAMETER) for part in parts):
        for item in filter(is_benchmark, items):
            known = item.callspec.params if hasattr(item, "callspec") else {}
            if name not in known:
                raise pytest.UsageError(
                    f"--benchmark-group-by: {item.name} has no parameter {name}; "
                    f"it has {', '.join(sorted(known)) or 'none'}"
                )


def timer_given(config: pytest.Config) -> bool:
    """Whether --benchmark-timer names another timer than pytest-benchmark's default."""
    timer = config.option.benchmark_timer
    return str(timer).rpartition(".")[2] != "perf_counter"
