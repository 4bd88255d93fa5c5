"""The two ends of the connection between the supervisor and a child that runs pytest.

The child writes messages, one JSON object a line, to a pipe. A second pipe tells the child that
the supervisor lives: it is closed when the supervisor ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from threading import Thread
from typing import Any

VARIABLE = "MASKBENCH_SUPERVISOR"  # in the child's environment
RUN, TIME, REPORT = "run", "time", "report"
ORPHAN_GRACE_S = 30  # for a child whose supervisor has died, to save what it has


@dataclass(frozen=True)
class Assignment:
    """What a child is to do.

    Parameters
    ----------
    role
        RUN: times and reports. TIME: times the problems that no other child has claimed, and
        reports nothing. REPORT: reports what is in the journal.
    journal
        The journal to go on with; None for the first child of a run.
    worker, claims
        The number of a child with the role TIME, and the folder with the claims of all.
    stopped_by
        Why nothing more is to be run; None if the rest is to be run.
    """

    role: str = RUN
    journal: str | None = None
    worker: int = 0
    claims: str | None = None
    stopped_by: str | None = None


class SupervisorLink:
    """The child's side of the connection."""

    def __init__(self, assignment: Assignment, messages: int, alive: int) -> None:
        self.assignment = assignment
        self._messages = messages
        for descriptor in (messages, alive):
            os.set_inheritable(descriptor, False)
        Thread(target=_end_with_supervisor, args=(alive,), daemon=True).start()

    @classmethod
    def connect(cls) -> SupervisorLink | None:
        """Connect if a supervisor started this process. Processes that it starts are not linked."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        settings = json.loads(text)
        return cls(Assignment(**settings["assignment"]), settings["messages"], settings["alive"])

    def send(self, event: str, **values: object) -> None:
        """Tell the supervisor. If it has died, nobody reads it, and this process ends soon."""
        with suppress(BrokenPipeError):
            os.write(self._messages, (json.dumps({"event": event, **values}) + "\n").encode())


def signals_to_handle() -> list[signal.Signals]:
    """The signals that end a run early. nohup and a shell's background jobs ignore some of them."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]


def _end_with_supervisor(alive: int) -> None:
    """Wait until the supervisor ends; then end this process, with some time to save."""
    os.read(alive, 1)  # returns at the end of the file only: nothing is ever written
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class ChildProcess:
    """The supervisor's side of the connection.

    Parameters
    ----------
    test
        The test that runs now: `fullname`, `cell` (the fields of its cell, empty if it is no
        cell) and `phase` ("setup", "call" or "teardown").
    waited_s
        For how long it has run, in seconds.
    is_paused
        Whether a user debugs it.
    planned, tests_done
        The number of benchmarks that it is to run, and of tests that it has run.
    is_over, has_all
        Whether its last test has ended, and whether it has all cells of the journal then.
    restart_reason
        Why it asked to be replaced by a new process.
    timed_out
        Whether the supervisor ended it because a test ran for too long.
    """

    assignment: Assignment
    process: subprocess.Popen[bytes]
    messages: int
    alive: int
    journal: str | None
    test: dict[str, Any] | None = None
    waited_s: float = 0.0
    is_paused: bool = False
    planned: int | None = None
    tests_done: int = 0
    is_over: bool = False
    has_all: bool = True
    restart_reason: str | None = None
    timed_out: bool = False
    _rest: bytes = field(default=b"", repr=False)

    @classmethod
    def start(
        cls, assignment: Assignment, environment: dict[str, str], output: int | None
    ) -> ChildProcess:
        """Run the command of this process again, as a child.

        `environment` is added to this process's. `output` is a file for stdout and stderr.
        """
        messages, messages_end = os.pipe()
        alive_end, alive = os.pipe()
        settings = {
            "assignment": asdict(assignment),
            "messages": messages_end,
            "alive": alive_end,
        }
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **environment, VARIABLE: json.dumps(settings)},
            pass_fds=(messages_end, alive_end),
            stdout=output,
            stderr=output,
        )
        os.close(messages_end)
        os.close(alive_end)
        os.set_blocking(messages, False)
        return cls(assignment, process, messages, alive, assignment.journal)

    def receive(self) -> None:
        """Apply the messages that have come."""
        while chunk := self._read():
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._apply(json.loads(line))

    def _read(self) -> bytes:
        try:
            return os.read(self.messages, 65536)
        except BlockingIOError:
            return b""

    def _apply(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ready":
            self.journal, self.planned = message["journal"], message["planned"]
        elif event == "start":
            self.test, self.waited_s = {**message, "phase": "setup"}, 0.0
        elif event == "phase" and self.test:
            self.test["phase"] = message["phase"]
        elif event == "finish":
            self.test, self.tests_done = None, self.tests_done + message["ran"]
        elif event in ("pause", "continue"):
            self.is_paused = event == "pause"
        elif event == "over":
            self.test, self.is_over, self.waited_s = None, True, 0.0
            self.has_all = message["has_all"]
        elif event == "restart":
            self.restart_reason = message["reason"]

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.wait()
        for descriptor in (self.messages, self.alive):
            os.close(descriptor)
