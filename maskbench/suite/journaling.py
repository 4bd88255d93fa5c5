"""Connects the journal to a pytest session: opened after collection, closed at the end."""

from __future__ import annotations

import pytest

from maskbench.suite.collection import is_benchmark
from maskbench.suite.options import benchmarking
from maskbench.suite.replay import Replay
from maskbench.suite.run_journal import RunJournal, grid
from maskbench.supervision.link import REPORT, TIME, Assignment

JOURNALING = pytest.StashKey["Journaling"]()


class Journaling:
    """The journal of a session that times, and the tests that it already has."""

    def __init__(self, config: pytest.Config, assignment: Assignment) -> None:
        self.config, self.assignment = config, assignment
        self.journal: RunJournal | None = None
        self.replay: Replay | None = None
        self.planned: list[str] = []
        self.note = ""

    @pytest.hookimpl(tryfirst=True)  # the progress counts what the journal does not have
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.planned = [item.nodeid for item in session.items if is_benchmark(item)]
        if not benchmarking(self.config) or not self.planned:
            return
        is_shared = self.assignment.role == TIME
        self.journal, self.note = RunJournal.choose(
            self.config, grid(self.config, self.planned), self.assignment.journal, is_shared
        )
        if self.journal.earlier:
            self.replay = Replay(self.journal.earlier)
            self.config.pluginmanager.register(self.replay, "maskbench-replay")

    def pytest_report_collectionfinish(self) -> str | None:
        return f"maskbench: {self.note}" if self.note else None

    def is_finished(self, item: pytest.Item) -> bool:
        """Whether an earlier process of the run has ended this test."""
        earlier = self.journal.earlier if self.journal else None
        return earlier is not None and item.nodeid in earlier

    def begin(self, **header: object) -> None:
        """Open the journal: from now on every cell is written. Raises pytest.UsageError."""
        if self.journal:
            times = self.assignment.role != REPORT
            worker = self.assignment.worker if times else None
            self.journal.begin(worker, planned=self.planned, **header)
