"""Cells of the suite that end in every way: what is saved of them, and where they do not appear."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from maskbench.suite import targets
from maskbench.timing import runner
from tests.unit.pytest_process import run_inline, strict_json
from tests.unit.saving_plugin import GRID, SIZE, FailingCells, Reruns

CELL_ENDS = {
    ("setup", "causal-sdpa"): RuntimeError("no setup"),
    ("after timing", "causal-dense"): RuntimeError("late"),
    ("teardown", "full-sdpa"): RuntimeError("no teardown"),
}


def run_cells(path, *plugins, arguments=()):
    status, text = run_inline(
        f"--benchmark-json={path}", *GRID, *arguments, "tests/test_forward.py", plugins=plugins
    )
    saved = strict_json(path)
    timed = {
        b["extra_info"]["mask"] + "-" + b["extra_info"]["backend"]: b["extra_info"]
        for b in saved["benchmarks"]
    }
    assert len(timed) == len(saved["benchmarks"])
    untimed = {f"{c['mask']}-{c['backend']}": c for c in saved["maskbench"]["untimed"]}
    assert not timed.keys() & untimed.keys()
    return SimpleNamespace(status=status, text=text, timed=timed, untimed=untimed)


@pytest.mark.parametrize("rerun", [False, True])
def test_a_failed_cell_is_saved_as_such_whichever_phase_failed(rerun, tmp_path):
    plugins = (FailingCells(CELL_ENDS), *([Reruns()] if rerun else []))
    run = run_cells(tmp_path / "run.json", *plugins)
    assert run.status == 1
    assert run.timed.keys() == {"full-dense"}
    reasons = {key: cell["reason"] for key, cell in run.untimed.items()}
    assert reasons == {
        "causal-sdpa": "RuntimeError: no setup (in the setup)",
        "causal-dense": "RuntimeError: late",
        "full-sdpa": "RuntimeError: no teardown (in the teardown)",
    }
    assert {cell["outcome"] for cell in run.untimed.values()} == {"failed"}
    assert {cell.get("attempts") for cell in run.untimed.values()} == {2 if rerun else None}
    table = run.text.partition("Name (time")[2]
    assert "full-dense" in table
    assert f"causal-dense-{SIZE}]   " not in table


def test_a_cell_with_a_field_that_no_report_could_read_fails(tmp_path, monkeypatch):
    """One such cell made a run of 15 minutes unreadable."""
    measure = runner.measure
    monkeypatch.setattr(
        runner, "measure", lambda *arguments: {**measure(*arguments), "peak_memory_bytes": -1}
    )
    run = run_cells(tmp_path / "run.json")
    assert (run.status, len(run.timed), len(run.untimed)) == (1, 0, 4)
    (reason,) = {cell["reason"] for cell in run.untimed.values()}
    assert reason.startswith("ValueError: a measured field is invalid: Expected `int` >= 0 - at")
    assert "peak_memory_bytes" in reason


def test_numbers_of_numpy_are_readable(tmp_path, monkeypatch):
    """They are written as plain numbers, and NaN as null."""
    measure = runner.measure
    fields = {"cycles": np.float64(1e6), "two_modes": np.bool_(False), "call_clock_mhz": np.nan}
    monkeypatch.setattr(runner, "measure", lambda *given: {**measure(*given), **fields})
    run = run_cells(tmp_path / "run.json")
    assert (run.status, len(run.timed)) == (0, 4)
    (cell, *_) = run.timed.values()
    assert {name: cell[name] for name in fields} == {**fields, "call_clock_mhz": None}


@pytest.mark.parametrize("ending", CELL_ENDS)
def test_a_cell_that_passes_when_it_is_run_again_is_timed(ending, tmp_path):
    plugins = FailingCells({ending: CELL_ENDS[ending]}, always=False), Reruns()
    run = run_cells(tmp_path / "run.json", *plugins)
    assert run.status == 0
    assert not run.untimed
    attempts = {key: info.get("attempts") for key, info in run.timed.items()}
    assert attempts == {
        **dict.fromkeys(("causal-sdpa", "causal-dense", "full-sdpa", "full-dense")),
        ending[1]: 2,
    }


def test_a_cell_that_fails_when_it_is_run_again_is_not_timed(tmp_path):
    class FailsLater(FailingCells):
        calls = 0

        def _raise(self, phase, item):
            if phase == "after timing" and "full-sdpa" in item.nodeid:
                self.calls += 1
                if self.calls == 2:
                    raise RuntimeError("the second time")

    run = run_cells(tmp_path / "run.json", FailsLater({}), Reruns(always=True))
    assert run.untimed["full-sdpa"]["reason"] == "RuntimeError: the second time"
    assert len(run.timed) == 3


def test_benchmark_disable_says_that_nothing_was_timed(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("older")
    run = run_cells(path, arguments=["--benchmark-disable"])
    assert run.status == 0
    assert not run.timed
    assert {cell["reason"] for cell in run.untimed.values()} == {
        "ran once: benchmarks are disabled"
    }


def test_a_failed_cell_is_in_no_histogram_and_no_comparison(tmp_path, monkeypatch):
    drawn = []
    histogram = SimpleNamespace(
        make_plot=lambda benchmarks, title, adjustment: SimpleNamespace(
            render=lambda is_unicode: drawn.append(benchmarks) or f"<svg>{title}</svg>"
        )
    )
    monkeypatch.setitem(sys.modules, "pytest_benchmark.histogram", histogram)
    monkeypatch.setattr(targets, "find_spec", lambda name: True)
    storage = (f"--benchmark-storage={tmp_path}", "--benchmark-autosave")
    run_cells(tmp_path / "first.json", arguments=storage)
    failing = FailingCells({("after timing", "sdpa"): RuntimeError("late")})
    plots = f"--benchmark-histogram={tmp_path / 'new' / 'plot'}"
    compare = ("--benchmark-compare", "--benchmark-compare-fail=min:900000%")
    run = run_cells(tmp_path / "second.json", failing, arguments=[*storage, plots, *compare])
    assert run.status == 1
    assert "PerformanceRegression" not in run.text
    backends = [[b["extra_info"]["backend"] for b in group] for group in drawn]
    assert backends == [["dense", "dense"]] * 2  # the older one and this one
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["plot-causal_forward_256.svg", "plot-full_forward_256.svg"]
    assert "<svg>Speed in " in (tmp_path / "new" / names[0]).read_text()
    assert run.text.count("Generated histogram: ") == 2
