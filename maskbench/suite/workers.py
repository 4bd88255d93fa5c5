"""A pool of worker processes that survives its workers and does not outlive this process.

pebble's and concurrent.futures' pools do not notice a worker that exits with status 0, and leave
the compilers of a killed worker at work. Here each worker leads a session of its own, so that it
and the compilers that it starts are killed together: when it exceeds its time, when the pool is
closed, and by a guard process when this process dies.

This module imports the standard library only: see `maskbench.suite.worker_main`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import IO, Any

from maskbench.suite.worker_main import TaskFailure, work

POLL_S = 0.2  # a process that a dead worker has forked can keep the worker's pipe open
EXIT_S = 5.0  # a worker that leaves by itself frees the GPU's memory first
JOIN_S = 1.0  # a killed process may wait for the GPU's driver

# Started with -I -S, which takes about 20 ms. It reads "+PID" when a worker starts, "-PID" when it
# has ended, and the end of the file when this process has died in any way.
GUARD = """
import os, signal, sys
workers = set()
for line in sys.stdin:
    (workers.add if line[0] == "+" else workers.discard)(int(line[1:]))
for worker in workers:
    for kill in (os.killpg, os.kill):  # a worker that is just starting leads no group yet
        try:
            kill(worker, signal.SIGKILL)
        except OSError:
            pass
"""


class PoolBroken(Exception):
    """No worker could start."""


@contextmanager
def _signals_delayed() -> Iterator[None]:
    """Delay the signals that end a run. A process that is started in it inherits the mask."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def input_of(guard: subprocess.Popen[str]) -> IO[str]:
    """The pipe that the guard reads. Raises PoolBroken if it has none."""
    if guard.stdin is None:
        raise PoolBroken("the process that guards the workers has no pipe")
    return guard.stdin


class _Worker:
    """A process, its pipe and its current task."""

    def __init__(self, guard: subprocess.Popen[str], setup: bytes, timeout_s: float) -> None:
        self.guard, self.timeout_s = guard, timeout_s
        self.ready = False
        self.task: int | None = None  # the index of its task
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        with other:
            self.process: BaseProcess = context.Process(target=work, args=(other,))
            self.process.start()
            self._tell_guard("+")
        self.deadline = monotonic() + timeout_s
        with suppress(OSError):  # it died already, which the pool notices
            self.connection.send_bytes(setup)

    def _tell_guard(self, sign: str) -> None:
        pipe = input_of(self.guard)
        with suppress(OSError):  # somebody killed the guard
            pipe.write(f"{sign}{self.process.pid}\n")
            pipe.flush()

    def assign(self, index: int, task: bytes) -> None:
        self.task, self.deadline = index, monotonic() + self.timeout_s
        with suppress(OSError):
            self.connection.send_bytes(task)

    def receive(self) -> Any:
        """What the worker sent, or None while it is at work.

        It is a `TaskFailure` if the worker died or took too long.
        """
        try:
            if self.connection.poll():
                return self.connection.recv()
        except Exception:  # the end of the pipe, or not a whole pickled result
            return self._death()
        if not self.process.is_alive():
            return self._death()
        if monotonic() > self.deadline and (self.task is not None or not self.ready):
            return TaskFailure(f"its worker took more than {self.timeout_s:g} s")
        return None

    def _death(self) -> TaskFailure:
        self.process.join(JOIN_S)
        return TaskFailure(f"its worker died (exit code {self.process.exitcode})")

    def kill(self) -> None:
        """Kill the worker and the processes that it has started."""
        if self.process.pid is None:  # it never started
            return
        for kill in (os.killpg, os.kill):  # one that is just starting leads no group yet
            if kill is os.killpg or self.process.is_alive():
                with suppress(OSError):
                    kill(self.process.pid, signal.SIGKILL)

    def reap(self) -> None:
        self.process.join(JOIN_S)
        self._tell_guard("-")
        self.connection.close()


class WorkerPool:
    """Runs `handle(task)` for pickled tasks in `jobs` processes; a context manager.

    Parameters
    ----------
    initialize, arguments
        What each worker calls first.
    handle
        What it calls with each task. The function must be importable, its result picklable.
    timeout_s
        The time that a worker has to start, and then for each task, in seconds.
    """

    def __init__(
        self,
        jobs: int,
        initialize: Callable[..., None],
        arguments: Sequence[object],
        handle: Callable[[bytes], object],
        timeout_s: float,
    ) -> None:
        self.setup = pickle.dumps((initialize, tuple(arguments), handle))
        self.jobs, self.timeout_s = jobs, timeout_s
        self.workers: list[_Worker] = []
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.failed_starts, self.start_failure = 0, ""  # workers that cannot start, and why

    def __enter__(self) -> WorkerPool:
        try:
            self.guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", GUARD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
            )
        except OSError as error:
            raise PoolBroken(f"no worker can start: {error}") from error
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:  # the workers end by themselves, and clean up
            for worker in self.workers:
                worker.connection.close()
            deadline = monotonic() + EXIT_S
            for worker in self.workers:
                worker.process.join(max(0.0, deadline - monotonic()))
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.reap()
        with suppress(OSError):
            input_of(self.guard).close()
        self.guard.wait()

    @property
    def unfinished(self) -> int:
        """The number of tasks that have no result yet."""
        return len(self.waiting) + sum(worker.task is not None for worker in self.workers)

    def submit(self, index: int, task: bytes) -> None:
        """Add a task to the end of the queue. `results` returns its `index`."""
        self.waiting.append((index, task))

    def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, Any]]:
        """Yield (index of a task, its result or `TaskFailure`) as tasks end.

        Raises
        ------
        PoolBroken
            If tasks remain and no worker can start, with the reason of the last one.
        """
        for index, task in enumerate(tasks):
            self.submit(index, task)
        while self.unfinished:
            yield from self.results()

    def results(self, wait_s: float = POLL_S) -> list[tuple[int, Any]]:
        """Give tasks to workers, and wait up to `wait_s` for results.

        Returns (index, result or `TaskFailure`) of each task that ended. Raises PoolBroken as
        `run`.
        """
        self._start_workers()
        self._assign_tasks()
        wait([worker.connection for worker in self.workers], wait_s)
        found: list[tuple[int, Any]] = []
        for worker in list(self.workers):
            message = worker.receive()
            if message is None:
                continue
            failure = message if isinstance(message, TaskFailure) else None
            if failure and not failure.worker_alive:
                self._remove(worker)
            if worker.task is not None:
                found.append((worker.task, message))
                worker.task = None
            elif failure and not worker.ready:
                self.start_failure = failure.reason
                self.failed_starts += 1  # not replaced: the next one would fail in the same way
            worker.ready = True
        self._assign_tasks()
        return found

    def _start_workers(self) -> None:
        """Start as many workers as there are tasks, up to `jobs`."""
        wanted = min(self.jobs - self.failed_starts, self.unfinished)
        while len(self.workers) < wanted:
            with _signals_delayed():
                try:
                    self.workers.append(_Worker(self.guard, self.setup, self.timeout_s))
                except OSError as error:  # no memory, or too many processes or open files
                    self.start_failure = str(error)
                    self.failed_starts = self.jobs - len(self.workers)
                    break
        if self.waiting and not self.workers:
            raise PoolBroken(f"no worker can start: {self.start_failure}")

    def _assign_tasks(self) -> None:
        for worker in self.workers:
            if worker.ready and worker.task is None and self.waiting:
                worker.assign(*self.waiting.popleft())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all workers and their compilers within this context. Their time limits stop, too."""
        start = monotonic()
        self._send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send_signal(signal.SIGCONT)
            for worker in self.workers:
                worker.deadline += monotonic() - start

    def _send_signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            if worker.ready and worker.process.pid is not None:  # it leads its group
                with suppress(OSError):
                    os.killpg(worker.process.pid, number)

    def _remove(self, worker: _Worker) -> None:
        worker.kill()
        worker.reap()
        self.workers.remove(worker)
