"""Two runs into one file, or on one device, are noticed."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from maskbench.suite import locks
from maskbench.suite.locks import DeviceUse, lock_target
from tests.unit.pytest_process import ROOT, run_inline, strict_json
from tests.unit.saving_plugin import GRID, KEEPS_OLDER_FILES


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """A cache folder of the test's own: other runs may be going on here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def other_process(code):
    """A process that runs `code` and says so, then waits; killed with SIGKILL at the end."""
    text = f"import sys, time; from maskbench.suite.locks import *\n{code}\nprint('x'); "
    text += "sys.stdout.flush(); time.sleep(60)"
    # `torch` is not needed, and takes seconds to import.
    process = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"x\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def hold(path):
    return f"from pathlib import Path; lock = lock_target('--benchmark-json', Path({str(path)!r}))"


def test_a_file_that_another_run_writes_is_refused_until_that_run_ends(tmp_path):
    path = tmp_path / "run.json"
    with other_process(hold(path)) as pid:
        problem = rf"^--benchmark-json .*run\.json: another run \(pid {pid}, since 20\d\d-.*\) is"
        with pytest.raises(pytest.UsageError, match=problem):
            lock_target("--benchmark-json", path)
        lock_target("--benchmark-json", tmp_path / "another.json").close()
    lock_target("--benchmark-json", path).close()  # kill -9 has freed it


def test_a_run_may_lock_its_file_again(tmp_path):
    for _ in range(2):
        lock = lock_target("--benchmark-json", tmp_path / "run.json")
        assert list(lock.signed()) == [os.getpid()]
        lock.remove()
    assert not list(lock.path.parent.iterdir())


def test_a_lock_file_that_its_holder_removes_at_this_moment_is_made_again(tmp_path, monkeypatch):
    path, removals = tmp_path / "run.json", []
    try_alone = locks.Lock.try_alone

    def removed_first(lock):
        if not removals:
            removals.append(lock.path.unlink())
        return try_alone(lock)

    monkeypatch.setattr(locks.Lock, "try_alone", removed_first)
    lock = lock_target("--benchmark-json", path)
    assert removals
    assert lock.has_file()
    lock.remove()


def test_a_child_of_a_killed_run_does_not_hold_its_lock(tmp_path):
    """Such as a process that compiles, forked by a run that was killed."""
    code = f"{hold(tmp_path / 'run.json')}\nend, start = os.pipe()\npid = os.fork()\n"
    code += "if pid == 0: os.write(start, b'x'); time.sleep(60)\n"
    code += f"os.read(end, 1); open({str(tmp_path / 'pid')!r}, 'w').write(str(pid))"
    with other_process(code):
        child = int((tmp_path / "pid").read_text())
    try:
        assert locks.is_running(child)
        lock_target("--benchmark-json", tmp_path / "run.json").close()
    finally:
        os.kill(child, signal.SIGKILL)


@KEEPS_OLDER_FILES
def test_pytest_refuses_a_file_that_another_run_writes(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("older")
    with other_process(hold(path)) as pid:
        status, text = run_inline(f"--benchmark-json={path}", *GRID, "tests/test_forward.py")
        # A link to the file, or another spelling of its name, is the same file.
        (tmp_path / "link").symlink_to(path)
        linked, _ = run_inline(f"--benchmark-json={tmp_path / 'link'}", *GRID)
        listed, _ = run_inline(
            f"--benchmark-json={path}", *GRID, "--collect-only", "tests/test_forward.py"
        )
    assert (status, linked, listed) == (4, 4, 0)
    assert f"ERROR: --benchmark-json {path}: another run (pid {pid}, since " in text
    assert "is writing to this file; wait for it, or name another" in text
    assert path.read_text() == "older"


def test_the_locks_are_the_users_own(cache_home, tmp_path):
    lock = lock_target("--benchmark-json", tmp_path / "run.json")
    folder = cache_home / "maskbench" / "locks"
    assert lock.path.parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    lock.close()
    assert not (tmp_path / "run.json").exists()


def make_unusable(cache_home, kind):
    folder = cache_home / "maskbench" / "locks"
    cache_home.mkdir()
    if kind == "file":
        (cache_home / "maskbench").touch()
        return
    (cache_home / "maskbench").mkdir()
    if kind == "link":
        (cache_home / "elsewhere").mkdir()
        folder.symlink_to(cache_home / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)


@pytest.mark.parametrize("kind", ["file", "link", "open to all"])
def test_without_a_cache_folder_locks_are_in_the_temporary_folder(
    kind, cache_home, tmp_path, monkeypatch
):
    make_unusable(cache_home, kind)
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    lock = lock_target("--benchmark-json", tmp_path / "run.json")
    assert lock.path.parent == tmp_path / f"maskbench-locks-{os.getuid()}"
    assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o700
    lock.close()


def test_a_file_system_without_locks_is_not_used(cache_home, tmp_path, monkeypatch):
    flock = fcntl.flock

    def no_locks_at_home(descriptor, operation):
        if str(cache_home) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", no_locks_at_home)
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    lock = lock_target("--benchmark-json", tmp_path / "run.json")
    assert lock.path.parent == tmp_path / f"maskbench-locks-{os.getuid()}"
    lock.remove()


def test_a_temporary_folder_of_another_user_is_refused(cache_home, tmp_path, monkeypatch):
    make_unusable(cache_home, "file")
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"maskbench-locks-{os.getuid()}").symlink_to(cache_home)
    with pytest.raises(pytest.UsageError) as error:
        lock_target("--benchmark-json", tmp_path / "run.json")
    assert "maskbench/locks: Not a directory, nor in " in str(error.value)
    assert "is a link, or the folder of another user; set XDG_CACHE_HOME" in str(error.value)


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path, monkeypatch):
    lock = lock_target("--benchmark-json", tmp_path / "run.json")
    lock.close()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock.path.unlink()
    lock.path.symlink_to(victim)
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path / "missing"))
    lock_target("--benchmark-json", tmp_path / "run.json").close()  # in the other folder
    assert victim.read_text() == "precious"


# --- devices ---

# A test's own child would be counted as nested.
USE = "import maskbench.suite.locks as locks\nlocks.os.getppid = lambda: 1\nuse = DeviceUse('X')"


def test_another_run_on_the_device_is_noticed_by_both():
    with other_process(USE) as pid:
        second = DeviceUse("X")
        assert list(second.others()) == [pid]
        assert not DeviceUse("Y").others()
        second.close()
    alone = DeviceUse("X")
    assert not alone.others()  # kill -9 has freed it
    with other_process(USE) as pid:
        assert list(alone.others()) == [pid]
    assert list(alone.others()) == [pid]  # it was there
    alone.close()
    again = DeviceUse("X")
    assert not again.others()
    again.close()


def test_nested_runs_are_no_other_runs():
    outer = DeviceUse("X")
    inner = DeviceUse("X")  # in the same process
    assert not outer.others()
    assert not inner.others()
    inner.close()
    with other_process("use = DeviceUse('X'); assert not use.others()"):
        assert not outer.others()
    outer.close()


def test_a_shared_device_is_printed_and_saved(tmp_path):
    path = tmp_path / "run.json"
    run = (f"--benchmark-json={path}", *GRID, "tests/test_forward.py")
    with other_process(USE.replace("'X'", "'CPU'")) as pid:
        status, text = run_inline(*run)
    assert status == 0
    assert f"Shared device: another run (pid {pid}, since {time.strftime('%Y')}" in text
    assert strict_json(path)["maskbench"]["shared_device"] is True
    status, text = run_inline(*run)
    assert "Shared device" not in text
    assert strict_json(path)["maskbench"]["shared_device"] is False
