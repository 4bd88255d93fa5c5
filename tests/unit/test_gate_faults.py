"""Faults that an earlier gate had, each shown on a small history."""

import json

import numpy as np
import pytest

from reports.__main__ import main
from reports.baseline import CellHistory, Times
from reports.levels import CODE, compare_levels
from tests.unit.seeded_runs import (
    CELL,
    cell_of,
    on_gpu,
    run_gate,
    save_night,
    save_nights,
    status_of,
)


def accept(runs, history, *more):
    return main(["accept", *map(str, runs), "--history", str(history), "--because", "meant", *more])


def test_a_further_rise_just_after_an_acceptance_is_red(save_run, tmp_path):
    history = save_nights(save_run)
    slower = save_night(save_run, 5, "nights", [(CELL, 1.2)])
    assert run_gate(slower, history, tmp_path)[0] == 1
    assert accept(slower, history) == 0
    same = save_night(save_run, 6, scale=[(CELL, 1.2)])
    assert run_gate(same, history, tmp_path)[0] == 0
    code, verdict = run_gate(save_night(save_run, 6.5, scale=[(CELL, 1.25)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_slow_drift_is_red_before_it_is_large(save_run, tmp_path):
    for day in range(30):
        save_night(save_run, day, "nights", [(CELL, 1.03 ** (day / 30))], runs=1)
    night = save_night(save_run, 30, scale=[(CELL, 1.03)])
    code, verdict = run_gate(night, tmp_path / "nights", tmp_path)
    assert (code, verdict["counts"]["REGRESSION"]) == (1, 1)


def test_a_regression_stays_red_until_somebody_accepts_it(save_run, tmp_path):
    history = save_nights(save_run)
    for day in range(5, 10):
        night = save_night(save_run, day, scale=[(CELL, 1.05)])
        code, verdict = run_gate(night, history, tmp_path)
        assert (code, status_of(verdict)) == (1, {"REGRESSION"}), f"night {day}"
        save_night(save_run, day, "nights", [(CELL, 1.05)])  # the nightly job stores it, too
    assert accept(night, history) == 0
    code, verdict = run_gate(save_night(save_run, 10, scale=[(CELL, 1.05)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"})


def test_a_suite_that_is_three_times_slower_on_a_noisy_cpu_is_red(save_run, tmp_path):
    for day in range(10):
        save_run(day, "wild", noise=0.1)
    night = [save_run(20 + i / 96, "new", [("", 3.0)], noise=0.1) for i in range(3)]
    code, verdict = run_gate(night, tmp_path / "wild", tmp_path)
    assert (code, set(verdict["counts"])) == (1, {"REGRESSION"})
    quiet = [save_run(30 + i / 96, "new", noise=0.1) for i in range(3)]
    assert run_gate(quiet, tmp_path / "wild", tmp_path)[0] == 0


@pytest.mark.parametrize("nights", [2, 3])
def test_a_cpu_whose_nights_differ_is_not_red(nights, save_run, tmp_path):
    """Within a night the noise is 1 %, and nights differ by 5 %."""
    for day, level in zip(range(nights), (1.0, 1.08, 0.97), strict=False):
        for i in range(3):
            save_run(day + i / 96, "cpu", [("", level)], noise=0.01)
    night = [save_run(20 + i / 96, "new", [("", 1.06)], noise=0.01) for i in range(3)]
    code, verdict = run_gate(night, tmp_path / "cpu", tmp_path)
    assert (code, set(verdict["counts"])) == (0, {"same"})


def test_one_unusual_run_of_the_past_disarms_no_cell(save_run, tmp_path):
    history = save_nights(save_run, range(6))
    unusual = json.loads((history / "0002.00_1.json").read_text())
    for bench in unusual["benchmarks"]:
        bench["stats"]["median"] *= 1.3
    (history / "0002.00_1.json").write_text(json.dumps(unusual))
    code, verdict = run_gate(save_night(save_run, 10, scale=[(CELL, 1.05)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert verdict["counts"]["REGRESSION"] == 1


def test_a_slower_clock_is_named_as_that(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 10, scale=[("", 1.06)], clock=1800 / 1.06)
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, set(verdict["counts"])) == (0, {"slower clock"})
    cell = cell_of(verdict)
    assert cell["change_s"] == pytest.approx(0.06, abs=0.005)
    assert abs(cell["change"]) < 0.005
    base = [str(path) for path in sorted(history.glob("0003*"))]
    assert main(["compare", *base, "--new", *map(str, night), "-o", str(tmp_path / "out")]) == 0
    counts = json.loads((tmp_path / "out" / "verdict.json").read_text())["counts"]
    assert set(counts) == {"slower clock"}


def test_a_noisy_cell_that_is_far_beyond_its_noise_is_red(save_run, tmp_path):
    for day in range(10):
        save_run(day, "mixed", [(CELL, 1 + 0.1 * (-1) ** day)])
    night = [save_run(20 + i / 96, "new", [(CELL, 3.0)]) for i in range(3)]
    code, verdict = run_gate(night, tmp_path / "mixed", tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_a_run_is_never_its_own_past(save_run, history, tmp_path):
    base, new = save_run(10), save_run(11, scale=[(CELL, 1.5)])  # both are in the history
    code = main(
        ["compare", str(base), str(new), "--history", str(history), "-o", str(tmp_path / "out")]
    )
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (code, status_of(verdict)) == (0, {"SLOWER"})
    assert verdict["counts"]["SLOWER"] == 1


def test_a_change_within_its_own_interval_is_within_noise(save_run, tmp_path):
    def wide(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["interval"] = 0.66

    files = [save_run(0, "a", change=wide), save_run(1, "b", [(CELL, 0.93)], change=wide)]
    main(["compare", *map(str, files), "-o", str(tmp_path / "out")])
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert status_of(verdict) == {"within noise"}
    assert "SUSPECT slower" not in verdict["counts"]


@pytest.mark.parametrize(
    ("day", "torch", "message"),
    [
        (12, None, "was saved 8.0 days after"),
        (20.02, "9.9", "has torch"),
    ],
)
def test_runs_that_cannot_be_of_one_night_are_status_2(
    day, torch, message, save_run, tmp_path, capsys
):
    history = save_nights(save_run)
    night = save_night(save_run, 20, runs=2)
    night += save_night(save_run, day, runs=1, torch=torch)
    assert run_gate(night, history, tmp_path)[0] == 2
    error = capsys.readouterr().err
    assert message in error
    assert "judge the two apart" in error


def test_a_night_may_pass_midnight(save_run, tmp_path):
    for day in range(4):
        save_night(save_run, day + 0.99, "nights")
    _, verdict = run_gate(save_night(save_run, 10.99), tmp_path / "nights", tmp_path)
    assert {(c["n"], c["nights"]) for c in verdict["cells"]} == {(12, 4)}


def test_dates_with_time_zones_are_compared_as_times(save_run, tmp_path):
    """As texts, 02:00 at +14:00 is after 23:00 at UTC of the day before; it is earlier."""
    history = save_nights(save_run)

    def dated(text):
        return on_gpu(change=lambda run: run.update(datetime=text))

    save_run(50, "nights", noise=0.001, change=dated("2026-01-20T02:00:00+14:00"))
    later = save_run(51, "new", noise=0.001, change=dated("2026-01-19T23:00:00+00:00"))
    _, verdict = run_gate(later, history, tmp_path)
    assert not any("saved after" in note for note in verdict["notes"])
    _, verdict = run_gate(later, history, tmp_path)
    assert {c["n"] for c in verdict["cells"]} == {12}


def simulated(draw, shift, count=400, noise=0.004):
    """Cells whose past and night have noise only, but for a shift of the night."""
    nights = np.repeat(np.arange(5), 3)

    def times(length, level):
        x = level + draw.normal(0, noise, length)
        return Times(x, np.full(length, np.nan), nights[:length], np.full(length, "", object))

    return [
        CellHistory(str(i), {}, (), times(3, shift), times(15, 0.0), np.ones(15, bool), None)
        for i in range(count)
    ]


def test_the_detectable_change_is_found_in_95_of_100_nights():
    draw = np.random.default_rng(0)
    stated = compare_levels(simulated(draw, 0.0), CODE)["detectable"].median()
    assert 0.015 < stated < 0.05
    found = compare_levels(simulated(draw, np.log1p(stated)), CODE)["slow"].mean()
    assert 0.90 <= found <= 0.99
    at_half = compare_levels(simulated(draw, np.log1p(stated / 2)), CODE)["slow"].mean()
    assert at_half < 0.5


def test_another_card_is_judged_with_a_wider_limit(save_run, tmp_path):
    history = save_nights(save_run)
    for card, code in (("GPU-2", 0), ("GPU-1", 1)):
        night = save_night(save_run, 10, scale=[(CELL, 1.025)], card=card)
        assert run_gate(night, history, tmp_path)[0] == code, card
    for day in range(11, 13):
        save_night(save_run, day, "nights", [("", 1.015)], card="GPU-2")
    night = save_night(save_run, 14, scale=[("", 1.015), (CELL, 1.02)], card="GPU-2")
    _, verdict = run_gate(night, history, tmp_path)
    assert verdict["counts"]["REGRESSION"] == 1, "a card has its own baseline once it is known"


def without(*parts, outcome=None):
    """A change that takes the cells with such names from a run, or gives them an outcome."""

    def change(run):
        gone = [b for b in run["benchmarks"] if any(part in b["fullname"] for part in parts)]
        run["benchmarks"] = [b for b in run["benchmarks"] if b not in gone]
        if outcome:
            keep = ("mask", "backend", "direction", "seq_len", "batch", "heads", "kv_heads")
            for bench in gone:
                cell = {k: bench["extra_info"][k] for k in (*keep, "head_dim", "dtype")}
                cell |= {"fullname": bench["fullname"], "outcome": outcome[0], "reason": outcome[1]}
                run["maskbench"]["untimed"].append(cell)

    return change


def test_cells_that_are_no_longer_timed_are_red(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    almost_all = without("dense", "sdpa", "causal_padding", "global_local", "s1024")
    code, verdict = run_gate(save_night(save_run, 10, change=almost_all), history, tmp_path)
    assert (code, verdict["verdict"]) == (1, "CELLS LOST")
    assert verdict["counts"] == {"vanished": 45, "same": 1}
    assert accept(save_night(save_run, 10, change=almost_all), history) == 0
    assert run_gate(save_night(save_run, 11, change=almost_all), history, tmp_path)[0] == 0


def test_a_backend_that_no_longer_imports_is_one_line_with_the_reason(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    broken = without("-flex-", outcome=("skipped", "flex cannot be imported: no such symbol"))
    code, verdict = run_gate(save_night(save_run, 40, change=broken), history, tmp_path)
    assert (code, verdict["counts"]["no longer timed"]) == (1, 6)
    lines = [line for line in capsys.readouterr().out.splitlines() if "no such symbol" in line]
    assert len(lines) == 1
    assert "all 6 cells of backend flex" in lines[0]
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert summary.count("all 6 cells of backend flex") == 1


def test_a_length_that_is_lost_beside_a_backend_is_one_line(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    night = save_night(save_run, 10, change=without("-sdpa_math-", "-s1024-"))
    assert run_gate(night, history, tmp_path)[0] == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vanished")]
    assert len(lines) == 2
    assert "cells of backend sdpa_math" in lines[0]
    assert "cells of seq_len 1024" in lines[1]


def test_renamed_cells_do_not_hide_that_they_are_slower(save_run, tmp_path):
    history = save_nights(save_run)

    def renamed(run):
        for bench in run["benchmarks"]:
            if "-flex-" in bench["fullname"]:
                bench["fullname"] = bench["fullname"].replace("flex", "flex2")
                bench["extra_info"]["backend"] = "flex2"
                bench["stats"]["median"] *= 2

    code, verdict = run_gate(save_night(save_run, 10, change=renamed), history, tmp_path)
    assert (code, verdict["verdict"]) == (1, "CELLS LOST")
    assert (verdict["counts"]["vanished"], verdict["counts"]["new"]) == (6, 6)


def test_a_step_is_placed_where_it_is_and_its_file_named(save_run, tmp_path):
    for day in range(10):
        save_run(day, scale=[(CELL, 1.3)] if day >= 8 else (), name=f"run_{day}.json")
    main(["history", str(tmp_path / "history"), "-o", str(tmp_path / "out")])
    cell = cell_of(json.loads((tmp_path / "out" / "verdict.json").read_text()))
    assert (cell["status"], cell["steps"]) == ("STEP", [8])
    assert "at run_8.json, 2026-01-09" in cell["reason"]


def test_history_sees_drift(save_run, tmp_path):
    for day in range(60):
        save_run(day, scale=[(CELL, 1.34 ** (day / 60))], noise=0.004)
    main(["history", str(tmp_path / "history"), "-k", "causal-flex", "-o", str(tmp_path / "out")])
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    cell = cell_of(verdict)
    assert cell["status"] == "DRIFT"
    assert "+3" in cell["reason"]
    assert status_of(verdict, "s1024") == {"level"}
