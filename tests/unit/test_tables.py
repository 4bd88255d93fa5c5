"""The rankings as tables, and the formats of every table that a command prints."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.__main__ import main, make_parser
from reports.drawing import attention_cells, load_by_shape
from reports.page.data import page_data
from reports.ranking_table import ranking_table, run_notes
from reports.tables import TableFormat, table_text
from tests.unit.real_run import RUN, few_cells, saved_as
from tests.unit.test_pictures import with_peaks_and_graphs

TABLE = pd.DataFrame({"cell": ["a,b", "c|d"], "ms": [np.float64(1.5), np.nan], "n": [1, 2]})


@pytest.fixture
def run(tmp_path):
    return str(saved_as(tmp_path / "runs" / "run.json", few_cells))


def cells_of(path):
    [(cells, _)] = load_by_shape([path], path.parent, None)
    return attention_cells(cells)


# --- formats -----------------------------------------------------------------------------------


def test_json_has_an_object_for_each_row_and_null_for_no_number():
    assert json.loads(table_text(TABLE, TableFormat.JSON)) == [
        {"cell": "a,b", "ms": 1.5, "n": 1},
        {"cell": "c|d", "ms": None, "n": 2},
    ]


def test_csv_quotes_what_it_must():
    rows = list(csv.DictReader(io.StringIO(table_text(TABLE, TableFormat.CSV))))
    assert rows == [{"cell": "a,b", "ms": "1.5", "n": "1"}, {"cell": "c|d", "ms": "", "n": "2"}]


def test_markdown_escapes_and_text_is_aligned():
    assert "| c\\|d | nan | 2 |" in table_text(TABLE, TableFormat.MARKDOWN)
    assert table_text(TABLE, TableFormat.TEXT) == TABLE.to_string(index=False)


COMMANDS = ["compare", "gate", "history", "matrix", "ranking"]


def run_command(command, run, form, tmp_path):
    folder = str(tmp_path / "runs")
    arguments = {
        "compare": [run, run],
        "gate": [run, "--history", folder],
        "history": [folder],
    }.get(command, [run])
    output = [] if command == "ranking" else ["-o", str(tmp_path / "out")]
    main([command, *arguments, *output, "--format", form])


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_table_is_on_stdout(command, form, run, tmp_path, capsys):
    run_command(command, run, form, tmp_path)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    is_json = form == "json"
    rows = json.loads(printed.out) if is_json else [*csv.DictReader(io.StringIO(printed.out))]
    assert rows
    assert "mask" in rows[0]
    assert printed.err.strip()


@pytest.mark.parametrize("command", ["compare", "gate", "history"])
def test_markdown_is_the_whole_summary(command, run, tmp_path, capsys):
    run_command(command, run, "markdown", tmp_path)
    printed = capsys.readouterr()
    assert printed.out.strip() == (tmp_path / "out" / "summary.md").read_text().strip()
    assert "summary.md" in printed.err


def test_the_matrix_in_markdown_is_a_table(run, tmp_path, capsys):
    run_command("matrix", run, "markdown", tmp_path)
    printed = capsys.readouterr()
    lines = printed.out.strip().split("\n")
    assert len(lines) > 2
    assert all(line.startswith("| ") for line in lines)
    assert "matrix.png" in printed.err


def test_the_ranking_in_markdown_has_its_paragraphs(run, tmp_path, capsys):
    run_command("ranking", run, "markdown", tmp_path)
    first, *_, last = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith("B1 H4 D64 float32, ")
    assert last.endswith("are tied (=).")


def test_a_format_that_does_not_exist_is_refused(run, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["ranking", run, "--format", "xml"])
    assert ending.value.code == 2
    assert "invalid choice: 'xml' (choose from" in capsys.readouterr().err


def test_readme_names_the_commands_without_formats():
    (sentence,) = re.findall(
        "All commands of `python -m reports`.except (.*) have `--format`",
        Path("README.md").read_text(),
        re.S,
    )
    (commands,) = (action for action in make_parser()._actions if action.dest == "command")
    without = [
        name
        for name, command in commands.choices.items()
        if "--format" not in command.format_help()
    ]
    assert re.findall("`(\\w+)`", sentence) == without


# --- the ranking -------------------------------------------------------------------------------


def test_the_ranking_has_both_answers_and_what_was_not_measured(capsys):
    assert main(["ranking", "reports/runs/validation/grid_cold.json.gz", "-k", "causal-"]) == 0
    printed = capsys.readouterr().out
    assert "fastest on the device" in printed
    assert "fastest as called from Python" in printed
    assert "The share of the peak was not measured in this run." in printed
    assert "CUDA graphs were not timed in this run." in printed
    assert not re.search("share of the peak$", printed, re.MULTILINE)


def test_a_cpu_has_one_answer(run, capsys):
    assert main(["ranking", run]) == 0
    printed = capsys.readouterr().out
    assert not re.search("as called|on the device", printed)
    assert "CUDA graphs" not in printed


def test_a_newer_run_has_the_share_of_the_peak_and_graphs(tmp_path):
    cells = cells_of(saved_as(tmp_path / "run.json", with_peaks_and_graphs))
    table = ranking_table(cells)
    assert list(table.columns) == [
        *("mask", "direction", "S"),
        *("fastest on the device", "time on the device"),
        *("fastest with CUDA graphs", "time with CUDA graphs"),
        *("fastest as called from Python", "time as called from Python"),
        *("time at the peak", "share of the peak"),
    ]
    assert table["share of the peak"].str.fullmatch(r"\d+ % of the (compute|memory) peak").all()
    [peak, noise] = run_notes(cells)
    assert "reach this share of the peak: forward" in peak
    assert "; backward" in peak
    assert "cells are noisy" in noise
    assert table["time on the device"].str.startswith("~").any()


def test_a_run_that_shared_its_device_says_so(tmp_path, capsys):
    """The intervals do not always show it: beside another run a cell can be steadily slow."""

    def shared(run):
        run["maskbench"]["shared_device"] = True
        for bench in run["benchmarks"]:
            bench["extra_info"]["interval"] = 0.001

    run = saved_as(tmp_path / "run.json", shared)
    for command in ("ranking", "plots"):
        more = [] if command == "ranking" else ["-k", "causal-flex-s512", "-o", str(tmp_path)]
        assert main([command, str(run), *more]) == 0
        assert "Another run used the device at the same time." in capsys.readouterr().out
    (notes,) = [setup["notes"] for setup in page_data([run])["setups"]]
    assert notes == ["Another run used the device at the same time."]


def test_several_shapes_have_what_the_fastest_leave_of_the_peak(capsys):
    runs = ["accuracy_h100/cuda_graphs.json.gz", "masks_h100/decode_b16.json.gz"]
    assert main(["ranking", *(f"reports/runs/{run}" for run in runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.rpartition(": ")[2] for line in lines if "this share of the peak" in line]
    assert found == [
        "forward 101 % in the median of 2, from 98 % to 104 %.",
        "forward 99 % in the median of 2, from 96 % to 102 %.",
        "forward 42 %; backward 34 %.",
    ]
    (row,) = (line for line in lines if "window   forward" in line)
    assert row.endswith("0.0223 ms 42 % of the memory peak")
    assert "NVIDIA H100 80GB HBM3, torch 2.11.0+cu130." in lines[0]
    assert "The time at the peak is the longer of two" in lines[-1]


def test_a_run_without_peaks_does_not_explain_them(run, capsys):
    assert main(["ranking", run]) == 0
    printed = capsys.readouterr().out
    assert printed.strip().endswith("are tied (=).")
    assert "time at the peak" not in printed


def test_the_ranking_is_written_between_the_markers_of_a_page(run, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: reports ranking -->\n<!-- end: reports ranking -->\nafter")
    assert main(["ranking", run, "-o", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "| mask | direction | S | fastest | time |" in text
    assert "not measured in this run" in text
    assert str(page) in capsys.readouterr().out


def test_several_shapes_are_ranked_apart(tmp_path, capsys):
    def smaller(run):
        few_cells(run)
        for cell in [b["extra_info"] for b in run["benchmarks"]] + run["maskbench"]["untimed"]:
            cell["batch"] = 2
        for cell in [*run["benchmarks"], *run["maskbench"]["untimed"]]:
            cell["fullname"] = cell["fullname"].replace("-b1h", "-b2h")

    other = saved_as(tmp_path / "other.json", smaller)
    assert main(["ranking", str(RUN), str(other), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["batch"] for row in rows} == {1, 2}
