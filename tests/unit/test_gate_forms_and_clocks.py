"""Forms that change, clocks that are missing or move, and cells that some runs lack."""

import json

import pytest

from reports.__main__ import main
from tests.unit.seeded_runs import CELL, cell_of, run_gate, save_night, save_nights, status_of


def with_form(form, factor=1.0):
    def change(run):
        for bench in run["benchmarks"]:
            if CELL in bench["fullname"]:
                bench["extra_info"]["form"] = form
                bench["stats"]["median"] *= factor

    return change


def test_another_form_is_red_every_night(save_run, tmp_path):
    history = save_nights(save_run)
    for day in range(5, 8):
        change = with_form("a fallback", 1.5)
        code, verdict = run_gate(save_night(save_run, day, change=change), history, tmp_path)
        assert (code, status_of(verdict)) == (1, {"another form"}), f"night {day}"
        save_night(save_run, day, "nights", change=change)


def test_a_fallback_to_an_old_form_is_red(save_run, tmp_path):
    history = save_nights(save_run, change=with_form("slow", 1.5))
    better = save_night(save_run, 5, "nights", change=with_form("fast"))
    accept = ["accept", *map(str, better), "--history", str(history), "--because", "faster"]
    assert main(accept) == 0
    night = save_night(save_run, 6, change=with_form("slow", 1.5))
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"another form"})


def test_a_night_of_two_forms_is_red(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 5, runs=1, change=with_form("another"))
    night += save_night(save_run, 5.02, runs=2)
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"another form"})
    assert "within the night" in cell_of(verdict)["reason"]


def without_clock(run):
    for bench in run["benchmarks"]:
        if CELL in bench["fullname"]:
            bench["extra_info"]["call_clock_mhz"] = None


def test_one_run_without_a_clock_does_not_turn_a_slower_clock_into_a_regression(save_run, tmp_path):
    history = save_nights(save_run, range(3))
    save_night(save_run, 3, "nights", runs=1, change=without_clock)
    save_night(save_run, 3.1, "nights", runs=2)
    for day, change in ((10, None), (11, without_clock)):
        night = save_night(save_run, day, scale=[("", 1.03)], clock=1800 / 1.03, runs=2)
        night += save_night(
            save_run, day + 0.1, scale=[("", 1.03)], clock=1800 / 1.03, runs=1, change=change
        )
        code, verdict = run_gate(night, history, tmp_path)
        assert (code, status_of(verdict)) == (0, {"slower clock"})


def test_a_clock_that_never_moved_before_is_not_trusted_alone(save_run, tmp_path):
    """Equal seconds at a higher clock: memory-bound cells do not follow the clock."""
    history = save_nights(save_run)
    night = save_night(save_run, 10, clock=1890.0)
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, set(verdict["counts"])) == (0, {"same"})


def test_cells_that_only_some_runs_of_the_night_have_are_named(save_run, tmp_path):
    def failed(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL not in b["fullname"]]

    history = save_nights(save_run)
    night = save_night(save_run, 5, runs=1) + save_night(save_run, 5.02, runs=2, change=failed)
    _, verdict = run_gate(night, history, tmp_path)
    assert any(f"not timed in each run of the night: 1 ({CELL}" in n for n in verdict["notes"])


def accept(runs, history, *more):
    return main(["accept", *map(str, runs), "--history", str(history), "--because", "x", *more])


def test_the_two_files_of_one_run_are_accepted_together(save_run, tmp_path):
    """pytest-benchmark dates the --benchmark-json file and the autosaved file differently."""
    history = save_nights(save_run)
    scale = [(CELL, 1.1)]
    autosaved = save_night(save_run, 5, "nights", scale)
    copies = []
    for path in autosaved:
        run = json.loads(path.read_text())
        run["datetime"] = run["datetime"][:19] + ".012000"
        copies.append(tmp_path / path.name)
        copies[-1].write_text(json.dumps(run))
    assert accept(copies, history) == 0
    code, verdict = run_gate(save_night(save_run, 6, scale=scale), history, tmp_path)
    assert (code, cell_of(verdict)["n"], status_of(verdict)) == (0, 3, {"same"})


def test_a_night_is_accepted_only_if_all_of_its_runs_are(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 5.02, runs=1)
    assert accept(night, history) == 0
    night += save_night(save_run, 5, scale=[(CELL, 1.2)], runs=2)
    _, verdict = run_gate(night, history, tmp_path)
    assert "accepted" not in verdict["counts"]


def test_what_could_not_be_read_again_is_not_written(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    night = save_night(save_run, 5)
    assert accept(night, history, "-k", "") == 2
    long = ["accept", *map(str, night), "--history", str(history), "--because", "x" * 3000]
    assert main(long) == 2
    assert not (history / "acceptances.json").exists()
    assert "would not be readable again" in capsys.readouterr().err


def test_later_runs_alone_are_no_other_machine(save_run, tmp_path):
    history = save_nights(save_run, range(5, 8))
    code, verdict = run_gate(save_night(save_run, 1), history, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT ENOUGH HISTORY")


def test_compare_with_one_file_explains_compare(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "a.json"])
    assert "reports compare: error: name two files" in capsys.readouterr().err
