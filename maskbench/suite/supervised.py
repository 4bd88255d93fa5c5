"""The child's side of supervision: what it tells the supervisor, and how it ends early."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from hashlib import sha256
from pathlib import Path
from types import FrameType

import pytest

from maskbench.suite.collection import CELL_KEY, is_benchmark
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.outcomes import NOT_RUN
from maskbench.supervision.link import TIME, SupervisorLink, signals_to_handle

RESTART_STATUS = 75  # os.EX_TEMPFAIL
SAME_SIGNAL_S = 1.0  # Ctrl-C reaches the child twice: from the terminal and from the supervisor


class Terminated(KeyboardInterrupt):
    """A signal asked the run to end. pytest then saves what it has."""


def end_on_signals() -> Callable[[], None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does: with what it has.

    Returns a function that restores the handlers.
    """
    last_interrupt = -SAME_SIGNAL_S

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal last_interrupt
        now = time.monotonic()
        if number == signal.SIGINT and now - last_interrupt < SAME_SIGNAL_S:
            return
        last_interrupt = now
        raise Terminated(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # only the main thread may set handlers
    before = {number: signal.signal(number, interrupt) for number in signals_to_handle()}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


class Supervised:
    """Tells the supervisor which test runs; leaves the problems of other children alone."""

    def __init__(
        self,
        link: SupervisorLink,
        device: str,
        is_finished: Callable[[pytest.Item], bool],
        has_all: Callable[[], bool],
    ) -> None:
        self.link, self.assignment, self.device = link, link.assignment, device
        self.is_finished, self.has_all = is_finished, has_all
        self.cells: dict[str, dict[str, object]] = {}  # the fields of each cell by node id
        self.lost: str | None = None  # why the device can no longer be used
        self.ran = False  # whether this child runs the current test

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.assignment.role == TIME:
            items[:] = filter(is_benchmark, items)
        self.cells = {i.nodeid: i.stash[CELL_KEY].fields() for i in items if CELL_KEY in i.stash}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what this child does not run. It is not an outcome of the cell."""
        reason = self._why_not_here(item)
        self.ran = reason is None and not self.is_finished(item)
        if reason:
            item.stash[NOT_RUN] = True
            pytest.skip(reason)

    def _why_not_here(self, item: pytest.Item) -> str | None:
        if self.is_finished(item):
            return "finished before" if self.assignment.role == TIME else None
        if self.assignment.stopped_by:
            return f"not run: {self.assignment.stopped_by}"
        claims, worker = self.assignment.claims, self.assignment.worker
        if claims and not claim(Path(claims), problem(item), worker):
            return "timed by the process of another GPU"
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.link.send("start", fullname=nodeid, cell=self.cells.get(nodeid, {}))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        self.link.send("phase", phase="call")
        try:
            return (yield)
        finally:
            self.link.send("phase", phase="teardown")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.lost is None:
            self.lost = device_is_lost(self.device)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Leave the next test to a fresh process if no kernel can run in this one."""
        if self.lost:
            self.link.send("restart", reason=f"{nodeid} left the device unusable ({self.lost})")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(RESTART_STATUS)  # the normal end would wait for the device
        self.link.send("finish", ran=self.ran)

    def pytest_enter_pdb(self) -> None:
        self.link.send("pause")

    def pytest_leave_pdb(self) -> None:
        self.link.send("continue")

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before anything is saved
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        self.link.send("over", has_all=self.has_all())
        return (yield)


def problem(item: pytest.Item) -> str:
    """What one child times as a whole: a workload with all its backends, else a test."""
    return str(item.stash[CELL_KEY].workload) if CELL_KEY in item.stash else item.nodeid


def claim(folder: Path, name: str, worker: int) -> bool:
    """Whether the problem is this worker's: it was the first to create the problem's file."""
    path = folder / sha256(name.encode()).hexdigest()
    try:
        with path.open("x") as file:
            file.write(str(worker))
    except FileExistsError:
        return path.read_text() == str(worker)
    return True
