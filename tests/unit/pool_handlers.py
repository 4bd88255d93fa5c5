"""What the workers of a pool do in the tests. Imports the standard library only."""

from __future__ import annotations

from pathlib import Path
from time import sleep


def initialize() -> None:
    pass


def fail_to_initialize() -> None:
    raise ImportError("no such library")


def echo(task: bytes) -> bytes:
    return task


def write_for_a_second(task: bytes) -> bytes:
    """Append to the file that the task names, every 5 ms."""
    with Path(task.decode()).open("ab", buffering=0) as file:
        for _ in range(200):
            file.write(b".")
            sleep(0.005)
    return b"done"
