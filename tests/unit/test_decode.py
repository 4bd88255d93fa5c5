"""`python -m reports decode`: how near decoding is to the bandwidth of the card."""

import pytest

from maskbench.records import UnreadableRun
from reports.__main__ import main
from reports.decode import NAME, decode_report
from reports.generated import generated_part
from tests.unit.real_run import all_cells, few_cells, saved_as


def decoding(copy=None, batch=2, torch=None, **fields):
    """A change of the test data to one query per sequence; each backend has another bandwidth.

    `fields` are fields of all cells, and make them other cells.
    """

    def change(run):
        few_cells(run)
        for cell in all_cells(run):
            cell |= {"q_len": 1, "batch": batch, **fields}
        if torch:
            run["commit_info"]["torch"] = torch
        for place, bench in enumerate(run["benchmarks"]):
            bench["fullname"] += f"-b{batch}{''.join(map(str, fields.values()))}"
            cell = bench["extra_info"]
            cell["gb_per_s"] = 100.0 * (place + 1)
            bench["stats"]["median"] = 1 / cell["gb_per_s"]
            if copy:
                cell["copy_gb_per_s"] = copy

    return change


def test_the_share_is_that_of_the_runs_own_copy(tmp_path):
    report = decode_report([saved_as(tmp_path / "run.json", decoding(copy=1000.0))]).markdown()
    (row,) = [line for line in report.splitlines() if line.startswith("| causal")]
    fastest = row.split("|")[8]
    gb_per_s = int(fastest.split(": ")[1].split(" ")[0])
    assert fastest.strip().endswith(f"{gb_per_s} GB/s, {gb_per_s // 10} %")
    assert "*" not in report


def test_a_run_without_a_copy_takes_that_of_the_others_and_says_so(tmp_path):
    own = saved_as(tmp_path / "a.json", decoding(copy=1000.0))
    other = saved_as(tmp_path / "b.json", decoding(batch=4))
    text = decode_report([own, other]).markdown()
    rows = [line for line in text.splitlines() if line[:8] == "| causal"]
    assert [r"%\*" in row for row in rows] == [False, True]


@pytest.mark.parametrize("other", [None, decoding(batch=4)])
def test_no_run_with_a_copy_is_refused(other, tmp_path):
    paths = [saved_as(tmp_path / "run.json", decoding())]
    if other:
        paths.append(saved_as(tmp_path / "other.json", other))
    with pytest.raises(UnreadableRun, match=r"run\.json.*: no run measured a copy"):
        decode_report(paths)


def test_a_copy_beside_other_cells_only_is_none(tmp_path):
    def change(run):
        decoding()(run)
        bench = run["benchmarks"][0]["extra_info"]
        bench |= {"q_len": bench["seq_len"], "copy_gb_per_s": 1000.0}

    with pytest.raises(UnreadableRun, match="no run measured a copy"):
        decode_report([saved_as(tmp_path / "run.json", change)])


@pytest.mark.parametrize("copy", [1000.0, None])
def test_all_queries_are_no_decoding(copy, tmp_path):
    def change(run):
        decoding(copy=copy)(run)
        for cell in all_cells(run):
            cell["q_len"] = cell["seq_len"]

    with pytest.raises(UnreadableRun, match=r"run\.json: no decoding cell .*--q-lens.*was timed$"):
        decode_report([saved_as(tmp_path / "run.json", change)])


def test_decoding_that_failed_says_why(tmp_path):
    def change(run):
        decoding()(run)
        run["benchmarks"] = []
        failed = run["maskbench"]["untimed"][0]
        failed |= {"direction": "forward", "outcome": "failed", "reason": "no kernel"}
        run["maskbench"]["untimed"] = [failed]

    with pytest.raises(UnreadableRun, match="was timed; 1 of 1 cells are failed: no kernel"):
        decode_report([saved_as(tmp_path / "run.json", change)])


def test_a_run_without_cells_is_refused(tmp_path, capsys):
    def change(run):
        run["benchmarks"] = run["maskbench"]["untimed"] = []

    path = saved_as(tmp_path / "run.json", change)
    for command in ("decode", "published"):
        assert main([command, str(path)]) == 2
        assert capsys.readouterr().err == f"reports: {path}: {NOTHING}\n"


NOTHING = "has no benchmarks: nothing was timed in that run"


def test_the_heading_names_torch(tmp_path):
    report = decode_report([saved_as(tmp_path / "run.json", decoding(1000.0, torch="2.14.1"))])
    assert report.text().startswith("CPU, 2 threads, torch 2.14.1. The 4 fastest")


def test_runs_of_two_versions_of_torch_or_devices_are_not_mixed(tmp_path):
    def on_a_gpu(run):
        decoding(1000.0)(run)
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda"}

    run = saved_as(tmp_path / "run.json", decoding(1000.0, torch="2.11.0"))
    later = saved_as(tmp_path / "later.json", decoding(1000.0, torch="2.14.1"))
    with pytest.raises(UnreadableRun, match=r"torch is 2\.11\.0, 2\.14\.1"):
        decode_report([run, later])
    with pytest.raises(UnreadableRun, match="device is CPU, 2 threads, a GPU"):
        decode_report([run, saved_as(tmp_path / "gpu.json", on_a_gpu)])


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"head_dim": 32, "v_head_dim": 32}, ["32", "float32"]),
        ({"head_dim": 64, "v_head_dim": 32}, ["64 (v 32)", "float32"]),
        ({"dtype": "bfloat16"}, ["64", "bfloat16"]),
    ],
)
def test_each_shape_has_a_row_of_its_own_that_names_it(fields, shown, tmp_path):
    runs = [saved_as(tmp_path / "a.json", decoding(1000.0))]
    runs.append(saved_as(tmp_path / "b.json", decoding(1000.0, **fields)))
    report = decode_report(runs)
    rows = [line.split(" | ") for line in report.markdown().splitlines() if "| causal" in line]
    assert sorted(row[3:5] for row in rows) == sorted([["64", "float32"], shown])
    assert report.table()["v_head_dim"].nunique() == (2 if "v_head_dim" in fields else 1)


def test_the_command_writes_between_the_markers(tmp_path):
    run, page = saved_as(tmp_path / "run.json", decoding(copy=1000.0)), tmp_path / "page.md"
    page.write_text(f"<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\n")
    assert main(["decode", str(run), "-o", str(page)]) == 0
    assert generated_part(page, NAME) == decode_report([run]).markdown()
