"""What the workers of a pool do in the tests. Importing it imports the standard library only."""

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


def measure_alone(task: bytes) -> bytes:
    """Write "(" and later ")" to a file beside the lock that the task names, under that lock."""
    from maskbench.suite.tuning.gpu_lock import GPULock

    lock = Path(task.decode())
    with GPULock(lock).exclusive(), lock.with_name("trace").open("ab", buffering=0) as file:
        file.write(b"(")
        sleep(0.2)
        file.write(b")")
    return b"done"
