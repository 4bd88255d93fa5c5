"""`python -m reports published`: published throughputs and speed-ups beside those of runs."""

import pytest

from maskbench.records import UnreadableRun
from masks import PATTERNS
from reports.__main__ import main
from reports.published import NAME, published_report
from reports.published_speed_ups import PUBLISHED as SPEED_UPS
from reports.published_throughputs import PUBLISHED as THROUGHPUTS
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

    with pytest.raises(UnreadableRun, match=r"run\.json: no cell is of a published case"):
        published_report([saved_as(tmp_path / "run.json", last_queries)])


def test_runs_of_two_devices_are_not_mixed(tmp_path):
    def on_a_gpu(run):
        of_a_figure(run)
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda"}

    paths = [saved_as(tmp_path / "a.json", of_a_figure), saved_as(tmp_path / "b.json", on_a_gpu)]
    with pytest.raises(UnreadableRun, match=r"device is .*a GPU"):
        published_report(paths)


def test_the_command_writes_between_the_markers(tmp_path, capsys):
    run, page = saved_as(tmp_path / "run.json", of_a_figure), tmp_path / "page.md"
    page.write_text(MARKERS)
    assert main(["published", str(run), "-o", str(page)]) == 0
    assert published_report([run]).markdown() in page.read_text()
    assert str(page) in capsys.readouterr().out


def test_the_masks_of_the_published_results_are_in_the_catalogue():
    masks = [mask for case in THROUGHPUTS for mask in case.masks]
    masks += [case.mask for case in SPEED_UPS]
    assert {mask.partition("(")[0] for mask in masks} <= set(PATTERNS)


# --- speed-ups ---

MS = {"flex": 2.0, "sdpa": 5.0, "sdpa_flash": 30.0}
BACKWARD_MS = {"sdpa": 6.0}  # FlexAttention has no backward on a CPU


def with_times(run, formulation="dense_bias"):
    """The test data's causal cells with the shape of the published speed-ups."""
    few_cells(run)
    for cell in all_cells(run):
        cell |= {"seq_len": 4096, "q_len": 4096, "batch": 8, "heads": 16, "kv_heads": 16}
        cell |= {"head_dim": 64, "v_head_dim": 64, "dtype": "float16"}
    kept = []
    for bench in run["benchmarks"]:
        cell = bench["extra_info"]
        times = MS if cell["direction"] == "forward" else BACKWARD_MS
        if cell["backend"] in times:
            bench["stats"]["median"] = times[cell["backend"]] / 1e3
            cell["formulation"] = formulation
            kept.append(bench)
    run["benchmarks"] = kept


def test_a_published_speed_up_has_that_of_the_runs(tmp_path):
    report = published_report([saved_as(tmp_path / "run.json", with_times)])
    (row,) = rows_with(report.markdown(), "| causal | 4096 |")
    assert row == "| causal | 4096 | 7.3 / 5.3 | 2.5 / 2.1 | 2.5 / - | not timed |"
    data = report.table().set_index("direction")
    assert data["sdpa"]["forward"] == pytest.approx(2.5)
    assert data["published"]["backward"] == pytest.approx(21.05 / 3.97)


def test_a_mask_that_sdpa_does_not_get_as_a_tensor_is_marked(tmp_path):
    path = saved_as(tmp_path / "run.json", lambda run: with_times(run, "is_causal"))
    (row,) = rows_with(published_report([path]).markdown(), "| causal | 4096 |")
    assert "| 2.5 / - (is_causal) |" in row


def test_the_newest_time_of_a_cell_is_used(tmp_path):
    def newer(run):
        with_times(run)
        run["datetime"] = "2999-01-01T00:00:00+00:00"
        run["benchmarks"] = [b for b in run["benchmarks"] if b["extra_info"]["backend"] == "flex"]
        run["benchmarks"][0]["stats"]["median"] = 1e-3

    paths = [saved_as(tmp_path / "b.json", newer), saved_as(tmp_path / "a.json", with_times)]
    (row,) = rows_with(published_report(paths).markdown(), "| causal | 4096 |")
    assert "| 5.0 / - |" in row


def test_speed_ups_of_another_shape_are_not_compared(tmp_path):
    def smaller(run):
        with_times(run)
        for cell in all_cells(run):
            cell["batch"] = 4

    with pytest.raises(UnreadableRun, match=r"run\.json: no cell is of a published case"):
        published_report([saved_as(tmp_path / "run.json", smaller)])


def test_both_tables_are_told_apart_for_programs(tmp_path):
    def elsewhere(run):
        of_a_figure(run)
        for bench in run["benchmarks"]:
            bench["fullname"] += "-s16384"

    paths = [saved_as(tmp_path / "a.json", with_times), saved_as(tmp_path / "b.json", elsewhere)]
    assert set(published_report(paths).table()["table"]) == {"throughputs", "speed-ups"}
