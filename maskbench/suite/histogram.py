"""pytest-benchmark's histogram, one file for each group, written whole or not at all.

pytest-benchmark draws it between two tables. If it cannot write a file, the other tables are lost.
"""

from __future__ import annotations

import os
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import TIME_UNITS, slugify

from maskbench.whole_files import write_whole

MAX_BENCHMARKS = 75  # in one picture, as in pytest-benchmark
STATISTICS = ("min", "max", "mean", "median", "iqr", "stddev", "ops")


def draw_histogram(
    config: pytest.Config, prefix: str, group: str | None, benchmarks: list[dict[str, Any]]
) -> Path:
    """Draw a group's boxes into a file whose name starts with `prefix`; return the file.

    Raises OSError, or whatever pygal raises.
    """
    # Modules that are not documented; seen in pytest-benchmark 5.2 and 5.3. This one needs pygal.
    from pytest_benchmark.histogram import make_plot

    sort = config.option.benchmark_sort
    shown = sorted(benchmarks, key=itemgetter(sort))
    by_statistic = {name: [bench[name] for bench in shown] for name in STATISTICS}
    unit, adjustment = config.hook.pytest_benchmark_scale_unit(
        config=config,
        unit="seconds",
        benchmarks=shown,
        best={name: min(values) for name, values in by_statistic.items()},
        worst={name: max(values) for name, values in by_statistic.items()},
        sort=sort,
    )
    title = f"Speed in {TIME_UNITS[unit]}{f' of {group}' if group else ''}"
    plot = make_plot(benchmarks=shown[:MAX_BENCHMARKS], title=title, adjustment=adjustment)  # type: ignore[no-untyped-call]
    name = f"{prefix}-{slugify(group)}.svg" if group else f"{prefix}.svg"  # type: ignore[no-untyped-call]
    path = Path(os.path.realpath(name))
    write_whole(path, plot.render(is_unicode=True).encode("utf-8"))
    return path
