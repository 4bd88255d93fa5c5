"""`python -m reports published`: published throughputs beside those of runs."""

import pytest

from maskbench.records import UnreadableRun
from masks import PATTERNS
from reports.__main__ import main
from reports.published import NAME, PUBLISHED, published_report
from tests.unit.real_run import all_cells, few_cells, saved_as

MARKERS = f"before\n<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\nafter\n"


def of_a_figure(run):
    """The test data's causal cells with the shape of a published figure, 100 TFLOP/s each."""
    few_cells(run)
    for cell in all_cells(run):
        cell |= {"seq_len": 16384, "q_len": 16384, "head_dim": 64, "v_head_dim": 64}
    for bench in run["benchmarks"]:
        bench["extra_info"]["tflops"] = 100.0
    fastest = next(b for b in run["benchmarks"] if b["extra_info"]["direction"] == "forward")
    fastest["extra_info"] |= {"tflops": 480.0, "backend": "sdpa_flash"}


def rows_with(text, part):
    return [line for line in text.splitlines() if part in line]


def test_a_published_case_has_the_fastest_backend_of_the_runs(tmp_path):
    report = published_report([saved_as(tmp_path / "run.json", of_a_figure)]).markdown()
    (row,) = rows_with(report, "| causal, D64, S = 16384")
    assert "473 / - (FlashAttention-3, H100)" in row
    assert "480 (sdpa_flash) / " in row
    assert not rows_with(report, "| full, D64")  # not in the run


def test_the_last_queries_are_another_case(tmp_path):
    def last_queries(run):
        of_a_figure(run)
        for cell in all_cells(run):
            cell["q_len"] = 16

    with pytest.raises(UnreadableRun, match="no cell of these runs is of a published case"):
        published_report([saved_as(tmp_path / "run.json", last_queries)])


def test_runs_of_two_devices_are_not_mixed(tmp_path):
    def on_a_gpu(run):
        of_a_figure(run)
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda"}

    paths = [saved_as(tmp_path / "a.json", of_a_figure), saved_as(tmp_path / "b.json", on_a_gpu)]
    with pytest.raises(UnreadableRun, match=r"different devices: .*a GPU"):
        published_report(paths)


def test_the_command_writes_between_the_markers(tmp_path, capsys):
    run, page = saved_as(tmp_path / "run.json", of_a_figure), tmp_path / "page.md"
    page.write_text(MARKERS)
    assert main(["published", str(run), "-o", str(page)]) == 0
    assert published_report([run]).markdown() in page.read_text()
    assert str(page) in capsys.readouterr().out


def test_the_masks_of_the_published_results_are_in_the_catalogue():
    assert {mask.partition("(")[0] for case in PUBLISHED for mask in case.masks} <= set(PATTERNS)
