"""Saved runs as input that others made: bad files, hostile names, and what they lack."""

import copy
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
from maskbench.records import UnreadableRun
from reports.__main__ import main
from tests.unit.pytest_process import ROOT

RUN = Path(__file__).parent / "data" / "cpu_run.json"
TEXT = RUN.read_text()
FORWARD = "tests/test_forward.py::test_forward[causal-flex-s512-b1h4d64-float32]"


@pytest.fixture
def small_run():
    """A run of two timed cells and one untimed, as JSON."""
    run = json.loads(TEXT)
    run["benchmarks"] = run["benchmarks"][:2]
    run["maskbench"]["untimed"] = run["maskbench"]["untimed"][:1]
    return run


def refused(path, capsys, *command):
    """The only line that a command prints about a bad file."""
    status = main([*command, str(path)] if command else ["matrix", str(path)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert error.isascii() or error.strip().isprintable()
    assert str(path) in error
    assert "Traceback" not in error
    return error


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
    assert message in refused(path, capsys, "gate", str(RUN), "--history", ".", "--confirm")


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


# --- fields of every other type ----------------------------------------------------------------

VALUES = (None, True, -1, 0, 1.5, 10**18, 1e300, "text", "", [], [None], {}, {"a": []})


def fields_of(value, place=()):
    """The places of all values in a JSON document."""
    yield place
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        children = enumerate(value[:2])
    for key, child in children:
        yield from fields_of(child, (*place, key))


def replaced(document, place, value):
    changed = copy.deepcopy(document)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return changed


def test_a_field_of_any_other_type_is_read_or_refused_in_one_line(small_run):
    """Returns nothing but a run or UnreadableRun, for each field and each JSON type."""
    errors = []
    for place in fields_of(small_run):
        for value in VALUES if place else ():
            changed = replaced(small_run, place, value)
            try:
                parse_run(json.dumps(changed).encode(), Path("run.json"))
            except UnreadableRun as error:
                errors.append(str(error))
    assert len(errors) > 500
    assert [e for e in errors if not (e.startswith("run.json: ") and e.isprintable())] == []


@pytest.mark.slow
def test_every_command_survives_every_field_of_every_type(small_run, tmp_path, capsys):
    """Each accepted run goes to two of the commands, in turn: all six would take three minutes."""
    seen = set()
    for place in fields_of(small_run):
        for value in VALUES if place else ():
            changed = replaced(small_run, place, value)
            try:
                run = parse_run(json.dumps(changed).encode(), Path("run.json"))
            except UnreadableRun:
                continue
            if repr(run) in seen:  # the field is one that no report reads
                continue
            seen.add(repr(run))
            path = tmp_path / "run.json"
            path.write_text(json.dumps(changed))
            history = tmp_path / "history"
            history.mkdir(exist_ok=True)
            (history / "0.json").write_text(json.dumps(changed))
            commands = (
                ["plots", str(path)],
                ["matrix", str(path)],
                ["validation", str(path)],
                ["compare", str(RUN), str(path)],
                ["gate", str(path), "--history", str(history)],
                ["history", str(history)],
            )
            for command in (commands[len(seen) % 6], commands[(len(seen) + 3) % 6]):
                status = main([*command, "-o", str(tmp_path / "out")])
                error = capsys.readouterr().err
                assert "Traceback" not in error, (place, value, command, error)
                assert status in (0, 1, 2, 3), (place, value, command)
                assert status != 2 or error.count("\n") == 1, (place, value, command, error)
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("stats", "median"), 0.0, "no time above 0"),
        (("stats", "median"), -1e-3, "no time above 0"),
        (("stats", "median"), 1e-320, "no time above 0"),
        (("stats", "median"), 1e300, "<= 1000000000"),
        (("stats", "rounds"), 0, "Expected int >= 1"),
        (("stats", "rounds"), 3, "has 3 rounds, but times of 2"),
        (("stats", "data"), [1e-3], "rounds, but times of 1"),
        (("stats", "data"), [], "rounds, but times of 0"),
        (("extra_info", "seq_len"), 10**18, "Expected int <= "),
        (("extra_info", "heads"), 0, "Expected int >= 1"),
        (("extra_info", "mask"), "m" * 10_000, "length <= 200"),
        (("extra_info", "error"), 1.0, "is over its bound"),
        (("extra_info", "error_bound"), 0.0, "is over its bound"),
        (("extra_info", "error"), -1.0, "Expected float >= 0"),
    ],
)
def test_a_value_out_of_its_limits_is_refused(place, value, message, tmp_path, capsys, small_run):
    small_run["maskbench"]["format"] = 3
    first = small_run["benchmarks"][0]
    first["stats"] |= {"rounds": 2, "data": [1e-3, 2e-3]}
    first[place[0]][place[1]] = value
    first["extra_info"].setdefault("formulation", "full")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    error = refused(path, capsys)
    assert message in error
    assert first["fullname"] in error or "$.benchmarks[0]" in error


@pytest.mark.parametrize("missing", ["error", "error_bound"])
def test_a_timed_cell_that_was_not_checked_is_refused(missing, tmp_path, capsys, small_run):
    del small_run["benchmarks"][1]["extra_info"][missing]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    assert "has no error and error_bound" in refused(path, capsys)


@pytest.mark.parametrize("direction", ["compile_forward", "fidelity_backward", "block_mask"])
def test_cells_whose_result_is_not_compared_need_no_error(direction, small_run):
    extra = small_run["benchmarks"][0]["extra_info"]
    extra["direction"] = direction
    if direction == "block_mask":
        extra |= {"error": 0, "error_bound": 0}
    else:
        del extra["error"], extra["error_bound"]
    assert parse_run(json.dumps(small_run).encode(), RUN).timed


@pytest.mark.parametrize("again", ["timed", "failed", "skipped"])
def test_a_cell_with_two_outcomes_is_refused(again, tmp_path, capsys, small_run):
    first = small_run["benchmarks"][0]
    if again == "timed":
        small_run["benchmarks"].append(first)
    else:
        cell = {**small_run["maskbench"]["untimed"][0], "fullname": first["fullname"]}
        small_run["maskbench"]["untimed"].append({**cell, "outcome": again})
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    message = refused(path, capsys)
    assert f"{first['fullname']} is in it twice: timed and {again}" in message
