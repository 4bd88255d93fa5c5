"""Accepted changes, and what is said of nights and acceptances that make no sense."""

import json
import re

import pytest

from reports.__main__ import main
from tests.unit.seeded_runs import CELL, cell_of, run_gate, save_night, save_nights, status_of

OTHER_CELL = "causal-flex-s1024"


def accept(runs, history, *more, because="meant"):
    return main(["accept", *map(str, runs), "--history", str(history), "--because", because, *more])


def test_an_acceptance_moves_the_baseline_of_its_cells_only(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    scale = [(CELL, 1.1), (OTHER_CELL, 1.1)]
    slower = save_night(save_run, 5, "nights", scale)
    assert accept(slower, history, "-k", CELL) == 0
    assert ": 1 timed, and 1 not timed: meant" in capsys.readouterr().out
    code, verdict = run_gate(save_night(save_run, 6, scale=scale), history, tmp_path)
    assert (code, status_of(verdict), status_of(verdict, OTHER_CELL)) == (
        1,
        {"same"},
        {"REGRESSION"},
    )
    assert (cell_of(verdict)["n"], cell_of(verdict, OTHER_CELL)["n"]) == (3, 12)
    assert accept(slower, history) == 0
    assert run_gate(save_night(save_run, 6, scale=scale), history, tmp_path)[0] == 0


def test_the_file_can_be_reviewed(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 5, "nights", torch="9.9")
    assert accept(night, history, "-k", "flex", because="a new\x1b[31m kernel") == 0
    text = (history / "acceptances.json").read_text()
    (one,) = json.loads(text)["acceptances"]
    assert one["containing"] == "flex"
    assert one["torch"] == "9.9"
    assert list(one["runs"]) == [path.name for path in night]
    assert one["runs"][night[0].name].startswith("2026-01-06T00:00:00")
    assert "\x1b" not in one["because"]
    assert text.count("\n") > 8, "a line a field, so that a diff is readable"
    assert text.endswith("}\n")


def test_an_acceptance_of_another_device_does_not_count(save_run, tmp_path):
    history = save_nights(save_run)
    cpu = save_run(5, "nights", [(CELL, 1.1)])
    assert accept([cpu], history) == 0
    code, verdict = run_gate(save_night(save_run, 6, scale=[(CELL, 1.1)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_accepted_cells_that_are_gone_are_not_expected(save_run, tmp_path):
    history = save_nights(save_run)

    def without_flex(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if "-flex-" not in b["fullname"]]

    night = save_night(save_run, 5, change=without_flex)
    assert run_gate(night, history, tmp_path)[0] == 1
    assert accept(night, history, "-k", "flex", because="flex is no longer wanted") == 0
    assert run_gate(night, history, tmp_path)[0] == 0


def test_another_file_can_hold_the_acceptances(save_run, tmp_path):
    history = save_nights(save_run)
    slower = save_night(save_run, 5, "nights", [(CELL, 1.1)])
    elsewhere = ["--acceptances", str(tmp_path / "accepted.json")]
    assert accept(slower, history, *elsewhere) == 0
    night = save_night(save_run, 6, scale=[(CELL, 1.1)])
    assert run_gate(night, history, tmp_path)[0] == 1
    assert run_gate(night, history, tmp_path, *elsewhere)[0] == 0


def test_an_acceptance_of_a_cell_that_does_not_exist_is_refused(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    night = save_night(save_run, 5)
    assert accept(night, history, "-k", "flux") == 2
    assert "-k flux: no cell of these runs or of the history" in capsys.readouterr().err
    assert not (history / "acceptances.json").exists()
    assert accept(night, history, because="  ") == 2
    assert "say why" in capsys.readouterr().err


def test_the_gate_names_an_acceptance_that_no_cell_has(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 5)
    assert accept(night, history, "-k", "flex") == 0
    path = history / "acceptances.json"
    path.write_text(path.read_text().replace('"flex"', '"flux"'))
    code, verdict = run_gate(night, history, tmp_path)
    assert code == 0
    assert any("'flux'" in note and "no run has such a cell" in note for note in verdict["notes"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1, "acceptances": [{"because": "x"}]}', "is damaged"),
        ('{"format": 1, "acceptances": [], "more": 1}', "is damaged"),
        ('{"format": 2, "acceptances": []}', "has format 2"),
        ('{"format": 1, "acceptances": [3]}', "is damaged"),
    ],
)
def test_a_damaged_file_is_status_2_and_is_kept(text, message, save_run, tmp_path, capsys):
    history = save_nights(save_run)
    night = save_night(save_run, 5)
    (history / "acceptances.json").write_text(text)
    assert run_gate(night, history, tmp_path)[0] == 2
    assert accept(night, history) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(message in error and "acceptances.json" in error for error in errors)
    assert (history / "acceptances.json").read_text() == text


def test_a_run_that_ended_early_is_not_accepted(save_run, tmp_path, capsys):
    def early(run):
        run["maskbench"] |= {"planned": 99, "not_run": ["x"], "interrupted": "SIGTERM"}

    history = save_nights(save_run)
    assert accept(save_night(save_run, 5, change=early), history) == 2
    assert "ended early (SIGTERM)" in capsys.readouterr().err


def test_one_run_of_history_is_no_verdict(save_run, tmp_path, capsys):
    history = save_nights(save_run, range(1), runs=1)
    code, verdict = run_gate(save_night(save_run, 5), history, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT ENOUGH HISTORY")
    assert "comparable runs: 1, needed: 3" in capsys.readouterr().out


def test_a_comment_is_short_and_has_the_verdict_first(save_run, tmp_path):
    history = save_nights(save_run)
    run_gate(save_night(save_run, 5, scale=[("", 1.2)]), history, tmp_path)
    text = (tmp_path / "out" / "comment.md").read_text()
    assert text.startswith("<!-- maskbench -->\n\n**gate ")
    assert "REGRESSION" in text.splitlines()[2]
    assert "41 more rows" in text
    assert text.count("REGRESSION |") == 5
    assert len(text) < 20_000


def test_a_comment_has_the_five_largest_changes_even_within_the_noise(save_run, tmp_path):
    history = save_nights(save_run)
    run_gate(save_night(save_run, 5, scale=[(CELL, 0.999)]), history, tmp_path)
    text = (tmp_path / "out" / "comment.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| same")]
    assert len(rows) == 5
    sizes = [abs(float(re.search(r"[+-](\d+\.\d)%", row)[1])) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_a_change_that_no_night_can_find_is_in_words(save_run, tmp_path):
    """Two nights on a CPU say little of the noise between nights."""
    for night in range(2):
        for run in range(3):
            path = save_run(night + run / 96, "cpu", noise=0.02, name=f"{night}_{run}.json")
    new = [save_run(5 + run / 96, "new", noise=0.02, name=f"{run}.json") for run in range(3)]
    _, verdict = run_gate(new, path.parent, tmp_path)
    assert max(cell["detectable"] or 0 for cell in verdict["cells"]) > 1
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| over 100% |" in text
    assert not re.search(r"\d{4}\.\d%", text)


@pytest.mark.parametrize(
    ("factor", "message", "color"),
    [(1, "no regression", "#0072B2"), (1.2, "regression", "#D55E00")],
)
def test_a_badge_says_the_verdict_in_words(factor, message, color, save_run, tmp_path):
    history = save_nights(save_run)
    run_gate(save_night(save_run, 5, scale=[("", factor)]), history, tmp_path)
    assert json.loads((tmp_path / "out" / "badge.json").read_text()) == {
        "schemaVersion": 1,
        "label": "maskbench",
        "message": message,
        "color": color,
    }


def test_versions_that_ran_in_turn_are_told_apart(save_run, tmp_path):
    """The accepted runs alternate with runs of the old version, which are saved later than they."""
    for i in range(3):
        save_night(save_run, i / 24, "nights", runs=1)
        save_night(save_run, i / 24 + 0.02, "nights", [(CELL, 1.1)], runs=1, torch="9.9")
    new = [p for p in sorted((tmp_path / "nights").iterdir()) if '"9.9"' in p.read_text()]
    assert len(new) == 3
    code, verdict = run_gate(new, tmp_path / "nights", tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert accept(new, tmp_path / "nights") == 0
    code, verdict = run_gate(new, tmp_path / "nights", tmp_path)
    assert (code, status_of(verdict)) == (0, {"accepted"})
    for scale, code in ((1.1, 0), (1.122, 1)):
        night = save_night(save_run, 2, scale=[(CELL, scale)])
        assert run_gate(night, tmp_path / "nights", tmp_path)[0] == code


def test_an_acceptance_does_not_count_for_earlier_nights(save_run, tmp_path):
    history = save_nights(save_run)
    assert accept(save_night(save_run, 9, "nights", [(CELL, 1.1)]), history) == 0
    code, verdict = run_gate(save_night(save_run, 6, scale=[(CELL, 1.1)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_the_acceptance_that_was_made_last_counts(save_run, tmp_path):
    """An older night can be accepted after a newer one, to take that one back."""
    history = save_nights(save_run)
    older = save_night(save_run, 5, "nights", [(CELL, 1.1)])
    newer = save_night(save_run, 6, "nights", [(CELL, 1.2)])
    assert accept(newer, history) == 0
    assert accept(older, history, because="no: 1.1 is right") == 0
    code, verdict = run_gate(save_night(save_run, 7, scale=[(CELL, 1.2)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert run_gate(save_night(save_run, 8, scale=[(CELL, 1.1)]), history, tmp_path)[0] == 0
