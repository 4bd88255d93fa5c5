"""The commands compare and history, and files that cannot be read as runs."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from reports.__main__ import main
from reports.steps import detect_steps
from reports.verdict import Verdict
from reports.writers import MAX_SUMMARY_BYTES, summary
from tests.unit.seeded_runs import CELL, other_gpu, run_gate, status_of


def test_runs_are_ordered_by_date(save_run, tmp_path):
    for day in range(10):
        save_run(day, scale=[(CELL, 1.3)] if day >= 5 else (), name=f"{9 - day}.json")
    folder = save_run(0, name="9.json").parent
    trends = main(["history", str(folder), "-o", str(tmp_path / "out")])
    assert trends == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    (cell,) = (c for c in verdict["cells"] if CELL in c["fullname"])
    assert (cell["status"], cell["steps"]) == ("STEP", [5])
    assert "+29" in cell["reason"]
    assert "at 4.json" in cell["reason"]
    assert (tmp_path / "out" / "trends" / "causal_forward.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON or is truncated"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "has format 99"),
        (lambda text: "", "is empty"),
        (lambda text: json.dumps({**json.loads(text), "benchmarks": []}), "nothing was timed"),
        (lambda text: text.replace('"torch"', '"tortch"'), "is not as this suite saves runs"),
        (lambda text: text.replace('"fullname"', '"name_"'), "is not as this suite saves runs"),
        (lambda text: json.dumps({**json.loads(text), "datetime": None}), "is not as this suite"),
        (lambda text: json.dumps({**json.loads(text), "machine_info": 3}), "is not as this suite"),
        (lambda text: json.dumps({**json.loads(text), "benchmarks": [1]}), "is not as this suite"),
    ],
    ids=[
        *("truncated", "unknown version", "empty file", "nothing timed"),
        *("no torch", "no names", "no date", "no machine", "no benchmark"),
    ],
)
@pytest.mark.parametrize("where", ["new", "history"])
def test_a_file_that_cannot_be_read_is_status_2(
    where, spoil, message, save_run, history, tmp_path, capsys
):
    new = save_run(20, "new")
    path = new if where == "new" else history / "004.json"
    path.write_text(spoil(path.read_text()))
    assert run_gate(new, history, tmp_path)[0] == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert path.name in stderr
    assert "Traceback" not in stderr


def test_compressed_runs_count_and_a_damaged_one_is_status_2(save_run, history, tmp_path, capsys):
    packed = history / "004.json.gz"
    packed.write_bytes(gzip.compress((history / "004.json").read_bytes()))
    (history / "004.json").unlink()
    _, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert max(c["n"] for c in verdict["cells"]) == 10
    for spoiled in (packed.read_bytes()[:200], b"no archive"):
        packed.write_bytes(spoiled)
        assert run_gate(save_run(20, "new"), history, tmp_path)[0] == 2
        assert "004.json.gz: " in capsys.readouterr().err


def test_an_empty_or_missing_folder_is_status_2(save_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    new = save_run(20, "new")
    for folder, message in (("empty", "holds no saved run"), ("none", "is no folder")):
        assert run_gate(new, tmp_path / folder, tmp_path)[0] == 2
        assert main(["history", str(tmp_path / folder), "-o", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count(message) == 2


def test_no_write_permission_is_status_2(save_run, history, tmp_path, capsys):
    (tmp_path / "out").touch()  # a file in place of the folder: root could write anywhere else
    assert (
        main(
            [
                "gate",
                str(save_run(20, "new")),
                "--history",
                str(history),
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    stderr = capsys.readouterr().err
    assert str(tmp_path / "out") in stderr
    assert "Traceback" not in stderr


def test_a_verdict_in_the_history_is_skipped(save_run, history, tmp_path):
    new = save_run(20, "new")
    run_gate(new, history, tmp_path)
    (tmp_path / "out" / "verdict.json").rename(history / "verdict.json")
    assert run_gate(new, history, tmp_path)[0] == 0


def compare(base, new, tmp_path, *more):
    code = main(["compare", str(base), str(new), "-o", str(tmp_path / "out"), *more])
    return code, json.loads((tmp_path / "out" / "verdict.json").read_text())


def test_a_history_turns_a_suspicion_into_a_finding(save_run, history, tmp_path):
    base, new = save_run(20, "new"), save_run(21, "new", [(CELL, 1.2)])
    code, verdict = compare(base, new, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SUSPECT slower"})
    assert status_of(compare(base, new, tmp_path, "--history", str(history))[1]) == {"SLOWER"}
    assert status_of(compare(new, base, tmp_path)[1]) == {"SUSPECT faster"}


@pytest.mark.parametrize("seen", ["call_clock_mhz", "spin_clock_mhz"])  # the latter in older runs
def test_a_slower_clock_is_named_as_that(seen, save_run, tmp_path):
    def clock(mhz):
        def change(run):
            for bench in run["benchmarks"]:
                bench["extra_info"][seen] = mhz

        return change

    base = save_run(20, "new", noise=0, change=clock(1980.0))
    new = save_run(21, "new", [(CELL, 1.1)], noise=0, change=clock(1800.0))
    assert status_of(compare(base, new, tmp_path)[1]) == {"slower clock"}
    same_clock = save_run(22, "new", [(CELL, 1.1)], noise=0, change=clock(1980.0))
    assert status_of(compare(base, same_clock, tmp_path)[1]) == {"SUSPECT slower"}


def test_the_runs_of_a_side_may_be_days_apart(save_run, tmp_path):
    base = [str(save_run(day)) for day in (0, 3, 7)]
    new = [str(save_run(day, "new", [(CELL, 1.2)])) for day in (8, 12)]
    assert main(["compare", *base, "--new", *new, "-o", str(tmp_path / "out")]) == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert status_of(verdict) == {"SLOWER"}


def test_runs_of_two_gpus_are_not_comparable(save_run, tmp_path):
    code, verdict = compare(save_run(20, "new"), save_run(21, "new", change=other_gpu), tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT COMPARABLE")
    assert set(verdict["counts"]) == {"not comparable"}


def test_a_summary_has_a_size_limit_and_begins_with_the_verdict():
    names = [f"tests/test_forward.py::test_forward[{'x' * 80}-{i}]" for i in range(12000)]
    cells = pd.DataFrame(
        {"status": "same", "direction": "forward", "change": 0.01, "reason": ""}, names
    )
    for status in ("same", "SLOWER"):
        text = summary(Verdict(cells.assign(status=status), "WORD", 0), "gate")
        assert len(text.encode()) <= MAX_SUMMARY_BYTES
        assert text.startswith("## gate: WORD")


def test_a_reason_with_a_bar_stays_in_its_column():
    cells = pd.DataFrame(
        {"status": "failing", "direction": "forward", "reason": "a | b\nc"}, ["x[y]"]
    )
    assert "| a \\| b c |" in summary(Verdict(cells, "WORD", 0), "gate")


def test_steps_are_found_where_they_are_and_noise_has_none():
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        quiet = draw.normal(0, 0.01, 24)
        assert detect_steps(quiet) == []
        stepped = quiet + np.where(np.arange(24) >= 15, np.log(1.08), 0)
        found += detect_steps(stepped) in ([14], [15], [16])
    assert found >= 45
    assert detect_steps(np.r_[np.zeros(10), 0.5]) == [], "one run is no level"
    assert detect_steps(np.r_[np.zeros(6), 0.5]) == [], "one run is no level"
