"""One run on several GPUs: a child for each GPU times, and a last child reports.

The children walk through the same tests in the same order. Before the first test of a problem (a
mask, a length and a direction) a child claims it by creating a file, which only one child can do.
All append to one journal. The first child compiles ahead; the others start when that is done.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from maskbench.supervision.link import REPORT, TIME, Assignment, ChildProcess
from maskbench.supervision.supervisor import Supervisor, exit_status, say

LOG_TAIL_LINES = 40


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

    def log_tail(self, worker: int) -> str:
        """The last lines of that file."""
        lines = self.log(worker).read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def run(self) -> ChildProcess:
        """Time everything. Returns the child that ended last, or the first that failed to start."""
        first = self.start(0, None)
        while first.planned is None and first in self.supervisor.children:
            self.supervisor.poll()
        if first.planned is None or first.journal is None:
            say(f"the process of GPU {self.gpus[0]} did not start:\n{self.log_tail(0)}")
            return first
        for worker in range(1, len(self.gpus)):
            self.start(worker, first.journal)
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
                    say(f"the process of GPU {self.gpus[worker]} ended:\n{self.log_tail(worker)}")
            done = finished + sum(child.tests_done for child in self.supervisor.children)
            bar.update(done - bar.n)
        return last


def run_on_all_gpus(supervisor: Supervisor, gpus: list[str]) -> int:
    """Time on all GPUs, then report. Returns the exit status of pytest."""
    with supervisor.forwarding_signals():
        with tempfile.TemporaryDirectory(prefix="maskbench_") as folder:
            last = GpuWorkers(supervisor, gpus, Path(folder)).run()
        if last.journal is None:
            return exit_status(last)
        report = Assignment(REPORT, last.journal, stopped_by=supervisor.stopped_by)
        return exit_status(supervisor.wait_for(supervisor.start(report)))
