"""One run on several GPUs: a child for each GPU times, and a last child reports.

The children walk through the same tests in the same order. Before the first test of a problem (a
mask, a length and a direction) a child claims it by creating a file, which only one child can do.
All append to one journal. The first child opens it and compiles ahead. The others wait for that in
`wait_for_first`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from maskbench.supervision.link import TIME, Assignment, ChildProcess
from maskbench.supervision.supervisor import Supervisor, exit_status, say

LOG_TAIL_LINES = 40
READY = "journal"  # a file beside the claims, with the path of the journal


class GpuWorkers:
    """The children that time.

    Parameters
    ----------
    supervisor
        It starts them and waits for them.
    gpus
        The value of CUDA_VISIBLE_DEVICES for each.
    folder
        A temporary folder for their claims and their output.
    """

    def __init__(self, supervisor: Supervisor, gpus: list[str], folder: Path) -> None:
        self.supervisor, self.gpus, self.folder = supervisor, gpus, folder
        self.claims = folder / "claims"
        self.claims.mkdir()

    def start(self, worker: int, journal: str | None) -> ChildProcess:
        """Start the child of a GPU. It keeps the problems that it claimed before it died."""
        assignment = Assignment(TIME, journal, worker, str(self.claims))
        environment = {"CUDA_VISIBLE_DEVICES": self.gpus[worker]}
        with self.log(worker).open("ab") as output:
            return self.supervisor.start(assignment, environment, output.fileno())

    def log(self, worker: int) -> Path:
        """The file with the output of a GPU's children."""
        return self.folder / f"gpu{worker}.log"

    def say_output(self, child: ChildProcess) -> None:
        """Show the end of the output of a child that did not finish."""
        worker = child.assignment.worker
        lines = self.log(worker).read_text(errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_TAIL_LINES:])
        say(f"the process of GPU {self.gpus[worker]} ended early:\n{tail}")

    def run(self) -> ChildProcess:
        """Time all problems. Returns the child that ended last, or the first if it failed."""
        first, *_ = [self.start(worker, None) for worker in range(len(self.gpus))]
        while first.planned is None and first in self.supervisor.children:
            for child in self.supervisor.poll():
                self.say_output(child)
        if first.planned is None or first.journal is None:
            return first
        complete = self.claims / READY
        complete.with_suffix(".new").write_text(first.journal)
        complete.with_suffix(".new").rename(complete)
        title = f"timing on {len(self.gpus)} GPUs"
        with tqdm(desc=title, total=first.planned, unit="cell", mininterval=1) as bar:
            return self._wait_for_all(first, bar)

    def _wait_for_all(self, last: ChildProcess, bar: tqdm[NoReturn]) -> ChildProcess:
        finished = 0  # tests of children that have ended
        while self.supervisor.children:
            for child in self.supervisor.poll():
                last, worker = child, child.assignment.worker
                finished += child.tests_done
                if self.supervisor.should_go_on(child):
                    self.start(worker, child.journal)
                elif not child.is_over:
                    self.say_output(child)
            done = finished + sum(child.tests_done for child in self.supervisor.children)
            bar.update(done - bar.n)
        return last


def wait_for_first(claims: Path) -> str:
    """Wait until the first child has opened the journal and compiled; return the journal's path."""
    while not (claims / READY).exists():
        time.sleep(0.1)  # the supervisor ends this process if the first child does not get there
    return (claims / READY).read_text()


def run_on_all_gpus(supervisor: Supervisor, gpus: list[str]) -> int:
    """Time on all GPUs, then report. Returns the exit status of pytest."""
    with supervisor.forwarding_signals():
        with tempfile.TemporaryDirectory(prefix="maskbench_") as folder:
            last = GpuWorkers(supervisor, gpus, Path(folder)).run()
        if last.journal is None:
            return exit_status(last)
        return supervisor.report(last.journal, supervisor.stopped_by)
