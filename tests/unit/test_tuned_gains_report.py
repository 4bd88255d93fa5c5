"""The report of `python -m reports tuned_gains`: tables, sentences and the verdict."""

from __future__ import annotations

import csv
import io
import json

import pytest

from maskbench.records import UnreadableRun
from reports.__main__ import main
from reports.generated import generated_part
from reports.plots import matrix
from reports.plots.matrix import in_short
from reports.tuned_forms import TUNED
from reports.tuned_gains import compare_tuned, load_by_setup, slower_cells
from reports.tuned_gains_table import NAME, gains_report, gains_table, verdict_lines
from tests.unit.real_run import all_cells, few_cells, saved_as
from tests.unit.tuned_runs import (
    DEFAULT,
    FLASH,
    forward_cell,
    with_batch_of_two,
    with_tuned,
)

MARKERS = f"before\n<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\nafter\n"
THREE = {"causal": 1.25, "global_local_sliding_window": 0.98, "causal_padding": 4.0}


# --- slower cells ---


@pytest.mark.parametrize(("gain", "is_slower"), [(0.995, False), (1 / 1.011, True), (2.0, False)])
def test_a_cell_is_slower_above_one_percent(gain, is_slower, tmp_path):
    [cells] = load_by_setup([saved_as(tmp_path / "run.json", with_tuned(gain))])
    assert len(slower_cells(compare_tuned(cells))) == is_slower


def test_slower_cells_are_named_with_their_figures(tmp_path):
    def change(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["cycles"] = 1e6

    report = gains_report(
        load_by_setup([saved_as(tmp_path / "run.json", with_tuned(THREE, change=change))])
    )
    lines = report.markdown().splitlines()
    verdict = (
        "Slower than flex by more than 1 %: 1 of 3 cells of flex_tuned. In SM cycles, which do "
    )
    assert f"{verdict}not depend on the clock, 0 of 3 are; the largest ratio is 1.000." in lines
    assert lines[-1].startswith(
        "- global_local_sliding_window forward, S = 512, options own: 1.020 ± 0.005 times the time "
        "of flex, 1.000 times its SM cycles (CPU, 2 threads: B1 H4 D64 float32, torch"
    )
    assert "No cell" not in report.markdown()


def test_without_a_time_of_flex_nothing_is_said_to_be_no_slower(tmp_path):
    def change(run):
        run["benchmarks"].remove(forward_cell(run, "flex"))

    [cells] = load_by_setup([saved_as(tmp_path / "run.json", with_tuned(change=change))])
    gains = compare_tuned(cells)
    assert verdict_lines(gains) == [
        "No cell of flex_tuned can be compared with flex, which has no time here."
    ]
    (row,) = gains_table(gains).to_dict("records")
    assert (row["flex"], row["gain"]) == ("not timed", "")
    assert "the gain is" not in gains_report([cells]).markdown()


def test_without_a_peer_the_gain_is_shown(tmp_path):
    def change(run):
        run["benchmarks"] = [forward_cell(run, "flex"), forward_cell(run, "flex_tuned")]

    [cells] = load_by_setup([saved_as(tmp_path / "run.json", with_tuned(change=change))])
    (row,) = gains_table(compare_tuned(cells)).to_dict("records")
    assert (row["fastest peer"], row["time of the peer"]) == ("not timed", "not timed")
    assert row["flex_tuned over the peer"] == ""
    assert "1.250 ± 0.006" in row["gain"]
    assert "ahead" not in gains_report([cells]).markdown()


def test_the_matrix_names_the_kind_of_options_in_its_picture_only(tmp_path):
    [cells] = load_by_setup([saved_as(tmp_path / "run.json", with_tuned(1.25, FLASH))])
    of_tuned = in_short(cells)["backend"] == TUNED
    assert set(in_short(cells)["form"][of_tuned]) == {"BACKEND=FLASH, found by a search"}
    assert list(in_short(cells)["form"][~of_tuned]) == list(cells["form"][~of_tuned])
    assert "BACKEND=FLASH, found by a search" not in matrix.text(cells)


# --- the summary ---


def test_each_direction_has_the_median_and_range_of_its_gains(tmp_path):
    report = gains_report(
        load_by_setup([saved_as(tmp_path / "run.json", with_tuned(THREE))])
    ).markdown()
    assert (
        "- Forward: the gain is 1.25 in the median of 3, from 0.98 to 4.00 (options: own 3). "
        "flex_tuned is ahead of the fastest peer in 1 of 3, tied with it in 0, behind it in 2. "
        "Its time over that of the peer is 2.76 in the median of 3, from 0.83 to 3.32.\n"
    ) in report
    assert "Backward" not in report


def test_gains_of_the_same_kernel_are_called_noise(tmp_path):
    run = saved_as(tmp_path / "run.json", with_tuned(1.004, DEFAULT))
    report = gains_report(load_by_setup([run])).markdown()
    assert "so these gains are noise: 1.004." in report
    own = saved_as(tmp_path / "own.json", with_tuned(1.004, FLASH))
    assert "noise" not in gains_report(load_by_setup([own])).markdown()


def untimed_tuned(run, reason="no kernel image."):
    """The cell of flex_tuned becomes one that failed."""
    bench = forward_cell(run, "flex_tuned")
    run["benchmarks"].remove(bench)
    names = ("mask", "direction", "seq_len", "batch", "heads", "kv_heads", "head_dim", "dtype")
    cell = {name: bench["extra_info"][name] for name in (*names, "backend")}
    cell |= {"fullname": bench["fullname"], "outcome": "failed", "reason": reason}
    run["maskbench"]["untimed"].append(cell)


def test_cells_that_failed_are_counted_with_their_reason(tmp_path):
    run = saved_as(tmp_path / "run.json", with_tuned(THREE, change=untimed_tuned))
    report = gains_report(load_by_setup([run])).markdown()
    reason = "flex_tuned has no time for 1 of 3 problems; 1 of 1 cells are failed: no kernel image."
    assert reason in report
    assert "1 of 2 cells of flex_tuned." in report


def test_a_shape_without_any_time_has_its_reason_and_no_table(tmp_path):
    def larger_and_failed(run):
        untimed_tuned(run)
        with_batch_of_two(run)

    good = saved_as(tmp_path / "good.json", with_tuned())
    bad = saved_as(tmp_path / "bad.json", with_tuned(change=larger_and_failed))
    report = gains_report(load_by_setup([good, bad])).markdown()
    assert report.count("| mask |") == 1
    assert "flex_tuned has no time for 1 of 1 problems; 1 of 1 cells are failed" in report


# --- errors, formats and the document ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (few_cells, r"run\.json: has no cell of flex_tuned; search the options"),
        (
            with_tuned(change=untimed_tuned),
            r"has no timed cell of flex_tuned; 1 of 1 cells are failed: no kernel image; search",
        ),
    ],
)
def test_a_run_without_times_of_flex_tuned_says_what_to_do(change, message, tmp_path):
    with pytest.raises(UnreadableRun, match=message) as error:
        load_by_setup([saved_as(tmp_path / "run.json", change)])
    assert "python -m pytest -m tune tests/test_tune.py" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["text", "csv", "json", "markdown"])
def test_with_a_format_the_table_is_printed_and_no_document_written(
    form, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # without a document
    run = saved_as(tmp_path / "run.json", with_tuned(THREE))
    assert main(["tuned_gains", str(run), "--format", form]) == 0
    printed = capsys.readouterr()
    notes = printed.err if form in ("csv", "json") else printed.out
    assert "Slower than flex by more than 1 %: 1 of 3" in notes
    if form in ("csv", "json"):
        rows = (
            json.loads(printed.out) if form == "json" else csv.DictReader(io.StringIO(printed.out))
        )
        assert {row["mask"]: float(row["gain"]) for row in rows} == pytest.approx(THREE)
    elif form == "markdown":
        assert "| mask | direction | S |" in printed.out


def test_the_command_writes_between_the_markers(tmp_path, capsys):
    run, page = saved_as(tmp_path / "run.json", with_tuned()), tmp_path / "page.md"
    page.write_text(MARKERS)
    assert main(["tuned_gains", str(run), "-o", str(page)]) == 0
    assert generated_part(page, NAME) == gains_report(load_by_setup([run])).markdown()
    assert str(page) in capsys.readouterr().out


def test_names_are_shown_as_they_are(tmp_path):
    hostile = "a|b<script>`*"

    def rename(run):
        forward_cell(run, "sdpa")["extra_info"]["backend"] = hostile
        for cell in all_cells(run):
            cell["mask"] = hostile

    run = saved_as(tmp_path / "run.json", with_tuned(0.5, change=rename))
    report = gains_report(load_by_setup([run])).markdown()
    assert report.count(r"a\|b&lt;script&gt;\`\*") == 3  # the mask twice, the backend once
    assert hostile not in report
