"""A lock for the GPU: the workers compile together, but one process at a time measures.

Two processes that use a GPU take turns in time slices, so each would measure the other as well.
The system frees the lock of a process that dies. A process that is stopped keeps it, so whoever
stops the workers must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter

from maskbench.suite.locks import Lock


class GPULock:
    """The lock, in one process.

    Attributes
    ----------
    waited_s
        How long this process has waited for it in all, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self.lock, self.depth, self.waited_s = Lock(path), 0, 0.0

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other process is in this context. It can be nested."""
        start = perf_counter()
        self.lock.wait_alone()  # at once if this process holds it
        self.waited_s += perf_counter() - start
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.lock.release()

    def close(self) -> None:
        self.lock.close()


@cache  # torch must not wrap its function again for each task
def worker_lock(path: Path) -> GPULock:
    """The lock of this worker. torch's own search takes it, too, when it measures."""
    lock = GPULock(path)
    _measure_within(lock.exclusive)
    return lock


def _measure_within(alone: Callable[[], AbstractContextManager[None]]) -> None:
    """Let torch's own search measure its candidates in this context."""
    # Private: torch has no public way. Its hook for this was seen on torch 2.13 and 2.14. Without
    # it, as on 2.11, each measurement is a call of the method that is replaced here.
    from torch._inductor.runtime import benchmarking

    if hook := getattr(benchmarking, "set_gpu_benchmark_lock_context", None):
        hook(alone)
        return
    benchmarker = benchmarking.benchmarker
    measure = benchmarker.benchmark_gpu

    def measure_alone(*arguments: object, **options: object) -> object:
        with alone():
            return measure(*arguments, **options)

    setattr(benchmarker, "benchmark_gpu", measure_alone)  # noqa: B010 (a method, for mypy)
