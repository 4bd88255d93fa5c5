"""The page on accuracy: errors over those of dense attention, and the results of soaks."""

import json
import math

import pytest

from maskbench.records import UnreadableRun
from reports.__main__ import main
from reports.accuracy import accuracy_report, error_ratio

DENSE = {"out": 1e-3, "dq": 2e-3, "dk": 4e-3, "dv": 1e-3}


def with_fields(run, *cells):
    """The run with the fields of each cell replaced, in the order of its benchmarks."""
    for bench, fields in zip(run["benchmarks"], cells, strict=True):
        bench["fullname"] = fields.get("fullname", bench["fullname"])
        bench["extra_info"] |= {name: value for name, value in fields.items() if name != "fullname"}
    return run


def errors(**factors):
    """The fields of a cell whose errors are these multiples of dense attention's."""
    return {
        "errors": {name: factor * DENSE[name] for name, factor in factors.items()},
        "error_bounds": {name: 2.5 * DENSE[name] for name in factors},
        "dense_errors": {name: DENSE[name] for name in factors},
    }


@pytest.fixture
def save(small_run, tmp_path):
    def saved(*cells, untimed=None, date=None):
        run = with_fields(json.loads(json.dumps(small_run)), *cells)
        run["datetime"] = date or run["datetime"]
        run["maskbench"]["untimed"][0] |= untimed or {}
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.json"
        path.write_text(json.dumps(run))
        return path

    return saved


SAME = {"mask": "causal", "backend": "flex", "dtype": "float16"}


def test_the_worst_of_all_runs_and_directions_counts(save):
    forward = {**SAME, "direction": "forward"}
    backward = {**SAME, "direction": "backward"}
    first = save(forward | errors(out=1.5), backward | errors(out=0.5, dq=0.25, dk=1.0, dv=2.0))
    second = save(forward | errors(out=0.75), backward | errors(out=0.5, dq=1.25, dk=0.5, dv=1.0))
    text = accuracy_report([first, second]).markdown()
    assert "## Errors in float16" in text
    assert "| causal | flex | 1.50 | 1.25 | 1.00 | 2.00 |" in text
    assert "| flex | 1.50 | 1.25 | 1.00 | 2.00 |" in text
    assert text.startswith("2 cells. ")
    assert "Soak" not in text


def test_a_file_that_is_named_twice_counts_once(save):
    cell = {**SAME, "direction": "forward"} | errors(out=1.0)
    steady = {**SOAK, "soak_distinct": 1, "soak_worst_difference": 0.0, "deterministic": True}
    path = save(cell, steady | errors(dq=1.0), untimed=FAILED)
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    once = accuracy_report([path])
    for paths in ([path, path], [path, copy]):
        twice = accuracy_report(paths)
        assert twice.text() == once.text()
        assert len(twice.table()) == len(once.table())


def test_a_soak_that_failed_in_one_run_failed(save):
    steady = {**SOAK, "soak_distinct": 1, "soak_worst_difference": 0.0, "deterministic": True}
    failed = save({}, {}, untimed={**FAILED, "fullname": "test_soak[x]"})
    passed = save({**steady, "fullname": "test_soak[x]"}, {}, date="2999-01-01T00:00:00+00:00")
    text = accuracy_report([failed, passed]).markdown()
    assert "| 3 of 2000 launches |" in text
    assert "| 2000 | 1 | yes |" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine_info": {"gpu": "NVIDIA H200"}}, "device is CPU, 2 threads, NVIDIA H200"),
        ({"commit_info": {"torch": "2.99.0"}}, r"torch is 2\..*, 2\.99\.0"),
    ],
)
def test_runs_of_two_devices_or_versions_of_torch_are_not_mixed(change, message, save):
    cell = {**SAME, "direction": "forward"} | errors(out=1.0)
    first, second = save(cell, {}), save(cell, {})
    run = json.loads(second.read_text())
    for block, fields in change.items():
        run[block] |= fields
    second.write_text(json.dumps(run))
    with pytest.raises(UnreadableRun, match=message):
        accuracy_report([first, second])


def test_each_mask_and_data_type_has_its_own_row(save):
    other = {**SAME, "mask": "full", "dtype": "bfloat16", "direction": "forward"}
    path = save({**SAME, "direction": "forward"} | errors(out=1.0), other | errors(out=2.0))
    text = accuracy_report([path]).markdown()
    half, bfloat = text.split("## Errors in bfloat16")
    assert "| causal | flex | 1.00 |" in half
    assert "| full | flex | 2.00 |" in bfloat
    assert "causal" not in bfloat


def test_exact_results_have_no_ratio_to_exact_dense_attention():
    assert error_ratio(0.0, 0.0) == 0.0
    assert error_ratio(1e-9, 0.0) == math.inf
    assert error_ratio(1.0, 4.0) == 0.25


SOAK = {**SAME, "direction": "soak_backward", "soak_launches": 2000}
FAILED = {
    **{**SAME, "backend": "racy", "direction": "soak_backward"},
    **{"outcome": "failed", "reason": "3 of 2000 launches"},
}


def test_soaks_say_what_differed_and_what_failed(save):
    steady = {**SOAK, "soak_distinct": 1, "soak_worst_difference": 0.0, "deterministic": True}
    unsteady = {
        **SOAK,
        "mask": "full",
        **{"soak_distinct": 1987, "soak_worst_difference": 3.2e-4, "deterministic": False},
    }
    path = save(steady | errors(dq=1.0), unsteady | errors(dq=1.0), untimed=FAILED)
    text = accuracy_report([path]).markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    seen = {row.split(" | ")[0].strip("| "): row for row in rows if " 2000 | " in row}
    assert seen["causal"].endswith("| 2000 | 1 | yes | 0.0e+00 |")
    assert seen["full"].endswith("| 2000 | 1987 | no | 3.2e-04 |")
    (row,) = (row for row in rows if "racy" in row)
    assert row.endswith("| 3 of 2000 launches |")


def test_runs_without_the_fields_are_refused(save):
    path = save({}, {})
    with pytest.raises(UnreadableRun, match="no cell has the errors of each tensor"):
        accuracy_report([path])


def test_soaks_that_failed_are_shown_without_the_errors_of_other_cells(save):
    report = accuracy_report([save({}, {}, untimed=FAILED)])
    text = report.text()
    assert "3 of 2000 launches" in text
    assert "No cell has the errors of each tensor" in text
    assert report.table()["reason"].to_list() == ["3 of 2000 launches"]


def test_soaks_that_were_not_run_are_no_result(save):
    skipped = {**FAILED, "outcome": "skipped", "reason": "no CUDA"}
    with pytest.raises(UnreadableRun, match="no cell has the errors of each tensor"):
        accuracy_report([save({}, {}, untimed=skipped)])
    cell = {**SAME, "direction": "forward"} | errors(out=1.0)
    assert "Soak" not in accuracy_report([save(cell, cell, untimed=skipped)]).text()


def test_soaks_of_two_shapes_are_told_apart(save):
    steady = {**SOAK, "soak_distinct": 1, "soak_worst_difference": 0.0, "deterministic": True}
    text = accuracy_report([save(steady, {**steady, "head_dim": 96, "v_head_dim": 96})]).markdown()
    rows = [line for line in text.splitlines() if "| 2000 |" in line]
    assert len({row.split(" | ")[2] for row in rows}) == 2
    assert " D96 |" in text


@pytest.mark.parametrize("form", ["csv", "json"])
def test_labels_of_tables_are_not_printed_for_programs(form, save, capsys):
    cell = {**SAME, "direction": "forward"} | errors(out=1.0)
    path = save(cell, cell, untimed=FAILED)
    assert main(["accuracy", str(path), "--format", form]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == []
    assert main(["accuracy", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\nBy mask:\n" in text
    assert "\nThese failed:\n" in text


def test_the_command_writes_between_the_markers(save, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("text\n<!-- begin: reports accuracy -->\n<!-- end: reports accuracy -->\n")
    cell = {**SAME, "direction": "forward"} | errors(out=1.0)
    path = save(cell, cell)
    assert main(["accuracy", str(path), "-o", str(page)]) == 0
    assert page.read_text().startswith("text\n")
    assert "| flex | 1.00 |" in page.read_text()
    assert str(page) in capsys.readouterr().out
