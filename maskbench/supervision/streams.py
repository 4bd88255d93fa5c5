"""Keeps a run going whose standard streams are closed, or whose reader has left.

`pytest ... >&-` starts without a stdout, and in `pytest ... | head` nobody reads most of it. The
cells that were timed are to be saved all the same.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

STREAMS = ("stdin", "stdout", "stderr")  # by their descriptors


def keep_streams_usable() -> None:
    """Let all standard streams lead somewhere, here and in the processes that this one starts."""
    _open_closed_streams()
    for name in STREAMS[1:]:
        _outlive_reader(getattr(sys, name))


def _open_closed_streams() -> None:
    """Connect closed streams to /dev/null.

    The next file to be opened, such as a pipe to a child, would else get the number of a stream,
    and what is printed would go there.
    """
    for number in range(len(STREAMS)):
        try:
            os.set_inheritable(number, True)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    for name in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 (open until the end)


class _LastingOutput(io.FileIO):
    """A descriptor that loses what can no longer be written, instead of raising an error."""

    is_lost = False

    def write(self, data: bytes) -> int | None:  # type: ignore[override]  # any buffer of bytes
        try:
            return super().write(data)
        except OSError as error:  # nobody reads the pipe, or the disk of a log is full
            if not self.is_lost:
                self.is_lost = True
                _say_lost(error)
            return len(data)


def _say_lost(error: OSError) -> None:
    text = f"\nmaskbench: the output cannot be written ({error.strerror}); the run goes on\n"
    with suppress(OSError):  # stderr may have the same reader
        os.write(2, text.encode())


def _outlive_reader(stream: object) -> None:
    """Let writes to a standard stream succeed after the other end of its pipe was closed.

    The object stays the same, because pytest and others hold it.
    """
    if type(stream) is not io.TextIOWrapper or stream.fileno() not in (1, 2):
        return  # a test has replaced it
    with suppress(OSError):
        stream.flush()
    raw: io.RawIOBase = _LastingOutput(stream.fileno(), "wb", closefd=False)
    stream.__init__(  # type: ignore[misc]
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
