"""Damaged files in the on-disk caches: found, deleted and built again.

A disk that was full, or a machine that lost power, leaves truncated files. torch and Triton load
what is there, and would fail in each later run. A truncated library can also crash the process, or
make torch believe that the CPU has no vector instructions. So the files are checked before the
first cell, and again when the first call of a cell fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import BinaryIO, TypeVar

import torch

from maskbench.attention import Unsupported
from maskbench.suite.cache_folders import CACHE_VARIABLES, INDUCTOR, STAMPS, full_folder
from maskbench.suite.error_text import describe_error

Result = TypeVar("Result")

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # 64 bits, little-endian: libraries and cubins
ELF_SECTION = struct.Struct("<IIQQQQIIQQ")
NO_BITS = 8  # the type of a section that has no bytes in the file
# torch's folders of pickles (private; seen on 2.13). The start and the end of a pickle are checked.
PICKLE_FOLDERS = ("fxgraph", "aotautograd")
SETTLED_S = 2.0  # a younger file may be one that a linker still writes


class DamagedCache(Exception):
    """A cell's first call failed because of a damaged file, and again after it was deleted."""


class NoRoom(Exception):
    """A cell's first call failed, and a cache folder or temporary folder has no room."""


def _elf_is_whole(file: BinaryIO, file_size: int) -> bool:
    """Whether the sections that a library's header promises are in the file."""
    header = file.read(ELF_HEADER.size)
    if len(header) < ELF_HEADER.size or header[:4] != b"\x7fELF":
        return False
    if header[4:6] != b"\x02\x01":
        return True  # 32 bits or big-endian, which is not checked
    sections_at, size, count = (ELF_HEADER.unpack(header)[field] for field in (6, 11, 12))
    if not count:
        return True
    file.seek(sections_at)
    table = file.read(count * ELF_SECTION.size)
    if size != ELF_SECTION.size or len(table) < count * size:
        return False
    sections = list(ELF_SECTION.iter_unpack(table))
    ends = [s[4] + s[5] for s in sections if s[1] not in (0, NO_BITS)]
    return not sections[0][1] and all(end <= file_size for end in ends)


def _is_whole(path: Path) -> bool:
    """Whether a cached file has the form that its kind must have. Little of it is read."""
    size = path.stat().st_size
    if path.suffix in (".so", ".cubin"):
        if not sys.platform.startswith("linux"):
            return size > 0  # macOS has libraries of another format
        with path.open("rb") as file:
            return _elf_is_whole(file, size)
    if path.suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except ValueError:
            return False
    elif path.parent.parent.name in PICKLE_FOLDERS or path.parents[2].name in PICKLE_FOLDERS:
        with path.open("rb") as file:
            first = file.read(1)
            file.seek(max(0, size - 1))
            return first == b"\x80" and file.read(1) == b"."
    return True


def _cached_files() -> Iterator[Path]:
    folders = {Path(os.environ[name]) for name in CACHE_VARIABLES if os.environ.get(name)}
    top = {f for f in folders if not any(parent in folders for parent in f.parents)}
    for folder in sorted(top):
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def damaged_files() -> list[Path]:
    """The files in the cache folders that cannot be what was written there."""
    damaged = []
    for path in _cached_files():
        try:
            if time() - path.stat().st_mtime > SETTLED_S and not _is_whole(path):
                damaged.append(path)
        except FileNotFoundError:
            pass  # another process has replaced or deleted it
        except OSError:  # such as an error of the disk
            damaged.append(path)
    return damaged


def _files_not_loaded(error: BaseException) -> list[Path]:
    """The cached libraries that the system could not load, by the messages of the error's chain."""
    folders = [os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)]
    found: set[Path] = set()
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(texts) < 20:
        texts.append(str(link))
        link = link.__cause__ or link.__context__
    for path in re.findall(r"(/[^\s:'\"]+\.so): ", "\n".join(texts)):
        if any(path.startswith(f"{folder}/") for folder in folders) and Path(path).is_file():
            found.add(Path(path))
    return sorted(found)


def delete_damaged(files: list[Path]) -> None:
    """Delete damaged files, and all stamps: it is not known whose kernels the files were."""
    triton = Path(os.environ.get("TRITON_CACHE_DIR") or "/nowhere")
    for path in files:
        if triton in path.parents and path.parent != triton:
            shutil.rmtree(path.parent, ignore_errors=True)  # a kernel's files name each other
        else:
            path.unlink(missing_ok=True)
    for stamp in Path(os.environ[INDUCTOR], STAMPS).glob("*"):
        if not stamp.name.startswith("launch_") and stamp.is_file():
            stamp.unlink(missing_ok=True)


def repair() -> list[str]:
    """Delete the damaged files in the cache folders; return a line for the user about each."""
    damaged = damaged_files()
    if damaged:
        delete_damaged(damaged)
    return [f"damaged cache file deleted, to be built again: {path}" for path in damaged]


def first_call(call: Callable[[], Result]) -> Result:
    """Run what compiles a cell; if damaged cache files made it fail, once more without them.

    Raises
    ------
    DamagedCache
        If it fails again. The message names the files.
    NoRoom
        If it fails and a disk has no room. The message names the folder and what to do.
    """
    try:
        return call()
    except Unsupported:
        raise
    except Exception as error:
        damaged = sorted({*damaged_files(), *_files_not_loaded(error)})
        if not damaged:
            if problem := full_folder():
                raise NoRoom(f"{problem} ({describe_error(error)})") from error
            raise
    # Outside of the except block, whose traceback holds tensors.
    names = ", ".join(map(str, damaged))
    try:
        delete_damaged(damaged)
        torch.compiler.reset()
        return call()
    except Exception as error:
        reason = full_folder() or describe_error(error)
        raise DamagedCache(
            f"damaged in the cache: {names}. Deleted, and not built again: {reason}"
        ) from error
