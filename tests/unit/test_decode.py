"""`python -m reports decode`: how near decoding is to the bandwidth of the card."""

import pytest

from maskbench.records import UnreadableRun
from reports.__main__ import main
from reports.decode import NAME, decode_report
from reports.generated import generated_part
from tests.unit.real_run import all_cells, few_cells, saved_as


def decoding(copy=None, batch=2):
    """A change of the test data to one query per sequence; each backend has another bandwidth."""

    def change(run):
        few_cells(run)
        for cell in all_cells(run):
            cell |= {"q_len": 1, "batch": batch}
        for place, bench in enumerate(run["benchmarks"]):
            bench["fullname"] += f"-b{batch}"
            cell = bench["extra_info"]
            cell["gb_per_s"] = 100.0 * (place + 1)
            bench["stats"]["median"] = 1 / cell["gb_per_s"]
            if copy:
                cell["copy_gb_per_s"] = copy

    return change


def test_the_share_is_that_of_the_runs_own_copy(tmp_path):
    report = decode_report([saved_as(tmp_path / "run.json", decoding(copy=1000.0))]).markdown()
    (row,) = [line for line in report.splitlines() if line.startswith("| causal")]
    fastest = row.split("|")[6]
    gb_per_s = int(fastest.split(": ")[1].split(" ")[0])
    assert fastest.strip().endswith(f"{gb_per_s} GB/s, {gb_per_s // 10} %")
    assert "*" not in report


def test_a_run_without_a_copy_takes_that_of_the_others_and_says_so(tmp_path):
    own = saved_as(tmp_path / "a.json", decoding(copy=1000.0))
    other = saved_as(tmp_path / "b.json", decoding(batch=4))
    text = decode_report([own, other]).markdown()
    rows = [line for line in text.splitlines() if line[:8] == "| causal"]
    assert [r"%\*" in row for row in rows] == [False, True]


def test_no_run_with_a_copy_is_refused(tmp_path):
    with pytest.raises(UnreadableRun, match="no run measured a copy"):
        decode_report([saved_as(tmp_path / "run.json", decoding())])


def test_all_queries_are_no_decoding(tmp_path):
    def change(run):
        decoding(copy=1000.0)(run)
        for cell in all_cells(run):
            cell["q_len"] = cell["seq_len"]

    with pytest.raises(UnreadableRun, match="no cell of these runs has fewer queries than keys"):
        decode_report([saved_as(tmp_path / "run.json", change)])


def test_the_command_writes_between_the_markers(tmp_path):
    run, page = saved_as(tmp_path / "run.json", decoding(copy=1000.0)), tmp_path / "page.md"
    page.write_text(f"<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\n")
    assert main(["decode", str(run), "-o", str(page)]) == 0
    assert generated_part(page, NAME) == decode_report([run]).markdown()
