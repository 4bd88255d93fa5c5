"""Connects the journal to a pytest session: opened after collection, closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from maskbench.records import FORMAT
from maskbench.suite.collection import is_benchmark
from maskbench.suite.options import RUN_CONFIG, benchmarking
from maskbench.suite.replay import Replay
from maskbench.suite.run_journal import RunJournal, grid
from maskbench.suite.session_clock import get_clock
from maskbench.suite.stages import time_breakdown
from maskbench.supervision.all_gpus import wait_for_first
from maskbench.supervision.link import REPORT, TIME, Assignment

JOURNALING = pytest.StashKey["Journaling"]()


class Journaling:
    """The journal of a session that times, and the tests that it already has."""

    def __init__(self, config: pytest.Config, assignment: Assignment) -> None:
        self.config, self.assignment = config, assignment
        self.journal: RunJournal | None = None
        self.replay: Replay | None = None
        self.planned: list[str] = []  # node ids
        self.note = ""

    @pytest.hookimpl(tryfirst=True)  # the progress counts what the journal does not have
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.planned = [item.nodeid for item in session.items if is_benchmark(item)]
        if not benchmarking(self.config) or not self.planned:
            return
        assigned, claims = self.assignment.journal, self.assignment.claims
        if claims and assigned is None and self.assignment.worker > 0:
            assigned = wait_for_first(Path(claims))
        is_shared = assigned is not None  # a process of this run has opened it before
        wanted = grid(self.config, self.planned)
        self.journal, self.note = RunJournal.choose(self.config, wanted, assigned, is_shared)
        if self.journal.earlier:
            self.replay = Replay(self.journal.earlier)
            self.config.pluginmanager.register(self.replay, "maskbench-replay")

    def pytest_report_collectionfinish(self) -> str | None:
        return f"maskbench: {self.note}" if self.note else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.journal and self.journal.problem:
            terminalreporter.write_line(f"maskbench: {self.journal.problem}", red=True)
        elif self.journal and self.journal.path.exists():
            terminalreporter.write_line(f"maskbench: the cells are in {self.journal.path}")

    def not_yet_replayed(self, known: Container[str]) -> bool:
        """Whether the journal has cells that are not among the node ids in `known`."""
        earlier = self.journal.earlier if self.journal else None
        return earlier is not None and any(
            n not in known for n in (*earlier.timed, *earlier.untimed)
        )

    def is_finished(self, item: pytest.Item) -> bool:
        """Whether an earlier process of the run has ended this test."""
        earlier = self.journal.earlier if self.journal else None
        return earlier is not None and item.nodeid in earlier

    def begin(self, info: Callable[[str], dict[str, Any]], shared_device: bool) -> None:
        """Open the journal: from now on every cell is written. Raises pytest.UsageError.

        `info` returns `machine_info` and `commit_info`. `shared_device` says whether another run
        uses the device.
        """
        if self.journal is None:
            return
        worker = None if self.assignment.role == REPORT else self.assignment.worker
        header: dict[str, object] = {}
        if self.journal.earlier is None:
            header = {
                "planned": self.planned,
                "datetime": datetime.now(timezone.utc).isoformat(),
                "machine_info": info("machine_info"),
                "commit_info": info("commit_info"),
                "maskbench": self._static_fields(),
            }
        self.journal.begin(worker, shared_device, header)

    def write(self, record: dict[str, Any]) -> None:
        """Append a finished attempt, as `OutcomeCollector` describes it."""
        if self.journal is None:
            return
        name = record["benchmark"]["fullname"] if "benchmark" in record else record["fullname"]
        if self.journal.earlier and name in self.journal.earlier:
            return
        if "benchmark" in record:
            self.journal.append("timed", benchmark=record["benchmark"])
        else:
            self.journal.append("untimed", cell=record)

    def end(self, interrupted: str | None, is_saved: bool) -> None:
        """Close the journal. That of a whole run is deleted if the run is saved elsewhere."""
        if self.journal is None or self.assignment.role == TIME:
            return
        self.journal.append("end", interrupted=interrupted)
        self.journal.close(delete=interrupted is None and is_saved)

    @property
    def shared_device(self) -> bool:
        """Whether another run used the device when an earlier process of this one started."""
        return bool(self.journal and self.journal.earlier and self.journal.earlier.shared_device)

    def run_fields(self) -> dict[str, Any]:
        """The fields of the block "maskbench" that concern the whole run."""
        earlier = self.journal.earlier if self.journal else None
        if earlier is None:
            return {**self._static_fields(), "seconds": time_breakdown(), "pieces": 1}
        seconds = {**earlier.seconds}
        for stage, value in time_breakdown().items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        pieces = earlier.pieces + (self.assignment.role != REPORT)
        return {**earlier.run["maskbench"], "seconds": seconds, "pieces": pieces}

    def _static_fields(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "jobs": self.config.stash[RUN_CONFIG].jobs,
            "launch_us": 1e6 * get_clock(self.config).launch_overhead_s,
        }
