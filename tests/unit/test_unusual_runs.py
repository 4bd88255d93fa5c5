"""Reports on runs with other dates, on runs that ended early, and on many cells."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest

from reports.__main__ import main
from reports.history import MAX_DRAWN, cells_to_draw
from reports.plots.limits import MAX_LENGTHS, MAX_PANELS, spread_out
from reports.verdict import Status
from tests.unit.real_run import RUN, few_cells
from tests.unit.seeded_runs import CELL, run_gate, status_of

# --- dates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [0, 9, -11], ids=["UTC", "east", "mixed"])
def test_runs_of_mixed_zones_have_the_steps_of_utc(hours, save_run, tmp_path):
    def in_a_zone(day):
        def change(run):
            time = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(hours=day)
            zone = timezone(timedelta(hours=hours if day % 2 else 0))
            run["datetime"] = time.astimezone(zone).isoformat()
            few_cells(run)

        return change

    for day in range(10):
        scale = [(CELL, 1.3)] if day >= 5 else ()
        folder = save_run(day, scale=scale, change=in_a_zone(day)).parent
    assert main(["history", str(folder), "-o", str(tmp_path / "out")]) == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    steps = {c["fullname"]: c["steps"] for c in verdict["cells"]}
    assert [s for name, s in steps.items() if CELL in name] == [[5]]


def test_a_run_is_later_by_its_time_and_not_by_its_text(save_run, history, tmp_path):
    def a_minute_after_the_last(run):
        run["datetime"] = "2026-01-09T15:01:00-09:00"  # 2026-01-10T00:01 in UTC

    new = save_run(20, "new", change=a_minute_after_the_last)
    _, verdict = run_gate(new, history, tmp_path)
    assert not any("saved after" in note for note in verdict["notes"])
    assert max(c["n"] for c in verdict["cells"]) == 10


@pytest.mark.parametrize("date", ["", "yesterday", "2026-13-01", "0001-01-01T00:00:00+23:00", "9"])
def test_a_date_that_is_none_is_refused(date, save_run, tmp_path, capsys):
    run = save_run(0, change=lambda run: run.update(datetime=date))
    assert main(["matrix", str(run), "-o", str(tmp_path / "out")]) == 2
    assert "has no date and time in datetime" in capsys.readouterr().err


# --- runs that ended early ---------------------------------------------------------------------


def ended_early(run, reason="SIGTERM"):
    lost = run["benchmarks"].pop()["fullname"]
    run["maskbench"] |= {"planned": 84, "not_run": [lost], "interrupted": reason, "pieces": 2}


@pytest.mark.parametrize("reason", ["SIGTERM", "stopping after 1 failures", None])
@pytest.mark.parametrize("which", ["the only one", "one of two"])
def test_the_gate_refuses_a_run_that_ended_early(
    which, reason, save_run, history, tmp_path, capsys
):
    whole = save_run(20, "new", [(CELL, 1.12)])
    early = save_run(20.1, "new", change=lambda run: ended_early(run, reason))
    runs = [early] if which == "the only one" else [whole, early]
    status = main(["gate", *map(str, runs), "--history", str(history), "-o", str(tmp_path / "o")])
    error = capsys.readouterr().err
    assert status == 2
    assert f"{early}: " in error
    assert "1 of 84 cells are missing" in error
    assert "--resume" in error
    assert reason is None or f"ended early ({reason})" in error
    assert error.count("\n") == 1


def test_the_cells_of_a_history_that_ended_early_count(save_run, history, tmp_path):
    save_run(11, change=ended_early)
    _, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert max(c["n"] for c in verdict["cells"]) == 11
    assert any("011.json: ended early (SIGTERM)" in note for note in verdict["notes"])


def test_the_other_commands_say_what_a_run_lacks(save_run, tmp_path, capsys):
    def early(run):
        few_cells(run)
        ended_early(run)

    run = save_run(0, change=early)
    for command in (
        ["plots", str(run)],
        ["matrix", str(run)],
        ["compare", str(run), str(run)],
        ["history", str(run.parent)],
    ):
        assert main([*command, "-o", str(tmp_path / "out")]) == 0
        note = f"note: {run}: ended early (SIGTERM): 1 of 84 cells are missing"
        assert note in capsys.readouterr().out


H100 = Path(__file__).parents[2] / "reports" / "runs" / "masks_h100"


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
@pytest.mark.parametrize(
    ("command", "run", "missing"),
    [
        ("decode", H100 / "decode_b128.json.gz", "8 of 40"),
        ("published", H100 / "published_grouped.json.gz", "2 of 50"),
        ("accuracy", H100.parent / "accuracy_h100" / "soak.json.gz", "70 of 92"),
        ("validation", H100 / "decode_b128.json.gz", "8 of 40"),
        ("ranking", H100 / "published_grouped.json.gz", "2 of 50"),
    ],
)
def test_the_reports_say_what_a_run_lacks(command, run, missing, form, capsys):
    assert main([command, str(run), "--format", form]) == 0
    out, err = capsys.readouterr()
    in_report = command != "ranking"
    note = f"note: {run}: ended early (SIGINT): {missing} cells are missing"
    assert note in (out if form == "text" or (in_report and form == "markdown") else err)


# --- how much is drawn -------------------------------------------------------------------------


def test_a_history_draws_the_cells_with_steps_first():
    cells = pd.DataFrame(
        {
            "mask": [f"m{i % 20}" for i in range(2000)],
            "direction": "forward",
            "status": Status.LEVEL,
        },
        [f"c{i}" for i in range(2000)],
    )
    cells.loc["c1999", "status"] = Status.STEP
    drawn = cells_to_draw(cells)
    assert len(drawn) == MAX_DRAWN
    assert "c1999" in drawn.index
    assert drawn.groupby("mask").size().max() <= MAX_PANELS
    assert len(cells_to_draw(cells[:40])) == 40


def test_lengths_are_spread_from_the_shortest_to_the_longest():
    lengths = list(range(1, 20_001))
    assert len(spread_out(lengths)) == MAX_LENGTHS
    assert (spread_out(lengths)[0], spread_out(lengths)[-1]) == (1, 20_000)
    assert spread_out([512, 4096]) == [512, 4096]


def test_cells_can_be_selected_by_their_names(history, tmp_path, capsys):
    assert main(["history", str(history), "-k", CELL, "-o", str(tmp_path / "out")]) == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert status_of(verdict, "") == status_of(verdict) == {"level"}
    assert main(["plots", str(RUN), "-k", "causal_padding", "-o", str(tmp_path / "plots")]) == 0
    folders = [path.name for path in (tmp_path / "plots").iterdir() if path.is_dir()]
    assert folders == ["causal_padding"]
    assert main(["plots", str(RUN), "-k", "none", "-o", str(tmp_path / "plots")]) == 2
    assert "with 'none' in their names" in capsys.readouterr().err
