"""What the reports write and print: names of others, whole files, terminals and formulas."""

import os
import re
import stat
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from maskbench.plain_text import plain_text
from reports.__main__ import main
from reports.markdown import markdown_text
from reports.output_files import distinct_names, write_whole
from tests.unit.pytest_process import ROOT
from tests.unit.real_run import RUN, all_cells, few_cells, saved_as

HOSTILE_NAMES = [
    *("../../../x", "/abs/x", "..", ".", "", "a/b", "a\\b", "C:\\x", "~", "-o", "con", "LPT1"),
    *("x" * 200, "a\0b", "a\nb", "a\x1b[31mb", "table.png", "\u202egnp.x", "mäsk", "a b", "$x$"),
]


# --- file names --------------------------------------------------------------------------------


def test_a_name_is_never_a_path_and_no_two_are_the_same():
    names = distinct_names((name,) for name in HOSTILE_NAMES).values()
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name)
        assert len(name) < 130
        assert not re.fullmatch(r"(?i)con|lpt1", name)
    assert len({name.lower() for name in names}) == len(HOSTILE_NAMES)


def test_usual_names_stay_as_they_are():
    keys = [("causal", "forward"), ("global_local_sliding_window", "spelling_backward")]
    assert list(distinct_names(keys).values()) == ["_".join(key) for key in keys]


def test_names_that_were_made_alike_on_purpose_stay_apart():
    hashed = distinct_names([("a/b",)])["a/b",]
    names = distinct_names([("a/b",), (hashed,), ("a_b",), ("A_B",), ("a", "b")])
    assert len({name.lower() for name in names.values()}) == 5


NAMES_OF_A_RUN = ("../../../y", "/tmp/abs/y", "..", "a\0b\n\x1b[2J", "m" * 200)


@pytest.mark.parametrize(
    ("command", "field", "names"),
    [
        ("plots", "mask", ("../../../x",)),
        ("history", "mask", ("/tmp/abs/x",)),
        *(
            pytest.param(command, field, NAMES_OF_A_RUN, marks=pytest.mark.slow)
            for command in ("plots", "history")
            for field in ("mask", "dtype")
        ),
    ],
)
def test_no_name_in_a_run_leads_out_of_the_output_folder(command, field, names, tmp_path, capsys):
    def change(run):
        few_cells(run)
        cells = all_cells(run)[::2] if field == "dtype" else all_cells(run)
        for cell, name in zip(cells, cycle(names)):
            cell[field] = name

    folder = tmp_path / "deep" / "er" / "runs"
    run = saved_as(folder / "run.json", change)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "deep" / "er" / "out"
    assert main([command, str(run if command == "plots" else folder), "-o", str(out)]) == 0
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new
    assert all(path.is_relative_to(out) for path in new)
    assert "\x1b" not in capsys.readouterr().out


# --- whole files -------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_whole_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    write_whole(path, "older")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, "newer")
    assert error.value.filename == str(path)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.md"]


def test_others_may_read_what_is_written(tmp_path):
    mode = write_whole(tmp_path / "x" / "y", b"text").stat().st_mode
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(mode) == 0o666 & ~umask


@pytest.mark.parametrize("kind", ["a file", "below a file", "a device", "a dangling link", "full"])
def test_an_output_folder_that_cannot_be_used_is_one_line(kind, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none" / "x" / "y")
    targets = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}
    targets |= {"a device": Path("/dev/null"), "a dangling link": tmp_path / "link"}
    out = targets.get(kind, tmp_path / "out")
    if kind == "full":

        def full(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    assert main(["compare", str(RUN), str(RUN), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"reports: {out}")
    assert error.count("\n") == 1


# --- markup, terminals and formulas ------------------------------------------------------------

MARKUP = [
    *("<script>alert(1)</script>", "</details>", "a | b", "`code`", "**bold**", "![x](http://x/y)"),
    *(
        "[x](http://x/y)",
        "http://x.example",
        "www.x.example",
        "$x^2$",
        "a\n\n# head",
        "&lt;",
        "~~x~~",
    ),
    *("@user", "_it_", "a\r\nb"),
]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown_as_text(text):
    markdown = markdown_text(text)
    assert "\n" not in markdown
    assert not re.search(r"<|(?<![\\&])[`*|~$#]|(?<!\\)\]\(|://|www\.|@|(?<!\\)\b_it", markdown)


def test_usual_text_needs_no_escapes():
    for text in (
        "global_local-s512-b1h4d64-float32",
        "+29.4 % (torch 2.13.0+cpu)",
        "out of memory",
    ):
        assert markdown_text(text) == text


CODES = ("\x1b[31m", "\x9b31m", "\x1b]0;x\x07", "\r", "\b", "\u202e", "\u2066", "\0", "\u2028")


@pytest.mark.parametrize(
    "codes",
    [
        pytest.param(("\x1b",), id="escape"),
        pytest.param(CODES, id="all", marks=pytest.mark.slow),
    ],
)
def test_no_text_of_a_run_controls_a_terminal_or_a_page(codes, tmp_path, capsys):
    hostile = f"x{'x'.join(codes)}<b>|$y$"

    def change(run):
        few_cells(run)
        run["commit_info"]["torch"] = hostile
        run["machine_info"]["gpu"] = hostile
        run["maskbench"] |= {"interrupted": hostile, "not_run": [hostile], "planned": 3}
        for bench in run["benchmarks"]:
            bench["fullname"] = bench["fullname"].replace("causal", hostile)
            bench["extra_info"]["form"] = hostile
        for cell in run["maskbench"]["untimed"]:
            cell["reason"] = hostile
            cell["backend"] += hostile

    name = "".join(codes).replace("\0", "")
    run = saved_as(tmp_path / "runs" / f"a{name}.json", change)
    saved_as(tmp_path / "runs" / "b.json", lambda run: few_cells(run))
    out = tmp_path / "out"
    for command in (
        ["plots", str(run)],
        ["matrix", str(run)],
        ["validation", str(run)],
        ["compare", str(run), str(run)],
        ["history", str(run.parent)],
        ["gate", str(run), "--history", str(run.parent)],
        ["plots", str(run), "-k", hostile[::-1]],
    ):
        main(command if command[0] == "validation" else [*command, "-o", str(out)])
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert not [code for code in codes if code in text]
        assert "Traceback" not in printed.err
        for path in out.rglob("*.*"):
            if path.suffix in (".md", ".json"):
                text = path.read_text()
                assert not [code for code in codes if code in text]
                assert "<b>" not in text or path.suffix == ".json" or "\n    python" in text


def test_names_are_no_formulas_in_pictures(tmp_path, capsys):
    def change(run):
        few_cells(run)
        for cell in all_cells(run):
            cell["mask"] = r"$\frac{1}{$"
            cell["backend"] += r"$\bad$"
            cell["reason"] = cell.get("reason", "") + r" $\x$"

    run = saved_as(tmp_path / "$\\y$.json", change)
    for command in (["plots", str(run)], ["compare", str(run), str(run)]):
        assert main([*command, "-o", str(tmp_path / "out")]) == 0
        assert "Traceback" not in capsys.readouterr().err
    assert plt.rcParams["text.parse_math"] is False


def test_plain_text_keeps_what_can_be_printed():
    for text in ("causal", "ümläut", "注意", "a  b", "† »"):
        assert plain_text(text) == text
    assert plain_text("a\tb\n") == "a b "
    assert plain_text("\x1b\udcff") == "\\x1b\\udcff"


def test_all_output_goes_through_one_place():
    for path in (ROOT / "reports").rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"\bprint\(|write_text|write_bytes", path.read_text()), path


def test_a_terminal_with_ascii_only_gets_escapes(tmp_path):
    def change(run):
        few_cells(run)
        for cell in all_cells(run):
            cell["mask"] = "注意"

    run = saved_as(tmp_path / "läuft.json", change)
    done = subprocess.run(
        [sys.executable, "-m", "reports", "matrix", str(run), "-o", str(tmp_path / "aus_ü")],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
    )
    assert done.returncode == 0
    assert b"\\u6ce8\\u610f" in done.stdout
    assert b"Traceback" not in done.stderr
