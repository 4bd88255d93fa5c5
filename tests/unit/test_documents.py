"""The commands whose tables are in documents: they print them, and write a file only with -o."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from reports.__main__ import main
from reports.report import Heading, Paragraph, Report

RUNS = Path(__file__).parents[2] / "reports" / "runs"
COMMANDS = {
    "accuracy": ["accuracy_h100/soak.json.gz"],
    "decode": ["masks_h100/decode_b16.json.gz"],
    "kernel_options": [],
    "mask_mod_variants": ["repeats/2026-11-26_71a9_1.json.gz"],
    "ranking": ["masks_h100/published.json.gz"],
    "published": ["masks_h100/published.json.gz"],
    "releases": [
        f"releases_h100/{torch}_{n}.json.gz" for torch in ("2.11.0", "2.12.1") for n in (1, 2)
    ],
    "validation": [
        "validation/same_1.json.gz",
        "validation/same_2.json.gz",
        "validation/fidelity.json.gz",
    ],
}


def run(command, *options):
    assert main([command, *(str(RUNS / name) for name in COMMANDS[command]), *options]) == 0


@pytest.fixture(params=COMMANDS)
def command(request, tmp_path, monkeypatch):
    """A command, in a folder with documents of the names of the project's."""
    monkeypatch.chdir(tmp_path)
    markers = "<!-- begin: reports {0} -->\nold\n<!-- end: reports {0} -->\n"
    text = "\n".join(markers.format(name) for name in COMMANDS)
    for name in ("accuracy", "results", "releases", "kernel-options", "regressions"):
        path = tmp_path / "docs" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return request.param


def test_without_a_document_the_report_is_printed_and_no_file_changes(command, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    run(command)
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 3
    assert "| --- |" not in text
    run(command, "--format", "markdown")
    markdown = capsys.readouterr().out.strip()
    assert "| --- |" in markdown
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    document = tmp_path / "docs" / "results.md"
    run(command, "-o", str(document))
    assert f"written between the markers of {document}" in capsys.readouterr().out
    assert markdown in document.read_text()


def test_csv_and_json_have_the_same_rows_of_numbers(command, capsys):
    run(command, "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    run(command, "--format", "csv")
    lines = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert len(lines) == len(rows) > 1
    assert lines[0].keys() == rows[0].keys()
    numbers = [name for name, value in rows[0].items() if type(value) in (int, float)]
    assert len(numbers) >= 2
    for row, line in zip(rows, lines, strict=True):
        for name in numbers:
            if row[name] is not None:
                assert float(line[name]) == pytest.approx(row[name])


def test_a_document_is_in_markdown(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        run(command, "-o", str(tmp_path / "table.csv"), "--format", "csv")
    assert ending.value.code == 2
    assert "-o writes Markdown" in capsys.readouterr().err


TABLE = pd.DataFrame({"a|b": [1, 2]})


def test_a_report_is_escaped_in_markdown_and_plain_on_a_terminal():
    link = Paragraph("see x (https://x)", "see [x](https://x)")
    report = Report([Heading("A * b", 2), "c | d", link, ["one", "two_"], TABLE], {"t": TABLE})
    assert report.markdown() == (
        "## A \\* b\n\nc \\| d\n\nsee [x](https://x)\n\n- one\n- two\\_\n\n"
        "| a\\|b |\n| --- |\n| 1 |\n| 2 |"
    )
    assert report.text() == (
        "A * b\n-----\n\nc | d\n\nsee x (https://x)\n\n- one\n- two_\n\n"
        f"{TABLE.to_string(index=False)}"
    )
    assert report.paragraphs() == ["c | d", "see x (https://x)"]


def test_several_tables_are_one_with_their_names():
    other = pd.DataFrame({"c": [0.5]})
    table = Report([], {"first": TABLE, "second": other}).table()
    assert list(table.columns) == ["table", "a|b", "c"]
    assert list(table["table"]) == ["first", "first", "second"]
    assert list(TABLE.columns) == ["a|b"]
    assert Report([], {"first": TABLE}).table() is TABLE
