"""The gate's verdicts on copies of a real run with seeded noise."""

from reports.__main__ import main
from tests.unit.seeded_runs import (
    CELL,
    cell_of,
    other_gpu,
    run_gate,
    save_night,
    save_nights,
    status_of,
)


def test_nothing_changed_is_no_regression(save_run, history, tmp_path, capsys):
    code, verdict = run_gate(save_run(20, "new"), history, tmp_path)
    assert (code, verdict["verdict"]) == (0, "NO REGRESSION")
    assert set(verdict["counts"]) == {"same"}
    assert all(c["detectable"] >= 0.05 for c in verdict["cells"])
    assert "NO REGRESSION" in capsys.readouterr().out
    for picture in ("changes.png", "heat.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000


def test_one_slow_run_is_judged_with_a_wider_limit(save_run, tmp_path):
    history = save_nights(save_run)
    for scale, found in ((1.04, "same"), (1.06, "REGRESSION")):
        code, verdict = run_gate(
            save_night(save_run, 20, scale=[(CELL, scale)], runs=1), history, tmp_path
        )
        assert (code, status_of(verdict)) == (int(found == "REGRESSION"), {found})
    assert verdict["cells"][0]["status"] == "REGRESSION", "the cells to look at come first"


def test_a_night_of_three_runs_finds_two_percent(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 20, scale=[(CELL, 1.02)])
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert verdict["counts"] == {"REGRESSION": 1, "same": 45}
    assert any("found in 95 % of nights of 3 runs" in note for note in verdict["notes"])
    shuffled = [night[2], night[0], night[1]]
    assert run_gate(shuffled, history, tmp_path)[1]["cells"] == verdict["cells"]


def test_one_slow_run_of_three_is_no_regression(save_run, tmp_path):
    history = save_nights(save_run)
    night = save_night(save_run, 20, runs=2)
    night += save_night(save_run, 20.05, scale=[(CELL, 1.08)], runs=1)
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"same"})


def test_the_night_itself_is_no_history(save_run, tmp_path, capsys):
    history = save_nights(save_run)
    night = save_night(save_run, 20, "nights", [(CELL, 1.05)])
    code, verdict = run_gate([*night, night[0]], history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert {c["n"] for c in verdict["cells"]} == {12}
    assert any("counted once" in note for note in verdict["notes"])


def test_a_faster_night_is_an_improvement(save_run, tmp_path):
    history = save_nights(save_run)
    code, verdict = run_gate(save_night(save_run, 20, scale=[(CELL, 0.9)]), history, tmp_path)
    assert (code, status_of(verdict)) == (0, {"IMPROVEMENT"})


def test_small_changes_are_ignored(save_run, tmp_path):
    history = save_nights(save_run)
    _, verdict = run_gate(save_night(save_run, 20, scale=[(CELL, 1.008)]), history, tmp_path)
    assert status_of(verdict) == {"same"}


def test_a_change_below_a_microsecond_is_ignored(save_run, tmp_path):
    def short(run):
        for bench in run["benchmarks"]:
            bench["stats"]["median"] *= 1e-2  # 11 us and longer

    history = save_nights(save_run, change=short)
    night = save_night(save_run, 20, scale=[("", 1.03)], change=short)
    _, verdict = run_gate(night, history, tmp_path)
    by_size = {c["new_s"] - c["base_s"] > 1.1e-6: c["status"] for c in verdict["cells"]}
    assert by_size == {True: "REGRESSION", False: "same"}


def test_too_few_runs_give_no_verdict(save_run, tmp_path, capsys):
    folder = [save_run(day) for day in range(2)][-1].parent
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


def test_another_form_is_red_until_it_is_accepted(save_run, history, tmp_path):
    def change(run):
        for bench in run["benchmarks"]:
            if CELL in bench["fullname"]:
                bench["extra_info"]["form"] = "another form"

    new = save_run(20, "new", change=change)
    code, verdict = run_gate(new, history, tmp_path)
    assert (code, verdict["verdict"], status_of(verdict)) == (1, "CELLS LOST", {"another form"})
    assert "is another form" in cell_of(verdict)["reason"]
    accept = ["accept", str(new), "--history", str(history), "--because", "the new form"]
    assert main(accept) == 0
    assert run_gate(save_run(21, "new", change=change), history, tmp_path)[0] == 0


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
    assert set(verdict["counts"]) == {"another form"}
    assert "formulation was native, is bias" in verdict["cells"][0]["reason"]


def test_other_software_is_named_and_judged(save_run, tmp_path):
    def change(driver):
        return lambda run: run["machine_info"].update(driver=driver)

    history = save_nights(save_run, change=change("580.1"))
    night = save_night(save_run, 20, scale=[(CELL, 1.05)], torch="9.9", change=change("999.9"))
    code, verdict = run_gate(night, history, tmp_path)
    assert (code, status_of(verdict)) == (1, {"REGRESSION"})
    assert any("driver was 580.1, is 999.9" in note for note in verdict["notes"])
    assert any("torch was 2.13.0+cpu, is 9.9" in note for note in verdict["notes"])


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
    assert (code, verdict["verdict"]) == (1, "CELLS LOST")
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
    assert max(c["n"] for c in verdict["cells"]) == 10


def test_runs_after_the_gated_one_are_left_out(save_run, history, tmp_path):
    _, verdict = run_gate(save_run(7.5, "new"), history, tmp_path)
    assert any("are left out: 2" in note for note in verdict["notes"])


def test_a_run_of_one_cell_is_judged(save_run, tmp_path):
    def one(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if CELL in b["fullname"]][:1]
        run["maskbench"]["untimed"] = []

    folder = [save_run(day, change=one) for day in range(8)][-1].parent
    slow = save_run(20, "new", [(CELL, 1.2)], change=one)
    code, verdict = run_gate(slow, folder, tmp_path)
    assert (code, verdict["counts"]) == (1, {"REGRESSION": 1})
