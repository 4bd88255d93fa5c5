"""The tables of how often the gate is wrong, on simulated runs whose truth is known."""

import numpy as np
import pytest

from reports import gate_accuracy, gate_accuracy_report, other_methods
from reports.__main__ import main
from reports.comparability import load_run
from tests.unit.seeded_runs import save_night


def few_cells(run):
    """Ten cells: the tables are made of many judgements."""
    run["benchmarks"] = run["benchmarks"][:10]


@pytest.fixture
def runs(save_run, monkeypatch):
    """Three nights of one card and one of another."""
    monkeypatch.setattr(gate_accuracy, "SCALES", {1.02: 0.95})
    monkeypatch.setattr(gate_accuracy, "ON_MEDIANS", {"fixed": other_methods.fixed_threshold})
    paths = [p for day in range(3) for p in save_night(save_run, day, "a", change=few_cells)]
    paths += save_night(save_run, 4, "a", card="GPU-2", change=few_cells)
    return [load_run(path) for path in paths]


def rows_of(text, part):
    """The rows of tables whose first cells contain a text."""
    lines = [line for line in text.splitlines() if line.startswith("|") and part in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_nights_are_judged_by_the_runs_before_them_only(runs):
    found = gate_accuracy.trials(runs, 3)
    assert [trial.knows_card for trial in found] == [True] * 2 + [False]
    used = [run.path for trial in found for run in trial.night]
    assert len(used) == len(set(used)), "nights that overlap would count twice"
    for trial in found:
        assert max(run.saved for run in trial.history) < trial.night[0].saved


def test_the_tables_count_what_the_gate_says(runs):
    report = gate_accuracy_report.accuracy_report(runs)
    assert set(report.table()["table"]) == {"nothing changed", "cells scaled", "other methods"}
    text = report.markdown()
    (seen,) = rows_of(text, "| 3 | seen before")
    assert seen[2:7] == ["2", "0", "77.6 %", "20", "0"], "the bound of 0 of 2 nights is stated"
    (found,) = rows_of(text, "| x1.02 |")
    assert found[2] == "100.0 % of 20"
    (gate, fixed) = rows_of(text, "this gate") + rows_of(text, "fixed")
    assert gate[1:] == ["0 of 2", "0.0 %", "100.0 %"]
    assert fixed[1:] == ["0 of 2", "0.0 %", "0.0 %"]
    assert "After 30 nights of drift to x1.03, 100.0 % of 10 cells are red" in text
    assert "on 2 cards, 2026-01-01 to 2026-01-05" in text


def test_a_regression_in_unchanged_runs_is_counted(runs, save_run):
    slower = [
        load_run(path)
        for path in save_night(save_run, 3, "b", [("causal-flex-s512", 1.1)], change=few_cells)
    ]
    table = gate_accuracy.false_alarms([*runs[:9], *slower]).set_index(["runs a night", "card"])
    seen = table.loc[(3, "seen before")]
    assert seen["red nights"] >= 1
    assert seen["red cells"] >= 1


@pytest.mark.parametrize(("hits", "count", "bound"), [(0, 150, 0.020), (1, 5, 0.657), (5, 5, 1.0)])
def test_the_bound_is_that_of_clopper_and_pearson(hits, count, bound):
    assert gate_accuracy.at_most(hits, count) == pytest.approx(bound, abs=5e-4)


def test_other_methods_find_a_large_change_and_no_small_one():
    past = np.exp(np.random.default_rng(0).normal(0, 0.004, 14))
    methods = {**other_methods.ON_MEDIANS}
    if other_methods.find_spec("asv") is None or other_methods.find_spec("otava") is None:
        methods = {
            name: method for name, method in methods.items() if name[:4] not in ("asv,", "otav")
        }
    for name, method in methods.items():
        assert method(past, 1.2 * past[:3]), name
        assert not method(past, past[:3]), name


def test_a_missing_package_or_marker_is_said_before_anything_is_computed(
    save_run, tmp_path, monkeypatch, capsys
):
    (run, *_) = save_night(save_run, 0)
    page = tmp_path / "page.md"
    page.write_text("no markers")
    monkeypatch.setattr(other_methods, "find_spec", lambda name: None)
    assert main(["gate_accuracy", str(run), "-o", str(page)]) == 2
    assert "pip install asv" in capsys.readouterr().err
    monkeypatch.setattr(other_methods, "find_spec", lambda name: name)
    assert main(["gate_accuracy", str(run), "-o", str(page)]) == 2
    assert "must have the markers" in capsys.readouterr().err
