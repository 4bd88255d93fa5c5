"""Saved runs as input that others made: what is no file, too large, no JSON or other JSON."""

import gzip
import json
import math
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from maskbench import saved_files
from maskbench.reading import parse_run, read_run
from reports.__main__ import main
from tests.unit.pytest_process import ROOT
from tests.unit.real_run import RUN, TEXT
from tests.unit.refused_files import refused

# --- what is no file ---------------------------------------------------------------------------


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


UNREADABLE = {
    "a named pipe": (os.mkfifo, "named pipe"),
    "a socket": (make_socket, "socket"),
    "a folder": (os.mkdir, "folder"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "device"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a loop of links": (lambda path: path.symlink_to(path.name), "Too many levels"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    kind, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the path of a socket has a length limit
    make, message = UNREADABLE[kind]
    path = Path("x.json")
    make(path)
    assert message in refused(path, capsys)
    assert message in refused(path, capsys, "gate", "--history", ".", str(RUN))


@pytest.mark.parametrize("kind", sorted(UNREADABLE.keys() - {"a folder"}))
def test_a_history_with_an_unreadable_entry_names_it(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("history")
    folder.mkdir()
    (folder / "0.json").write_text(TEXT)
    make, message = UNREADABLE[kind]
    make(folder / "1.json")
    for command in (["history", "history"], ["gate", str(RUN), "--history", "history"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "history/1.json: " in error
        assert "Traceback" not in error


def test_a_file_that_vanishes_while_a_history_is_read_is_named(
    history, tmp_path, capsys, monkeypatch
):
    real = saved_files.os.stat

    def vanishing(path, *args, **kwargs):
        if str(path).endswith("004.json"):
            Path(path).unlink(missing_ok=True)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(saved_files.os, "stat", vanishing)
    assert main(["history", str(history), "-o", str(tmp_path / "out")]) == 2
    assert "004.json: No such file" in capsys.readouterr().err


# --- what is too large -------------------------------------------------------------------------


def bomb(content, copies):
    """Several members of gzip, each of `content`."""
    return gzip.compress(content) * copies


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.json", b" " * 3_000_000),
        ("one.json.gz", bomb(b" " * 3_000_000, 1)),
        ("members.json.gz", bomb(b" " * 300_000, 10)),
        ("brackets.json.gz", bomb(b"[" * 3_000_000, 1)),
    ],
)
def test_a_file_over_the_limit_is_refused(name, content, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(saved_files, "MAX_BYTES", 2_000_000)
    (tmp_path / name).write_bytes(content)
    assert "the limit of a saved run" in refused(tmp_path / name, capsys)


def test_the_limit_has_room_for_20_000_cells_with_1_000_rounds():
    run = json.loads(TEXT)
    bench = run["benchmarks"][0]
    bench["stats"]["data"] = [0.0010432479768274934] * 1000
    assert 20_000 * len(json.dumps([bench], indent=4)) < saved_files.MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    "inside",
    [b" " * 2**20, b"[" * 2**20, b"0," * 2**19, b'{"a":' * 2**18],
    ids=["spaces", "brackets", "numbers", "objects"],
)
def test_a_gzip_bomb_takes_less_than_two_gigabytes(inside, tmp_path):
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(TEXT.encode()[:-2] + b', "x": [') + gzip.compress(inside) * 2048)
    done = subprocess.run(
        [sys.executable, "-m", "reports", "matrix", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30)),
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# --- what is no JSON, or other JSON ------------------------------------------------------------

BAD_TEXTS = {
    "deep lists": ('{"benchmarks": ' + "[" * 100_000, "nested too deeply"),
    "deep objects": ('{"benchmarks": ' + '{"a":' * 100_000, "nested too deeply"),
    "a list": ("[]", "Expected object"),
    "a number": ("12", "Expected object"),
    "null": ("null", "Expected object"),
    "no file": ("", "is empty"),
    "spaces": (" \n\t ", "is empty"),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), "is not JSON"),
    "UTF-16": (TEXT.encode("utf-16"), "can't decode byte 0xff"),
    "not UTF-8": (TEXT.encode().replace(b"causal", b"caus\xff", 1), "can't decode byte 0xff"),
    "a NUL": (TEXT.encode() + b"\0", "is not JSON"),
    "two texts": (TEXT + TEXT, "is not JSON"),
    "cut off": (TEXT[:-200], "is not JSON or is truncated"),
    "a lone surrogate": (TEXT.replace('"causal"', '"\\ud800"', 1), "is not JSON"),
    "a result of the gate": ('{"verdict": "REGRESSION"}', "is the result of a report"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_is_no_saved_run_is_refused_in_one_line(name, tmp_path, capsys):
    content, message = BAD_TEXTS[name]
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(path, capsys)
    packed = tmp_path / "run.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert message in refused(packed, capsys)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1e-400000", "0x1", "01", ""],
)
@pytest.mark.parametrize("field", ["median", "rounds", "seq_len", "error", "late_rounds"])
def test_a_number_that_cannot_be_is_refused(number, field, tmp_path, capsys):
    head, extra, tail = TEXT.partition('"extra_info": ')
    start, _, rest = tail.partition(f'"{field}": ')
    start = head + extra + start
    end = min(rest.index(","), rest.index("\n"))
    path = tmp_path / "run.json"
    path.write_text(f'{start}"{field}": {number}{rest[end:]}')
    if field == "error" and number == "1e-400000":
        assert read_run(path).timed[0]["error"] == 0
        return
    refused(path, capsys)


def test_a_nan_is_named_with_its_cell(tmp_path, capsys):
    run = json.loads(TEXT)
    run["benchmarks"][3]["extra_info"]["error"] = math.nan
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run, indent=4))
    message = refused(path, capsys)
    assert "NaN" in message
    assert run["benchmarks"][3]["fullname"] in message


@pytest.mark.parametrize("field", ["benchmarks", "maskbench", "median", "error", "x"])
def test_a_key_that_is_there_twice_is_refused(field, tmp_path, capsys, small_run):
    small_run["benchmarks"][0]["stats"]["x"] = 1
    text = json.dumps(small_run)
    start, key, rest = text.partition(f'"{field}": ')
    value, end = json.JSONDecoder().raw_decode(rest)
    path = tmp_path / "run.json"
    path.write_text(f"{start}{key}{json.dumps(value)}, {key}{rest}")
    assert f"has '{field}' twice in one object" in refused(path, capsys)
    assert end > 0


@pytest.mark.parametrize("form", [None, "removed"])
def test_a_run_without_the_texts_of_its_formulations_is_drawn(form, small_run, tmp_path, capsys):
    del small_run["benchmarks"][1:]
    small_run["benchmarks"][0]["extra_info"]["form"] = form
    if form:
        del small_run["benchmarks"][0]["extra_info"]["form"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    assert main(["plots", str(path), "-o", str(tmp_path / "out")]) == 0, capsys.readouterr().err


def test_text_that_looks_like_a_key_is_none(small_run):
    small_run["machine_info"]["note"] = 'a "x": {"x": 1, "x": \\'
    assert parse_run(json.dumps(small_run).encode(), RUN).timed
