"""Fixtures that several test files use: saved runs with seeded noise, and a simulated GPU."""

import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.fake_gpu import fake_gpu  # noqa: F401

RUN = Path(__file__).parent / "data" / "cpu_run.json"
NOISE = 0.008


@pytest.fixture
def make(tmp_path):
    """Saves copies of a real run, dated by day, whose medians have seeded noise.

    `scale` is pairs of a part of cells' names and a factor on their medians; `change` edits the
    run's JSON.
    """

    def save(day, folder="history", scale=(), noise=NOISE, change=None, name=None):
        run, draw = json.loads(RUN.read_text()), random.Random(day)
        run["datetime"] = (datetime(2026, 1, 1) + timedelta(days=day)).isoformat()
        for bench in run["benchmarks"]:
            factor = 1 + draw.gauss(0, noise)
            for part, times in scale:
                factor *= times if part in bench["fullname"] else 1
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
def history(make):
    """A folder with ten runs in which only the noise differs."""
    for day in range(10):
        make(day)
    return make(0).parent
