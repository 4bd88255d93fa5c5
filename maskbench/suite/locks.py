"""Locks that show whether another run uses the same file or device.

A lock is a file in the user's cache folder that is locked with flock(2). The system frees it when
the process ends, however it ends. Runs of other users, and of machines that share the home, have
locks of their own.
"""

from __future__ import annotations

import fcntl
import os
import platform
import stat
import tempfile
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest

from maskbench.suite.cache_folders import default_folder, make_private


class Lock:
    """A lock file that this process holds, or shares with others.

    Its lines are those who hold it: a process id, and when it came.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        # A forked process would go on holding the lock after this one was killed.
        os.register_at_fork(after_in_child=self.close)

    def try_alone(self) -> bool:
        """Try to lock without waiting. Returns whether this process now holds the lock alone."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self.descriptor, 0)
        return True

    def wait_alone(self) -> None:
        """Wait until this process holds the lock alone. Return at once if it already does."""
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Free the lock. It can be taken again."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def share(self) -> None:
        """Hold the lock beside others. Waits for one that is just about to share it."""
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def sign(self) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(self.descriptor, f"{os.getpid()} {now}\n".encode())

    def signed(self) -> dict[int, str]:
        """The process id of each holder, and since when, oldest first."""
        text = os.pread(self.descriptor, 1 << 16, 0).decode(errors="replace")
        lines = (line.partition(" ") for line in text.splitlines())
        return {int(pid): since for pid, _, since in lines if pid.isdecimal()}

    def has_file(self) -> bool:
        """Whether the file is still there: `remove` of another process may have taken it away."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Free a lock that this process holds alone, and remove its file."""
        if self.descriptor >= 0 and self.has_file():
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Free the lock and close its file."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def lock_target(option: str, path: Path) -> Lock:
    """Hold the lock of a file that this run will write.

    Raises
    ------
    pytest.UsageError
        If another run holds it, or no lock can be made.
    """
    while True:
        lock, alone = _try_lock(f"file {path}")
        if not alone:
            holder = describe(lock.signed().items())
            lock.close()
            raise pytest.UsageError(
                f"{option} {path}: {holder} is writing to this file; wait for it, or name another"
            )
        if lock.has_file():
            lock.sign()
            return lock
        lock.close()


class DeviceUse:
    """This run's use of a device, and the other runs that use it.

    Runs that this process or its parent has started or was started by are not counted: one of
    the two waits for the other.
    """

    def __init__(self, device: str) -> None:
        lock, alone = _try_lock(f"device {device}")
        before = {} if alone else lock.signed()
        self.lock: Lock | None = lock
        self.before: dict[int, str] = {}
        if not {os.getpid(), os.getppid()}.isdisjoint(before):
            lock.close()
            self.lock = None
            return
        lock.share()
        lock.sign()
        self.before = {pid: since for pid, since in before.items() if is_running(pid)}

    def others(self) -> dict[int, str]:
        """The other runs that have used the device since this one began, and since when."""
        if self.lock is None:
            return {}
        signed = self.lock.signed()
        pids = list(signed)
        later = pids[pids.index(os.getpid()) + 1 :]
        return self.before | {pid: signed[pid] for pid in later}

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def describe(holders: Iterable[tuple[int, str]]) -> str:
    """Such as "another run (pid 12, since 2026-01-01 12:00:00)"."""
    names = [f"pid {pid}, since {since}" for pid, since in holders]
    return f"another run ({'; '.join(names) or 'which has just begun'})"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _try_lock(name: str) -> tuple[Lock, bool]:
    """The lock of that name on this machine, and whether this process holds it alone.

    Raises pytest.UsageError if no folder has locks.
    """
    digest = sha256(f"{platform.node()} {name}".encode(errors="surrogateescape")).hexdigest()
    problems = []
    for folder in _folders():
        try:
            make_private(folder)
            _require_own(folder)
            lock = Lock(folder / digest)
            return lock, lock.try_alone()  # some network file systems have no locks
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
    advice = "set XDG_CACHE_HOME to a folder that you may write"
    raise pytest.UsageError(f"no file lock can be made in {', nor in '.join(problems)}; {advice}")


def _folders() -> list[Path]:
    """Where locks may be: the user's cache folder, else the folder for temporary files."""
    in_temporary_folder = Path(tempfile.gettempdir(), f"maskbench-locks-{os.getuid()}")
    return [default_folder() / "locks", in_temporary_folder]


def _require_own(folder: Path) -> None:
    """Raises PermissionError if others may have put links into the folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(0, "is a link, or the folder of another user")
    if status.st_mode & 0o022:
        raise PermissionError(0, "may be written by other users")
