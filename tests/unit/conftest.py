"""Fixtures that several test files use: saved runs with seeded noise, simulated GPUs and graphs."""

import json
import random
from datetime import datetime, timedelta

import pytest

from tests.unit.browser import browser  # noqa: F401
from tests.unit.fake_cuda_graphs import fake_graphs  # noqa: F401
from tests.unit.fake_gpu import fake_gpu  # noqa: F401
from tests.unit.library_module import bind, module  # noqa: F401
from tests.unit.real_run import TEXT

NOISE = 0.008


@pytest.fixture
def save_run(tmp_path):
    """A function that saves a copy of a real run, dated by day, with seeded noise in its medians.

    `scale` has pairs: part of a cell's name, and a factor for the medians of such cells. `change`
    edits the run's JSON.
    """

    def save(day, folder="history", scale=(), noise=NOISE, change=None, name=None):
        run, draw = json.loads(TEXT), random.Random(day)
        run["datetime"] = (datetime(2026, 1, 1) + timedelta(days=day)).isoformat()
        for bench in run["benchmarks"]:
            factor = 1 + draw.gauss(0, noise)
            for part, scale_factor in scale:
                factor *= scale_factor if part in bench["fullname"] else 1
            bench["stats"]["median"] *= factor
            bench["extra_info"] |= {"interval": 0.003, "two_modes": False}
        if change:
            change(run)
        path = tmp_path / folder / (name or f"{day:03}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(run))
        return path

    return save


@pytest.fixture
def small_run():
    """A run of two timed cells and one untimed, as JSON."""
    run = json.loads(TEXT)
    run["benchmarks"] = run["benchmarks"][:2]
    run["maskbench"]["untimed"] = run["maskbench"]["untimed"][:1]
    return run


@pytest.fixture
def history(save_run):
    """A folder with ten runs in which only the noise differs."""
    for day in range(10):
        save_run(day)
    return save_run(0).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """With --benchmark-only do not import this folder: it has no benchmarks, and takes seconds."""
    return True if config.option.benchmark_only else None
