"""Files that are written whole or not at all, and JSON that every parser reads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

MAX_INT_BITS = 1024  # parsers limit the digits, or read larger numbers as infinite


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace a file. A link must be resolved by the caller.

    Raises
    ------
    OSError
        If it cannot be written. An older file is then as it was.
    """
    with complete_file(path.parent, content, like=path) as temporary:
        temporary.replace(path)
    _sync(path.parent)


@contextmanager
def complete_file(folder: Path, content: bytes, like: Path | None = None) -> Iterator[Path]:
    """A temporary file in `folder` that is complete on the disk. It is removed at the end.

    It has the owner and mode of `like`, if there is such a file. Raises OSError.
    """
    # Short, so that it fits where the final name does.
    temporary = folder / f".maskbench-{token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(temporary, flags, 0o666)  # less the umask, as for any new file
    try:
        with open(descriptor, "wb") as file:
            if like is not None and like.exists():
                _copy_owner_and_mode(like, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _copy_owner_and_mode(path: Path, descriptor: int) -> None:
    status = path.stat()
    with suppress(PermissionError):  # only root may give a file to another user
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o777)


def _sync(folder: Path) -> None:
    """Make the names in the folder survive a power failure, where the file system can."""
    with suppress(OSError):  # a folder that may not be listed, or a network file system
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def strict_json(value: object) -> bytes:
    """`value` as JSON in ASCII, indented. What JSON cannot hold is replaced, see `plain`."""
    return json.dumps(plain(value), allow_nan=False, indent=4).encode()


def plain(value: object, outer: tuple[int, ...] = ()) -> object:
    """`value` made of dict, list, str, int, finite float, bool and None.

    NaN and infinity become None. NumPy's and torch's numbers and arrays become numbers and lists.
    Lone surrogates become "?". Anything else becomes a text, as in pytest-benchmark. `outer` are
    the ids of the containers around `value`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= MAX_INT_BITS else _as_text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if id(value) in outer or len(outer) > 50:  # it contains itself, or is nested too deeply
        return _as_text(value)
    outer = (*outer, id(value))
    if isinstance(value, Mapping):
        return {_key(key): plain(inner, outer) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner, outer) for inner in value]
    if hasattr(value, "tolist"):
        return _plain_array(value, outer)
    return _as_text(value)


def _plain_array(value: object, outer: tuple[int, ...]) -> object:
    try:
        values = value.tolist()  # type: ignore[attr-defined]
    except Exception:  # a tensor without data, or a class of the user
        return _as_text(value)
    return plain(values, outer)


def _key(key: object) -> str:
    if isinstance(key, str):
        return str(plain(key))
    if key is None or isinstance(key, (bool, float)):
        return json.dumps(key)  # as json writes such keys
    return str(plain(key)) if isinstance(key, int) else _as_text(key)


def _as_text(value: object) -> str:
    """pytest-benchmark's text for such values."""
    try:
        text = repr(value)
    except Exception as error:  # a __repr__ of the user, or too many digits
        text = f"{type(value).__name__}, whose repr raised {type(error).__name__}"
    return str(plain(f"UNSERIALIZABLE[{text[:1000]}]"))
