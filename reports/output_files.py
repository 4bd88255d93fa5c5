"""Output files: their names, which others may have chosen, and how they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from maskbench import whole_files

MAX_LENGTH = 100  # characters of a name
DIGITS = 8  # hexadecimal digits that tell changed names apart
# Names that Windows does not allow, with any ending.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def distinct_names(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A name for each key, for a file or folder of its own.

    The parts of a key are joined by "_". A name has only ASCII letters, digits, "_" and "-", so it
    is never a path. A name that had to be changed, or that differs from an earlier one in nothing
    or in case, ends in a hash of its key.
    """
    names: dict[tuple[str, ...], str] = {}
    used: set[str] = set()
    for key in dict.fromkeys(keys):
        text = "_".join(key)
        name = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:MAX_LENGTH]
        if not name or name[0] == "-" or RESERVED.fullmatch(name):
            name = f"_{name}"
        if name != text or name.casefold() in used:
            digest = hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).hexdigest()
            name = f"{name}-{digest[:DIGITS]}"
        names[key] = name
        used.add(name.casefold())
    return names


def require_folder(folder: Path) -> None:
    """Check that an output folder exists or can be made, before the work.

    Raises
    ------
    NotADirectoryError
        If it, or a folder that it is in, is something else. `filename` is `folder`.
    """
    first = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if os.path.lexists(first) and not first.is_dir():
        text = "is not a folder" if first == folder else f"{first} is not a folder"
        raise NotADirectoryError(errno.ENOTDIR, text, str(folder))


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, and return its path. Makes its folder.

    Raises
    ------
    OSError
        If it cannot be written. An older file then stays as it is. `filename` is `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_files.write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return path
