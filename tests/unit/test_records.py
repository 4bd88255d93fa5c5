"""The schema of saved runs: what `read_run` accepts, completes and refuses."""

import json
import math
from pathlib import Path

import pytest

from maskbench.legacy_formulations import legacy_formulation
from maskbench.reading import read_run
from maskbench.records import FORMAT, Outcome, Phase, UnreadableRun
from tests.unit.real_run import RUN

SAVED_RUNS = sorted((Path(__file__).parents[2] / "reports" / "runs").rglob("*.json*"))


@pytest.fixture
def read_changed(tmp_path):
    """A function that reads a copy of the test data after `change` has edited its JSON."""

    def read(change):
        run = json.loads(RUN.read_text())
        change(run)
        path = tmp_path / "run.json"
        path.write_text(json.dumps(run))
        return read_run(path)

    return read


def extra_info(run):
    return run["benchmarks"][0]["extra_info"]


def first_cell(run):
    return run.timed[0]


@pytest.mark.parametrize("path", [SAVED_RUNS[0], SAVED_RUNS[-1]], ids=lambda path: path.name)
def test_the_runs_of_this_repository_are_read(path):
    run = read_run(path)
    assert run.timed
    for cell in run.cells:
        assert isinstance(cell["direction"], Phase)
        assert isinstance(cell["outcome"], Outcome)
        assert (cell["outcome"] is Outcome.TIMED) == (cell["reason"] == "")


def test_format_1_gets_its_formulation_from_the_text(read_changed):
    cell = first_cell(read_changed(lambda run: extra_info(run).update(form="is_causal=True")))
    assert cell["formulation"] == legacy_formulation("is_causal=True")


def test_format_2_has_its_formulation_saved(read_changed):
    def change(run):
        run["maskbench"]["format"] = FORMAT
        extra_info(run).update(formulation="native", form="some words")

    assert first_cell(read_changed(change))["formulation"] == "native"


def test_what_older_runs_lack_is_filled_in(read_changed):
    def change(run):
        for name in ("interval", "two_modes", "call_clock_mhz", "spin_clock_mhz", "sm_clock_mhz"):
            extra_info(run).pop(name, None)

    cell = first_cell(read_changed(change))
    assert (cell["interval"], cell["two_modes"]) == (0.0, False)
    assert math.isnan(cell["clock_mhz"])


@pytest.mark.parametrize(
    ("fields", "mhz"),
    [
        ({"sm_clock_mhz": [1700, None, 1800]}, 1750),
        ({"sm_clock_mhz": [1700], "spin_clock_mhz": 1800.0}, 1800),
        ({"spin_clock_mhz": 1800.0, "call_clock_mhz": 1900.0}, 1900),
    ],
)
def test_the_clock_closest_to_the_calls_counts(fields, mhz, read_changed):
    def change(run):
        for name in ("call_clock_mhz", "spin_clock_mhz", "sm_clock_mhz"):
            extra_info(run).pop(name, None)
        extra_info(run).update(fields)

    assert first_cell(read_changed(change))["clock_mhz"] == mhz


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: extra_info(run).update(direction="sideways"),
            "enum value 'sideways'",
        ),
        (lambda run: extra_info(run).update(seq_len="512"), "Expected int, got str.*seq_len"),
        (
            lambda run: run["maskbench"]["untimed"][0].update(outcome="lost"),
            "enum value 'lost'",
        ),
        (lambda run: run["maskbench"]["untimed"][0].pop("mask"), "missing required field mask"),
    ],
    ids=["unknown phase", "wrong type", "unknown outcome", "no mask"],
)
def test_cells_outside_of_the_schema_are_refused_in_one_line(change, message, read_changed):
    with pytest.raises(UnreadableRun, match=message) as error:
        read_changed(change)
    assert "run.json: " in str(error.value)
    assert "\n" not in str(error.value)
