"""Files are written whole or not at all, as JSON that every parser reads."""

import errno
import json
import math
import os
import resource
import signal
import stat
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from maskbench import whole_files
from maskbench.records import Outcome
from maskbench.whole_files import plain, strict_json, write_whole
from tests.unit.pytest_process import strict_json as read_strictly


def raising(error):
    def function(*arguments, **named):
        raise error

    return function


@pytest.mark.parametrize("name", ["fsync", "open", "fchmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_file_that_cannot_be_written_leaves_the_older_one(name, number, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("older")
    monkeypatch.setattr(os, name, raising(OSError(number, os.strerror(number))))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_whole(path, b"newer")
    monkeypatch.undo()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.EXDEV, "Cross-device link"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_renamed_leaves_the_older_one(error, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("older")
    monkeypatch.setattr(Path, "replace", raising(error))
    with pytest.raises(type(error)):
        write_whole(path, b"newer")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_becomes_too_large_leaves_the_older_one(tmp_path):
    """A limit of the system, as a full disk or a quota."""
    path = tmp_path / "run.json"
    path.write_text("older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_kill_while_a_file_is_written_leaves_the_older_one(step, tmp_path):
    path = tmp_path / "run.json"
    path.write_text("older")
    pid = os.fork()
    if pid == 0:

        def kill(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = Path.replace = kill
        if step == "replace":
            os.fsync = lambda descriptor: None
        write_whole(path, b"newer")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.read_text() == "older"


def test_what_is_there_in_the_meantime_is_not_removed(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_whole(tmp_path / "run.json", b"newer")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "removed" / "run.json", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_an_older_file_keeps_its_mode(mode, tmp_path):
    path = tmp_path / "run.json"
    path.touch()
    path.chmod(mode)
    write_whole(path, b"newer")
    assert path.read_text() == "newer"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_an_older_file_keeps_its_owner(tmp_path):
    path = tmp_path / "run.json"
    path.touch()
    os.chown(path, 12345, 12345)
    write_whole(path, b"newer")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "touched").touch()
    write_whole(tmp_path / "run.json", b"newer")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    path, steps = tmp_path / "run.json", []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda d: (steps.append("fsync"), fsync(d)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    write_whole(path, b"newer")
    assert steps == ["fsync", "replace", "fsync"]  # the last is the folder's


# --- JSON ---


class Loud:
    def __repr__(self):
        raise RuntimeError("no text")


class Endless:
    def tolist(self):
        return Endless()


CYCLE: list[object] = []
CYCLE.append(CYCLE)
DEEP: list[object] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        ([1.5, math.nan], [1.5, None]),
        ({"a": {"b": math.inf}}, {"a": {"b": None}}),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1.0, np.inf]]), [[1.0, None]]),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor([math.nan]), [None]),
        (Outcome.FAILED, "failed"),
        ("a lone \udcff", "a lone ?"),
        ({"\ud800": 1}, {"?": 1}),
        ({7: 1, None: 2, True: 3, 0.5: 4}, {"7": 1, "true": 3, "null": 2, "0.5": 4}),
        ({(1, 2): 3}, {"UNSERIALIZABLE[(1, 2)]": 3}),
        ((1, (2,)), [1, [2]]),
        ({"x"}, ["x"]),
        (10**300, 10**300),
        (Decimal("1.5"), "UNSERIALIZABLE[Decimal('1.5')]"),
        (b"\xff", r"UNSERIALIZABLE[b'\xff']"),
        (Loud(), "UNSERIALIZABLE[Loud, whose repr raised RuntimeError]"),
        ([10**5000], ["UNSERIALIZABLE[int, whose repr raised ValueError]"]),
        ({10**5000: 1}, {"UNSERIALIZABLE[int, whose repr raised ValueError]": 1}),
        (CYCLE, ["UNSERIALIZABLE[[[...]]]"]),
    ],
)
def test_every_value_becomes_json(value, expected, tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(strict_json({"value": value}))
    assert read_strictly(path) == {"value": expected}
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("value", [DEEP, Endless(), torch.empty(3, device="meta")])
def test_values_that_cannot_be_followed_become_a_text(value):
    assert "UNSERIALIZABLE[" in strict_json(value).decode()


def test_plain_values_stay_as_they_are():
    run = {"benchmarks": [{"stats": {"data": [1e-3, 2e-3]}, "extra_info": {"form": "ü", "n": 3}}]}
    assert plain(run) == run
    assert json.loads(strict_json(run)) == run


def test_one_value_may_be_at_several_places():
    shared = {"a": 1}
    assert plain([shared, shared]) == [shared, shared]
    assert whole_files.plain((shared, [shared])) == [shared, [shared]]
