"""What a worker process of `maskbench.suite.workers` does.

This module imports the standard library only, so that a worker leaves the terminal's process group
before it imports torch. Then Ctrl-C reaches the pool alone.
"""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class TaskFailure:
    """Takes the place of a result: why there is none, and whether the worker still runs."""

    reason: str
    worker_alive: bool = False


class Ready:
    """A worker's first message."""


def work(connection: Connection) -> None:
    """The main function of a worker."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        initialize, arguments, handle = pickle.loads(connection.recv_bytes())
        initialize(*arguments)
    except BaseException as error:
        connection.send(TaskFailure(f"{type(error).__name__}: {error}"))
        return
    connection.send(Ready())
    while True:
        try:
            task = connection.recv_bytes()
        except EOFError:
            return
        try:
            result = handle(task)
        except BaseException as error:  # SystemExit and KeyboardInterrupt concern one task, too
            text = f"its worker raised {type(error).__name__}: {error}".rstrip(": ")
            result = TaskFailure(text, worker_alive=True)
        connection.send(result)
