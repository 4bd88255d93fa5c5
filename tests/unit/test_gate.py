"""The gate's verdicts on copies of a real run with seeded noise."""

import json
from datetime import datetime

import pytest

from reports import power_analysis
from reports.comparability import load_run
from tests.unit.seeded_runs import CELL, other_gpu, run_gate, status_of


def test_nothing_changed_is_no_regression(save_run, history, tmp_path, capsys):
    code, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NO REGRESSION")
    assert not {"SLOW", "REGRESSION"} & verdict["counts"].keys()
    assert all(c["detectable"] >= 0.05 for c in verdict["cells"] if c["status"] == "same")
    assert "NO REGRESSION" in capsys.readouterr().out
    for picture in ("changes.png", "heat.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000


def test_one_slow_run_is_not_a_regression(save_run, history, tmp_path):
    slow = save_run(20, "new", [(CELL, 1.12)])
    code, verdict = run_gate(slow, history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert verdict["cells"][0]["status"] == "SLOW", "the cells to look at come first"


def test_slow_in_the_confirming_run_too_is_a_regression(save_run, history, tmp_path):
    slow, again = (save_run(day, "new", [(CELL, 1.12)]) for day in (20, 21))
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert verdict["counts"]["REGRESSION"] == 1
    quiet = save_run(22, "new")
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(quiet))
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert "did not repeat in the confirming run" in verdict["cells"][0]["reason"]


def test_slow_the_next_night_is_a_regression(save_run, history, tmp_path):
    save_run(19, scale=[(CELL, 1.12)])
    code, verdict = run_gate(save_run(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    code, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"}), "a single slow night is ignored"


def test_a_fast_night_does_not_confirm_a_slow_one(save_run, history, tmp_path):
    save_run(19, scale=[(CELL, 0.85)])
    code, verdict = run_gate(save_run(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


def test_three_runs_of_one_night_are_not_a_new_level(save_run, history, tmp_path):
    for hour in range(3):
        save_run(19 + hour / 24, scale=[(CELL, 1.12)])
    code, verdict = run_gate(save_run(20, "new", [(CELL, 1.12)]), history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})


def test_a_run_saved_twice_does_not_confirm_itself(save_run, history, tmp_path):
    slow = save_run(20, "new", [(CELL, 1.12)])
    twin = json.loads(slow.read_text())
    twin["datetime"] = (datetime(2026, 1, 20, 23, 59)).isoformat()
    (history / "twin.json").write_text(json.dumps(twin))
    code, verdict = run_gate(slow, history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


@pytest.mark.parametrize("which", ["itself", "another GPU"])
def test_a_run_that_cannot_confirm_is_status_2(which, save_run, history, tmp_path, capsys):
    slow = save_run(20, "new", [(CELL, 1.12)])
    other = slow if which == "itself" else save_run(21, "new", change=other_gpu)
    assert run_gate(slow, history, tmp_path, "--confirm", str(other))[0] == 2
    assert f"--confirm {other}: is " in capsys.readouterr().err


def test_a_cell_missing_from_the_confirming_run_stays_slow(save_run, history, tmp_path):
    def without(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL not in b["fullname"]]

    slow, again = save_run(20, "new", [(CELL, 1.12)]), save_run(21, "new", change=without)
    code, verdict = run_gate(slow, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (0, {"SLOW"})
    assert verdict["cells"][0]["reason"] == "not judged in the confirming run"


def test_a_confirmed_speedup_is_an_improvement(save_run, history, tmp_path):
    fast, again = (save_run(day, "new", [(CELL, 0.85)]) for day in (20, 21))
    code, verdict = run_gate(fast, history, tmp_path, "--confirm", str(again))
    assert (code, status_of(verdict)) == (0, {"IMPROVEMENT"})


def test_three_runs_at_a_new_level_are_the_new_baseline(save_run, history, tmp_path):
    for day in range(11, 18):
        save_run(day, scale=[(CELL, 1.2)])
    code, verdict = run_gate(save_run(20, "new", [(CELL, 1.2)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"})
    cell = next(c for c in verdict["cells"] if CELL in c["fullname"])
    assert cell["n"] == 7


def test_small_changes_are_ignored(save_run, history, tmp_path):
    _, verdict = run_gate(save_run(20, "new", [(CELL, 1.03)]), history, tmp_path)
    assert status_of(verdict) == {"same"}


def test_bimodal_and_noisy_cells_are_not_judged(save_run, tmp_path):
    def modes(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["two_modes"] = CELL in bench["fullname"]

    folder = [save_run(day, change=modes) for day in range(8)][-1].parent
    slow = save_run(20, "new", [(CELL, 1.5)], change=modes)
    code, verdict = run_gate(slow, folder, tmp_path)
    assert (code, status_of(verdict)) == (0, {"noisy"})
    wild = [save_run(day, "wild", noise=0.06) for day in range(8)][-1].parent
    code, verdict = run_gate(save_run(20, "new", noise=0.06), wild, tmp_path, "--strict")
    assert verdict["counts"].keys() <= {"noisy", "too few runs"}, "chance steps shorten histories"
    assert (code, verdict["verdict"]) == (3, "NOT JUDGED: TOO NOISY")


def test_too_few_runs_give_no_verdict(save_run, tmp_path, capsys):
    folder = [save_run(day) for day in range(3)][-1].parent
    new = save_run(20, "new")
    code, verdict = run_gate(new, folder, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NOT ENOUGH HISTORY")
    assert "this is no all-clear" in capsys.readouterr().out
    assert run_gate(new, folder, tmp_path, "--strict")[0] == 3


def test_another_gpu_is_not_comparable(save_run, history, tmp_path):
    new = save_run(20, "new", change=other_gpu)
    code, verdict = run_gate(new, history, tmp_path, "--strict")
    assert (code, verdict["verdict"]) == (3, "NOT COMPARABLE")
    assert any("gpu: None and another GPU" in note for note in verdict["notes"])
    assert run_gate(new, history, tmp_path)[0] == 0


def test_another_formulation_is_not_comparable(save_run, history, tmp_path):
    def change(run):
        for bench in run["benchmarks"]:
            if CELL in bench["fullname"]:
                bench["extra_info"]["form"] = "another form"

    _, verdict = run_gate(save_run(20, "new", change=change), history, tmp_path)
    assert status_of(verdict) == {"not comparable"}
    (cell,) = (c for c in verdict["cells"] if CELL in c["fullname"])
    assert "is another form" in cell["reason"]


def test_a_formulation_is_compared_by_its_identifier_and_not_by_its_text(save_run, tmp_path):
    def formulated(identifier, text):
        def change(run):
            run["maskbench"]["format"] = 2
            for bench in run["benchmarks"]:
                bench["extra_info"] |= {"formulation": identifier, "form": text}

        return change

    history = [save_run(day, change=formulated("native", "by name")) for day in range(8)][-1].parent
    reworded = save_run(20, "new", change=formulated("native", "in other words"))
    _, verdict = run_gate(reworded, history, tmp_path)
    assert verdict["verdict"] == "NO REGRESSION"
    other = save_run(21, "new", change=formulated("bias", "by name"))
    _, verdict = run_gate(other, history, tmp_path)
    assert set(verdict["counts"]) == {"not comparable"}
    assert "formulation was native, is bias" in verdict["cells"][0]["reason"]


def test_another_driver_is_a_new_segment(save_run, tmp_path):
    def change(run, driver="999.9"):
        run["machine_info"] |= {"gpu": "a GPU", "driver": driver}

    def older(run):
        change(run, "580.1")

    history = [save_run(day, change=older) for day in range(10)][-1].parent
    code, verdict = run_gate(save_run(20, "new", change=change), history, tmp_path, "--strict")
    assert (code, verdict["verdict"]) == (3, "NOT ENOUGH HISTORY")
    assert any("new segment" in note and "999.9" in note for note in verdict["notes"])


def test_runs_of_other_torch_versions_are_comparable(save_run, history, tmp_path):
    def change(run):
        run["commit_info"] |= {"torch": "9.9", "triton": "9"}
        run["machine_info"]["node"] = "another host"

    code, verdict = run_gate(save_run(20, "new", [(CELL, 1.2)], change=change), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"SLOW"})


def test_missing_and_failing_cells_are_reported(save_run, history, tmp_path, capsys):
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

    code, verdict = run_gate(save_run(20, "new", change=change), history, tmp_path)
    assert code == 0
    assert verdict["counts"]["failing"] == verdict["counts"]["vanished"] == 1
    assert [c["status"] for c in verdict["cells"][:2]] == ["failing", "vanished"]
    assert "failed: AssertionError: wrong" in capsys.readouterr().out
    save_run(19, change=change)
    _, verdict = run_gate(save_run(20, "new", change=change), history, tmp_path)
    assert verdict["counts"]["failing"] == verdict["counts"]["vanished"] == 1, "the next night, too"


def test_a_duplicate_run_counts_once(save_run, history, tmp_path):
    save_run(3, name="copy.json")
    _, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert any("copy.json" in note and "counted once" in note for note in verdict["notes"])
    assert {c["n"] for c in verdict["cells"]} == {10}


def test_runs_after_the_gated_one_are_left_out(save_run, history, tmp_path):
    _, verdict = run_gate(save_run(7.5, "new"), history, tmp_path)
    assert any("2 runs saved after" in note for note in verdict["notes"])


def test_a_run_of_one_cell_is_judged(save_run, tmp_path):
    def one(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL in b["fullname"]][:1]
        run["maskbench"]["untimed"] = []

    folder = [save_run(day, change=one) for day in range(8)][-1].parent
    slow = save_run(20, "new", [(CELL, 1.2)], change=one)
    code, verdict = run_gate(slow, folder, tmp_path)
    assert (code, verdict["counts"]) == (0, {"SLOW": 1})


def test_a_bimodal_cell_confirms_by_its_fastest_round(save_run, history, tmp_path):
    def bimodal(fastest):
        def change(run):
            for bench in run["benchmarks"]:
                if CELL in bench["fullname"]:
                    bench["extra_info"]["two_modes"] = True
                    bench["stats"]["min"] = fastest * bench["stats"]["median"]

        return change

    slow = save_run(20, "new", [(CELL, 1.2)])
    for day, fastest, code in ((21, 0.98, 1), (22, 0.8, 0)):
        again = save_run(day, "new", [(CELL, 1.2)], change=bimodal(fastest))
        found, verdict = run_gate(slow, history, tmp_path, "--confirm", str(again))
        assert found == code, f"the fastest round is {fastest} of the median"
    fast = save_run(23, "new", [(CELL, 0.8)])
    again = save_run(24, "new", [(CELL, 0.8)], change=bimodal(0.98))
    _, verdict = run_gate(fast, history, tmp_path, "--confirm", str(again))
    assert status_of(verdict) == {"FAST"}, "a fast round confirms nothing"


def test_power_analysis_counts_what_the_gate_reports(save_run, monkeypatch):
    def few_cells(run):
        few = [b for b in run["benchmarks"] if "[causal-" in b["fullname"]]
        run["benchmarks"] = [b for b in few if "-s512-" in b["fullname"]]

    monkeypatch.setattr(power_analysis, "TARGETS", {1.15: 0.99})
    runs = [load_run(save_run(day, change=few_cells)) for day in range(12)]
    slower = [
        load_run(save_run(day, "slower", [(CELL, 1.5)], change=few_cells)) for day in (20, 21)
    ]
    text = power_analysis.power_report(runs, slower)
    assert "| runs with a confirmed regression | at most 2 % | 0 of 12 |" in text
    assert f"| x1.15 | 99% | 100.0 % of {12 * len(runs[0].timed)} |" in text
    slow_part = text.partition("Slower code")[2]
    named = [line for line in slow_part.splitlines() if CELL in line]
    hit = [name for name in runs[0].timed.index if CELL in name]
    assert len(named) == len(hit) >= 1
    assert f"{len(hit)} of {len(runs[0].timed)} cells are a REGRESSION, 0 SLOW once" in slow_part
    assert power_analysis.power_report(runs[:11], []) is None
