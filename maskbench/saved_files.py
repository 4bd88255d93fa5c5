"""The bytes of a file that someone else may have made, in bounded memory and time."""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import zlib
from io import BufferedReader
from pathlib import Path

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun

# pytest-benchmark needs about 45 bytes for each round. 20,000 cells with 1,000 rounds each fit.
MAX_BYTES = 2**30  # of a file, and of what a .gz file has in it
CHUNK = 2**20

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def unreadable(path: Path, reason: str) -> UnreadableRun:
    """The error of a file that cannot be used, in one line."""
    return UnreadableRun(plain_text(f"{path}: {reason}"))


def read_bytes(path: Path) -> bytearray:
    """The content of a regular file. A file whose name ends in .gz is decompressed.

    Raises
    ------
    UnreadableRun
        If it is not a regular file, cannot be read or decompressed, or is larger than MAX_BYTES.
    """
    try:
        with _open_regular(path) as file:
            if path.suffix != ".gz":
                return _bounded(file, path)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _bounded(unpacked, path)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise unreadable(path, getattr(error, "strerror", None) or str(error)) from error


def _open_regular(path: Path) -> BufferedReader:
    # Opening a named pipe waits for a writer, and opening a device may do something: look first.
    _require_regular(os.stat(path), path)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular(os.fstat(file.fileno()), path)  # it may have been replaced meanwhile
    except UnreadableRun:
        file.close()
        raise
    return file


def _require_regular(found: os.stat_result, path: Path) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise unreadable(path, f"is {KINDS.get(kind, 'no file')}, not a saved run")


def _bounded(file: BufferedReader | gzip.GzipFile, path: Path) -> bytearray:
    content, utf_8 = bytearray(), codecs.getincrementaldecoder("utf-8")()
    while chunk := file.read(CHUNK):
        content += chunk
        if len(content) > MAX_BYTES:
            raise unreadable(path, f"has more than {MAX_BYTES >> 20} MiB, the limit of a saved run")
        utf_8.decode(chunk)  # a decoder of JSON does not look at the fields that it skips
    utf_8.decode(b"", final=True)
    return content
