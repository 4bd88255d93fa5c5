"""The supervisor: runs pytest in a child process and goes on in a new one if the child dies.

A test that ends its process (a segmentation fault, an abort, `os._exit`), that runs longer than
--cell-timeout, or that leaves a CUDA error from which its process cannot recover would take all
later tests with it. So the first process of pytest runs no test. It starts the same command again
as a child and waits. The child appends each cell to the journal. If the child dies, the supervisor
adds the test that ran then, with the reason, and starts another child, which goes on after it.
"""

from __future__ import annotations

import selectors
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from maskbench.journal import Journal, JournalFile, parse_journal
from maskbench.records import Outcome
from maskbench.supervision.link import REPORT, Assignment, ChildProcess, signals_to_handle

POLL_S = 0.5
MAX_COUNTED_S = 2.0  # of a poll; a longer one means that this process was stopped or asleep
STOP_GRACE_S = 20.0  # for a child that was asked to end
KILL_GRACE_S = 5.0  # for a child to print where it hangs


class Supervisor:
    """Starts children, waits for them, and records the tests that end or block them.

    Parameters
    ----------
    cell_timeout_s
        The longest time for one test, in seconds; 0 means no limit.
    """

    def __init__(self, cell_timeout_s: float) -> None:
        self.cell_timeout_s = cell_timeout_s
        self.children: list[ChildProcess] = []  # that have not ended
        self.stopped_by: str | None = None  # the name of a signal
        self.stopping_s = 0.0  # seconds since then
        self.finished = 0  # tests in the journal when a process last died
        self.gave_up = False  # whether the last process got no further than the one before
        self._lock: JournalFile | None = None

    def run(self) -> int:
        """Run the command in one child at a time. Returns the exit status of pytest."""
        with self.forwarding_signals():
            child = self.wait_for(self.start(Assignment()))
            while self.should_go_on(child):
                child = self.wait_for(self.start(Assignment(journal=child.journal)))
            is_complete = child.is_over and child.has_all
            ended_early = self.stopped_by or self.gave_up or child.is_over
            if child.journal and ended_early and not is_complete:
                reason = (
                    "pytest died again and again" if self.gave_up else "the session ended early"
                )
                return self.report(child.journal, self.stopped_by or reason)
            return exit_status(child)

    def report(self, journal: str, stopped_by: str | None) -> int:
        """Let a child save what is in the journal. Returns the exit status of pytest."""
        self.stopping_s = 0.0
        child = self.wait_for(self.start(Assignment(REPORT, journal, stopped_by=stopped_by)))
        status = exit_status(child)
        if not child.is_over:
            say(f"nothing could be saved{where(child)}")
        was_stopped = stopped_by is not None and status in (0, 1, 5)
        return 2 if was_stopped else status  # as pytest after Ctrl-C

    def start(
        self,
        assignment: Assignment,
        environment: dict[str, str] | None = None,
        output: int | None = None,
    ) -> ChildProcess:
        """Start a child."""
        child = ChildProcess.start(assignment, environment or {}, output)
        self.children.append(child)
        return child

    def wait_for(self, child: ChildProcess) -> ChildProcess:
        """Wait until the child has ended; return it."""
        while child in self.children:
            self.poll()
        return child

    def poll(self) -> list[ChildProcess]:
        """Wait a moment for messages; end children that hang. Returns those that have ended."""
        start = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for child in self.children:
                selector.register(child.messages, selectors.EVENT_READ, child)
            for key, _ in selector.select(POLL_S):
                key.data.receive()
        if any(child.process.poll() is not None for child in self.children):
            time.sleep(0.01)
        passed = min(time.monotonic() - start, MAX_COUNTED_S)
        if self.stopped_by:
            self.stopping_s += passed
        ended = [child for child in self.children if self._has_ended(child, passed)]
        for child in ended:
            child.receive()
            child.close()
            self.children.remove(child)
        return ended

    def _has_ended(self, child: ChildProcess, passed_s: float) -> bool:
        if child.process.poll() is not None:
            return True
        if (child.test or child.is_over) and not child.is_paused:
            child.waited_s += passed_s
        child.timed_out = 0 < self.cell_timeout_s < child.waited_s
        if child.timed_out or (self.stopping_s > STOP_GRACE_S and not child.is_over):
            end_process(child)
            return True
        return False

    def should_go_on(self, child: ChildProcess) -> bool:
        """Whether the rest of the run needs another child; records the test that ended this one."""
        if self.stopped_by or child.is_over or child.journal is None:
            if child.process.returncode < 0:
                say(f"pytest {death(child)}{where(child)}")
            return False
        journal = Path(child.journal)
        if self._lock is None:  # between two children, no other run may go on with it
            self._lock = JournalFile(journal)
        if child.test is None:  # it died between two tests, or before the first
            say(f"pytest {death(child)}{where(child)}")
            return self._has_grown(journal)
        name = child.test["fullname"]
        reason = child.restart_reason or f"{name} {death(child)}"
        try:
            if name not in read_journal(journal):  # a cell that failed has recorded itself
                record_death(journal, child, child.restart_reason or death(child))
        except OSError as error:
            say(f"{reason}. It cannot be recorded, so the run ends: {journal}: {error.strerror}")
            return False
        say(reason)
        return self._has_grown(journal)

    def _has_grown(self, journal: Path) -> bool:
        """Whether a test has ended since the last call: else a fresh process would die, too."""
        finished = read_journal(journal).number_finished
        self.gave_up = finished <= self.finished
        self.finished = finished
        say("it died again at the same place" if self.gave_up else "going on in a fresh process")
        return not self.gave_up

    @contextmanager
    def forwarding_signals(self) -> Iterator[None]:
        """Forward signals to the children inside this context. At the end no child is left."""

        def forward(number: int, _: FrameType | None) -> None:
            self.stopped_by = signal.Signals(number).name
            for child in self.children:
                child.process.send_signal(number)

        before = {number: signal.signal(number, forward) for number in signals_to_handle()}
        try:
            yield
        finally:
            for child in self.children:
                child.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def end_process(child: ChildProcess) -> None:
    """End a child that does not respond. At SIGABRT pytest prints where each thread is."""
    child.process.send_signal(signal.SIGABRT)
    deadline = time.monotonic() + KILL_GRACE_S
    while child.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.process.kill()
    child.process.wait()


def death(child: ChildProcess) -> str:
    """How the child ended, as the rest of a sentence that begins with the test."""
    status = child.process.returncode
    if child.timed_out:
        return f"ran for more than {child.waited_s:.0f} s (--cell-timeout)"
    if status >= 0:
        return f"ended its process with exit status {status}"
    name, text = signal.Signals(-status).name, signal.strsignal(-status)
    killer = "; the system may have been short of memory" if name == "SIGKILL" else ""
    return f"ended its process with {name} ({text}{killer})"


def where(child: ChildProcess) -> str:
    """Where the finished cells are, as the rest of a sentence."""
    if child.journal is None or not Path(child.journal).exists():
        return ""
    return f". The finished cells are in {child.journal}: --resume goes on with them"


def record_death(journal: Path, child: ChildProcess, reason: str) -> None:
    """Add the test that ended the child to the journal."""
    test = child.test or {}
    outcome = Outcome.TIMED_OUT if child.timed_out else Outcome.CRASHED
    details = {"fullname": test["fullname"], "reason": reason, "phase": test["phase"]}
    file = JournalFile(journal)
    if test["cell"]:
        file.append("untimed", cell={**test["cell"], **details, "outcome": outcome.value})
    else:
        file.append("died", **details)
    file.close()


def read_journal(path: Path) -> Journal:
    """What the children have written so far."""
    return parse_journal(path.read_bytes())


def exit_status(child: ChildProcess) -> int:
    """The exit status of the child, or 128 plus the number of the signal that ended it."""
    status = child.process.returncode
    return status if status >= 0 else 128 - status


def say(text: str) -> None:
    """Write a line to stderr: pytest's own output is on stdout."""
    print(f"\nmaskbench: {text}", file=sys.stderr, flush=True)
