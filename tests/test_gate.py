"""compare, history and gate: on runs made of a real one by seeded noise, and on bad input."""

import gzip
import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports import gate as gating
from reports import proof
from reports.__main__ import main
from reports.evidence import load_run
from reports.steps import steps
from reports.telling import LARGEST, summary

RUN = Path(__file__).parent / "data" / "cpu_run.json"
CELL = "causal-flex-s512"
NOISE = 0.008


@pytest.fixture
def make(tmp_path):
    """Saves a run of day `day`: each median by noise, those of cells named by `scale`, too."""

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
    for day in range(10):
        make(day)
    return make(0).parent


def run_gate(new, history, tmp_path, *more):
    code = main(["gate", str(new), "--history", str(history), "-o", str(tmp_path / "out"), *more])
    verdict = tmp_path / "out" / "verdict.json"
    return code, json.loads(verdict.read_text()) if verdict.exists() else None


def status_of(verdict, part=CELL):
    return {c["status"] for c in verdict["cells"] if part in c["fullname"]}


def test_nothing_changed_is_no_regression(make, history, tmp_path, capsys):
    code, verdict = run_gate(make(20, "new"), history, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NO REGRESSION")
    assert not {"SLOW", "REGRESSION"} & verdict["counts"].keys()
    assert all(c["detectable"] >= 0.05 for c in verdict["cells"] if c["status"] == "same")
    assert "NO REGRESSION" in capsys.readouterr().out
    for picture in ("changes.png", "heat.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000


def test_slow_once_is_not_yet_a_regression(make, history, tmp_path):
    slow = make(20, "new", [(CELL, 1.12)])
    code, verdict = run_gate(slow, history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert verdict["cells"][0]["status"] == "SLOW", "what matters comes first"


def test_slow_in_the_confirming_run_too_is_a_regression(make, history, tmp_path):
    slow, again = (make(day, "new", [(CELL, 1.12)]) for day in (20, 21))
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert verdict["counts"]["REGRESSION"] == 1
    quiet = make(22, "new")
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(quiet))
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert "did not repeat in the confirming run" in verdict["cells"][0]["reason"]


def test_slow_the_next_night_is_a_regression(make, history, tmp_path):
    make(19, scale=[(CELL, 1.12)])
    code, verdict = run_gate(make(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    code, verdict = run_gate(make(20, "new"), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"}), "one slow night, gone again"


def test_a_fast_night_confirms_no_slow_one(make, history, tmp_path):
    make(19, scale=[(CELL, 0.85)])
    code, verdict = run_gate(make(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


def test_three_runs_of_one_night_are_no_new_level_yet(make, history, tmp_path):
    for hour in range(3):
        make(19 + hour / 24, scale=[(CELL, 1.12)])
    code, verdict = run_gate(make(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_a_run_saved_twice_does_not_confirm_itself(make, history, tmp_path):
    slow = make(20, "new", [(CELL, 1.12)])
    twin = json.loads(slow.read_text())
    twin["datetime"] = (datetime(2026, 1, 20, 23, 59)).isoformat()
    (history / "twin.json").write_text(json.dumps(twin))
    code, verdict = run_gate(slow, history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


@pytest.mark.parametrize("which", ["itself", "another card"])
def test_what_cannot_confirm_is_status_2(which, make, history, tmp_path, capsys):
    slow = make(20, "new", [(CELL, 1.12)])
    other = slow if which == "itself" else make(21, "new", change=other_card)
    assert run_gate(slow, history, tmp_path, "--confirm", str(other))[0] == 2
    assert f"--confirm {other}: is " in capsys.readouterr().err


def test_a_cell_that_the_confirming_run_lacks_stays_slow(make, history, tmp_path):
    def without(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL not in b["fullname"]]

    slow, again = make(20, "new", [(CELL, 1.12)]), make(21, "new", change=without)
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert verdict["cells"][0]["reason"] == "not judged in the confirming run"


def test_faster_is_found_the_same_way(make, history, tmp_path):
    fast, again = (make(day, "new", [(CELL, 0.85)]) for day in (20, 21))
    code, verdict = run_gate(fast, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (0, {"IMPROVEMENT"})


def test_a_new_level_counts_once_three_runs_hold_it(make, history, tmp_path):
    for day in range(11, 18):
        make(day, scale=[(CELL, 1.2)])
    code, verdict = run_gate(make(20, "new", [(CELL, 1.2)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"})
    cell = next(c for c in verdict["cells"] if CELL in c["fullname"])
    assert cell["n"] == 7


def test_small_or_short_changes_are_none(make, history, tmp_path):
    _, verdict = run_gate(make(20, "new", [(CELL, 1.03)]), history, tmp_path)
    assert status_of(verdict) == {"same"}


def test_two_modes_and_noise_do_not_gate(make, tmp_path):
    def modes(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["two_modes"] = CELL in bench["fullname"]

    folder = [make(day, change=modes) for day in range(8)][-1].parent
    slow = make(20, "new", [(CELL, 1.5)], change=modes)
    code, verdict = run_gate(slow, folder, tmp_path)
    assert (code, status_of(verdict)) == (0, {"noisy"})
    wild = [make(day, "wild", noise=0.06) for day in range(8)][-1].parent
    code, verdict = run_gate(make(20, "new", noise=0.06), wild, tmp_path, "--strict")
    assert verdict["counts"].keys() <= {"noisy", "too few runs"}, "chance steps shorten a past"
    assert (code, verdict["verdict"]) == (3, "NOT JUDGED: TOO NOISY")


def test_few_runs_are_no_all_clear(make, tmp_path, capsys):
    folder = [make(day) for day in range(3)][-1].parent
    new = make(20, "new")
    code, verdict = run_gate(new, folder, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT ENOUGH HISTORY")
    assert "this is no all-clear" in capsys.readouterr().out
    assert run_gate(new, folder, tmp_path, "--strict")[0] == 3


def other_card(run):
    run["machine_info"] |= {"gpu": "another card", "device": "cuda"}


def test_another_card_is_not_comparable(make, history, tmp_path):
    new = make(20, "new", change=other_card)
    code, verdict = run_gate(new, history, tmp_path, "--strict")
    assert (code, verdict["verdict"]) == (3, "NOT COMPARABLE")
    assert any("gpu: None and another card" in note for note in verdict["notes"])
    assert run_gate(new, history, tmp_path)[0] == 0


def test_another_form_is_another_cell(make, history, tmp_path):
    def change(run):
        for bench in run["benchmarks"]:
            if CELL in bench["fullname"]:
                bench["extra_info"]["form"] = "another form"

    _, verdict = run_gate(make(20, "new", change=change), history, tmp_path)
    assert status_of(verdict) == {"not comparable"}
    (cell,) = (c for c in verdict["cells"] if CELL in c["fullname"])
    assert "is another form" in cell["reason"]


def test_another_driver_is_a_new_segment(make, tmp_path):
    def change(run, driver="999.9"):
        run["machine_info"] |= {"gpu": "a card", "driver": driver}

    def older(run):
        change(run, "580.1")

    history = [make(day, change=older) for day in range(10)][-1].parent
    code, verdict = run_gate(make(20, "new", change=change), history, tmp_path, "--strict")
    assert (code, verdict["verdict"]) == (3, "NOT ENOUGH HISTORY")
    assert any("new segment" in note and "999.9" in note for note in verdict["notes"])


def test_torch_is_the_subject_and_in_no_key(make, history, tmp_path):
    def change(run):
        run["commit_info"] |= {"torch": "9.9", "triton": "9"}
        run["machine_info"]["node"] = "another host"

    code, verdict = run_gate(make(20, "new", [(CELL, 1.2)], change=change), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


def test_cells_that_are_gone_or_fail_are_named(make, history, tmp_path, capsys):
    def change(run):
        first, _, *rest = run["benchmarks"]
        run["benchmarks"] = rest
        keep = {k: first["extra_info"][k] for k in ("mask", "backend", "direction", "seq_len")}
        shape = {
            k: first["extra_info"][k] for k in ("batch", "heads", "kv_heads", "head_dim", "dtype")
        }
        about = {"fullname": first["fullname"], **keep, **shape}
        untimed = run["maskbench"]["untimed"]
        untimed.append({**about, "outcome": "failed", "reason": "AssertionError: wrong"})

    code, verdict = run_gate(make(20, "new", change=change), history, tmp_path)
    assert code == 0
    assert verdict["counts"]["failing"] == verdict["counts"]["vanished"] == 1
    assert [c["status"] for c in verdict["cells"][:2]] == ["failing", "vanished"]
    assert "failed: AssertionError: wrong" in capsys.readouterr().out
    make(19, change=change)
    _, verdict = run_gate(make(20, "new", change=change), history, tmp_path)
    assert verdict["counts"]["failing"] == verdict["counts"]["vanished"] == 1, "the next night, too"


def test_the_same_run_twice_counts_once(make, history, tmp_path):
    make(3, name="copy.json")
    _, verdict = run_gate(make(20, "new"), history, tmp_path)
    assert any("copy.json" in note and "counted once" in note for note in verdict["notes"])
    assert {c["n"] for c in verdict["cells"]} == {10}


def test_order_is_by_when_runs_were_saved(make, tmp_path):
    for day in range(10):
        make(day, scale=[(CELL, 1.3)] if day >= 5 else (), name=f"{9 - day}.json")
    folder = make(0, name="9.json").parent
    trends = main(["history", str(folder), "-o", str(tmp_path / "out")])
    assert trends == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    (cell,) = (c for c in verdict["cells"] if CELL in c["fullname"])
    assert (cell["status"], cell["steps"]) == ("STEP", [5])
    assert "+29" in cell["reason"]
    assert "at run 6" in cell["reason"]
    assert (tmp_path / "out" / "trends" / "causal_forward.png").stat().st_size > 5000


def test_runs_after_the_gated_one_are_left_out(make, history, tmp_path):
    _, verdict = run_gate(make(7.5, "new"), history, tmp_path)
    assert any("2 runs saved after" in note for note in verdict["notes"])


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
    where, spoil, message, make, history, tmp_path, capsys
):
    new = make(20, "new")
    path = new if where == "new" else history / "004.json"
    path.write_text(spoil(path.read_text()))
    assert run_gate(new, history, tmp_path)[0] == 2
    said = capsys.readouterr().err
    assert message in said
    assert path.name in said
    assert "Traceback" not in said


def test_packed_runs_count_and_a_damaged_one_is_status_2(make, history, tmp_path, capsys):
    packed = history / "004.json.gz"
    packed.write_bytes(gzip.compress((history / "004.json").read_bytes()))
    (history / "004.json").unlink()
    _, verdict = run_gate(make(20, "new"), history, tmp_path)
    assert {c["n"] for c in verdict["cells"]} == {10}
    for spoiled in (packed.read_bytes()[:200], b"no archive"):
        packed.write_bytes(spoiled)
        assert run_gate(make(20, "new"), history, tmp_path)[0] == 2
        assert "004.json.gz: " in capsys.readouterr().err


def test_an_empty_or_missing_folder_is_status_2(make, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    new = make(20, "new")
    for folder, message in (("empty", "holds no saved run"), ("none", "is no folder")):
        assert run_gate(new, tmp_path / folder, tmp_path)[0] == 2
        assert main(["history", str(tmp_path / folder), "-o", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count(message) == 2


def test_no_write_permission_is_status_2(make, history, tmp_path, capsys):
    (tmp_path / "out").touch()  # a file where a folder is to be: root may write anywhere else
    assert (
        main(["gate", str(make(20, "new")), "--history", str(history), "-o", str(tmp_path / "out")])
        == 2
    )
    said = capsys.readouterr().err
    assert str(tmp_path / "out") in said
    assert "Traceback" not in said


def test_a_run_of_one_cell_is_judged(make, tmp_path):
    def one(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL in b["fullname"]][:1]
        run["maskbench"]["untimed"] = []

    folder = [make(day, change=one) for day in range(8)][-1].parent
    slow = make(20, "new", [(CELL, 1.2)], change=one)
    code, verdict = run_gate(slow, folder, tmp_path)
    assert (code, verdict["counts"]) == (0, {"SLOW": 1})


def test_the_gates_own_files_are_no_runs(make, history, tmp_path):
    new = make(20, "new")
    run_gate(new, history, tmp_path)
    (tmp_path / "out" / "verdict.json").rename(history / "verdict.json")
    assert run_gate(new, history, tmp_path)[0] == 0


def compare(base, new, tmp_path, *more):
    code = main(["compare", str(base), str(new), "-o", str(tmp_path / "out"), *more])
    return code, json.loads((tmp_path / "out" / "verdict.json").read_text())


def test_compare_suspects_and_a_history_lets_it_say_more(make, history, tmp_path):
    base, new = make(20, "new"), make(21, "new", [(CELL, 1.2)])
    code, verdict = compare(base, new, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SUSPECT slower"})
    assert status_of(compare(base, new, tmp_path, "--history", str(history))[1]) == {"SLOWER"}
    assert status_of(compare(new, base, tmp_path)[1]) == {"SUSPECT faster"}


def test_a_slowdown_of_the_clock_is_ambiguous(make, tmp_path):
    def clock(mhz):
        def change(run):
            for bench in run["benchmarks"]:
                bench["extra_info"]["spin_clock_mhz"] = mhz

        return change

    base = make(20, "new", noise=0, change=clock(1980.0))
    new = make(21, "new", [(CELL, 1.1)], noise=0, change=clock(1800.0))
    assert status_of(compare(base, new, tmp_path)[1]) == {"AMBIGUOUS"}
    same_clock = make(22, "new", [(CELL, 1.1)], noise=0, change=clock(1980.0))
    assert status_of(compare(base, same_clock, tmp_path)[1]) == {"SUSPECT slower"}


def test_compare_of_two_cards_gives_no_verdict(make, tmp_path):
    code, verdict = compare(make(20, "new"), make(21, "new", change=other_card), tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT COMPARABLE")
    assert set(verdict["counts"]) == {"not comparable"}


def test_a_summary_is_never_too_large_and_says_the_verdict_first():
    names = [f"tests/test_forward.py::test_forward[{'x' * 80}-{i}]" for i in range(12000)]
    cells = pd.DataFrame(
        {"status": "same", "direction": "forward", "change": 0.01, "reason": ""}, names
    )
    for status in ("same", "SLOW"):
        text = summary(gating.Verdict(cells.assign(status=status), "WORD", 0), "gate")
        assert len(text.encode()) <= LARGEST
        assert text.startswith("## gate: WORD")


def test_a_reason_with_a_bar_stays_in_its_column():
    cells = pd.DataFrame(
        {"status": "failing", "direction": "forward", "reason": "a | b\nc"}, ["x[y]"]
    )
    assert "| a \\| b c |" in summary(gating.Verdict(cells, "WORD", 0), "gate")


def test_steps_are_found_where_they_are_and_noise_is_none():
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        quiet = draw.normal(0, 0.01, 24)
        assert steps(quiet, 0.05) == []
        stepped = quiet + np.where(np.arange(24) >= 15, np.log(1.08), 0)
        found += steps(stepped, 0.05) in ([14], [15], [16])
    assert found >= 45
    assert steps(np.r_[np.zeros(10), 0.5], 0.05) == [], "one run is no level"


def test_the_proof_counts_what_the_gate_says(make):
    runs = [load_run(make(day)) for day in range(12)]
    cells = proof.pairs(runs)
    assert "| confirmed red suites | at most 2 % | 0 of 12 |" in proof.nothing_changed(cells)
    table = proof.detection(cells)
    assert "x1.15 | 99% | 100.0 %" in table
    assert proof.text(runs[:11]) is None
