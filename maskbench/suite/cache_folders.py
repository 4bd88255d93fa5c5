"""The folders of the on-disk caches: where they are, and whether it is safe to use them.

Compiled code is loaded from these folders and run. So each must belong to the user, and nobody
else may write there. By default they are in the user's cache home, $XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
# What FlashAttention-4 uses by default is in /tmp under a fixed name, where anybody can be first.
SUBFOLDERS = {
    "TRITON_CACHE_DIR": "triton",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash_attention_4",
}
CACHE_VARIABLES = (INDUCTOR, *SUBFOLDERS)
STAMPS = "maskbench"  # the folder of the stamps, in torch's cache folder
MIN_FREE_BYTES = 100 * 2**20  # a cell's kernels take up to about 2 MB, the compilers' files more
PROBE_BYTES = 2**20  # what is written to learn of a quota or a limit on the size of files


def default_folder() -> Path:
    """The folder of all caches that the user has not named.

    It is in the user's cache home if that can be written and belongs to the user, which is not so
    in some containers and under sudo. Else it is a folder of the user's own in the temporary
    folder.
    """
    homes = [os.environ.get("XDG_CACHE_HOME") or "", os.path.expanduser("~/.cache")]
    for home in map(Path, homes):
        if home.is_absolute() and home != Path("/.cache"):  # of a user without a home
            existing = next(path for path in (home, *home.parents) if path.exists())
            if os.access(existing, os.W_OK | os.X_OK) and existing.stat().st_uid == os.getuid():
                return home / "maskbench"
    return Path(tempfile.gettempdir(), f"maskbench-{os.getuid()}")


def set_folders() -> None:
    """Give each cache variable an absolute path. One that is unset or empty gets its default.

    torch's variable is set because the stamps are stored there, so that deleting the folder deletes
    them too.
    """
    inductor = os.environ.get(INDUCTOR) or str(default_folder())
    os.environ[INDUCTOR] = os.path.abspath(inductor)
    for name, subfolder in SUBFOLDERS.items():
        folder = os.environ.get(name) or os.path.join(os.environ[INDUCTOR], subfolder)
        os.environ[name] = os.path.abspath(folder)


def unusable_folder() -> str | None:
    """Which cache folder or temporary folder cannot be used, why, and what to do; None if all can.

    Missing cache folders are made, with mode 0700.
    """
    set_folders()
    named = {name: Path(os.environ[name]) for name in CACHE_VARIABLES}
    named[f"the stamps in {INDUCTOR}"] = named[INDUCTOR] / STAMPS
    for name, folder in named.items():
        try:
            problem = _make(folder) or unsafe(folder)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}; name another folder"
        if problem:
            return f"{name}: {folder} {problem}"
    return full_folder()


def _make(folder: Path) -> str | None:
    """Make the folder and its parents, each with mode 0700; say if a link is in its place."""
    if folder.is_symlink():
        target = os.path.realpath(folder)
        return (
            f"is a symbolic link; name the folder that it leads to ({target}), or remove the link"
        )
    make_private(folder)
    if not folder.is_dir():
        return "cannot be written: Not a directory; name another folder, or remove the file"
    return None


def make_private(folder: Path) -> None:
    """Make the folder and those above it that do not exist, each with mode 0700. Raises OSError."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def unsafe(folder: Path) -> str | None:
    """Why another user may have put code into the folder, and what to do; None if it is safe."""
    status, user = folder.lstat(), os.getuid()
    if status.st_uid != user:
        return f"belongs to user {status.st_uid}, not to you ({user}); name a folder of your own"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by other users; delete it, or trust it: chmod go-w {folder}"
    for parent in folder.parents:
        status = parent.lstat()
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid not in (0, user):
                return f"is below a link of user {status.st_uid} ({parent}); name another folder"
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            return f"is below {parent}, which every user can write; name another folder"
    for entry in _entries(folder):
        if (owner := entry.stat(follow_symlinks=False).st_uid) != user:
            return f"has {entry.name} of user {owner} in it; delete it, or name another folder"
    return None


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def full_folder() -> str | None:
    """Which cache folder or temporary folder has no room, and what to do; None if all have."""
    set_folders()
    folders = {name: os.environ[name] for name in CACHE_VARIABLES}
    folders = {name: folder for name, folder in folders.items() if os.path.isdir(folder)}
    try:
        folders["TMPDIR"] = tempfile.gettempdir()
    except OSError as error:
        return f"TMPDIR: {error.strerror}; free some space, or set TMPDIR to another folder"
    for name, folder in folders.items():
        advice = f"free some space, or set {name} to a folder on another disk"
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                written = file.write(bytes(PROBE_BYTES))
        except OSError as error:
            return f"{name}: {folder} cannot be written: {error.strerror}; {advice}"
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        if written < PROBE_BYTES or free < MIN_FREE_BYTES:
            needed = f"compiling needs {MIN_FREE_BYTES >> 20} MiB"
            return f"{name}: {folder} has {free >> 20} MiB free, {needed}; {advice}"
        if disk.f_files and not disk.f_favail:
            return f"{name}: the disk of {folder} has no room for another file; {advice}"
    return None
