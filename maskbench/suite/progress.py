"""How far a run is: its cells, what is timed now, and about how long the rest takes."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from statistics import fmean
from time import perf_counter
from typing import NoReturn

import pytest
from tqdm import tqdm

from maskbench.suite.cell import will_be_skipped
from maskbench.suite.collection import CELL_KEY, CellKey, cell_keys
from maskbench.suite.options import RunConfig
from maskbench.suite.precompile import compile_task, is_compiled

# Measured: 308 CPU cells took 206 s, 154 s of it with compiled kernels; 748 cells on an H100
# 551 s and 297 s.
CELL_S = {"cpu": 0.5, "cuda": 0.4}
SEARCH_S = {"cpu": 20.0, "cuda": 15.0}  # of `-m tune`; 6 problems on an H100 took 80 s
COMPILE_S = {"cpu": 2.0, "cuda": 25.0}  # for one cell in one worker

Status = tuple[str, str, "str | tuple[str, dict[str, bool]]"]  # category, letter, word


def format_duration(seconds: float) -> str:
    """Such as "about 40 s", "about 3 min" or "about 1.5 h"."""
    if seconds < 60:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class ProgressReporter:
    """Reports progress while cells are timed.

    On a terminal a bar shows it in place of pytest's dots, with -v the result of each test. In a
    log, one line follows the last cell of each mask and phase.
    """

    def __init__(
        self,
        terminal: pytest.TerminalReporter,
        run: RunConfig,
        is_finished: Callable[[pytest.Item], bool],
    ) -> None:
        self.terminal, self.run, self.is_finished = terminal, run, is_finished
        self.verbose = terminal.config.get_verbosity() > 0
        self.has_bar = terminal.isatty and sys.stderr.isatty() and not self.verbose
        self.bar: tqdm[NoReturn] | None = None
        self.pending: dict[str, CellKey] = {}  # node id -> key, in the order of the run
        self.replayed: set[str] = set()  # node ids of cells that an earlier process has finished
        self.untimed: set[str] = set()  # node ids of cells that are known to be skipped
        self.total = 0
        self.current: str | None = None  # node id of the cell that runs now
        self.start = 0.0
        self.finished: CellKey | None = None  # the last cell that has a result
        self.counts: Counter[str] = Counter()  # "timed" and "failed" cells
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # variant -> of each cell

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> str | None:
        """A line after collection: how many cells there are, and how long they may take."""
        keys = cell_keys(item for item in items if not self.is_finished(item))
        if not keys:
            return None
        to_time = [key for key in keys if not self._is_skipped(key)]
        tasks = [task for key in to_time if (task := compile_task(*key))]
        to_compile = [task for task in tasks if not is_compiled(task)]
        device, jobs = self.run.device, self.run.jobs
        seconds = (
            sum(map(self._usual_seconds, to_time)) + COMPILE_S[device] * len(to_compile) / jobs
        )
        line = f"maskbench: {len(to_time)} cells to time"
        if len(keys) > len(to_time):
            line += f" ({len(keys) - len(to_time)} more will be skipped)"
        return f"{line}; {format_duration(seconds)}"

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        cells = [item for item in session.items if CELL_KEY in item.stash]
        self.pending = {item.nodeid: item.stash[CELL_KEY] for item in cells}
        self.replayed = {item.nodeid for item in cells if self.is_finished(item)}
        self.untimed = {item.nodeid for item in cells if self._is_skipped(item.stash[CELL_KEY])}
        self.total = len(cells)

    def _is_skipped(self, key: CellKey) -> bool:
        return will_be_skipped(*key, self.run.backends_named)

    def _usual_seconds(self, key: CellKey) -> float:
        return (SEARCH_S if key.workload.phase.is_search else CELL_S)[self.run.device]

    @property
    def done(self) -> int:
        return self.total - len(self.pending)

    def time_left(self) -> float:
        """Seconds for the pending cells, by the mean of their variant so far, else of all."""
        done = self.replayed | self.untimed
        to_run = [key for name, key in self.pending.items() if name not in done]
        if not self.seconds:
            return sum(map(self._usual_seconds, to_run))
        mean = fmean(s for variant in self.seconds.values() for s in variant)
        by_variant = {variant: fmean(s) for variant, s in self.seconds.items()}
        return sum(by_variant.get(key.variant, mean) for key in to_run)

    def summary(self) -> str:
        """Such as "20 timed, 1 failed, about 3 min left"."""
        failed = f", {self.counts['failed']} failed" if self.counts["failed"] else ""
        left = f", {format_duration(self.time_left())} left" if self.pending else ""
        return f"{self.counts['timed']} timed{failed}{left}"

    @pytest.hookimpl(trylast=True)  # after pytest has written the name of a new test file
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if nodeid not in self.pending:
            return
        self.current, self.start = nodeid, perf_counter()
        if self.has_bar:
            workload, variant = self.pending[nodeid]
            name = f"{workload.mask} {variant} {workload.phase} {workload.lengths}"
            self._draw_bar(f"{name}, {self.summary()}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid != self.current:
            return
        if self.bar is not None:
            self.bar.clear()
        if report.failed:
            self.counts["failed"] += 1
        elif report.when == "call" and report.passed:
            self.counts["timed"] += 1
        if report.nodeid in self.pending and (report.when == "call" or not report.passed):
            self.finished = self.pending.pop(report.nodeid)
            if report.nodeid not in self.replayed and report.nodeid not in self.untimed:
                self.seconds[self.finished.variant].append(perf_counter() - self.start)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> Generator[None, Status, Status]:
        """Leave the line to the bar; with -v add the progress to the word of the result."""
        category, letter, word = yield
        if report.nodeid != self.current or not word:
            return category, letter, word
        if self.has_bar:
            return category, "", word
        if self.verbose and isinstance(word, str):
            word = f"{word} ({self.done} of {self.total}, {self.summary()})"
        return category, letter, word

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if nodeid != self.current or self.finished is None:
            return
        self.current, workload = None, self.finished.workload
        following = next(iter(self.pending.values()), None)
        is_last = following is None or (
            (following.workload.mask, following.workload.phase) != (workload.mask, workload.phase)
        )
        if self.has_bar or not is_last or nodeid in self.replayed:
            return
        if self.terminal.config.get_verbosity() < 0:
            self.terminal.line("")  # with -q ensure_newline does not see the dots
        self.terminal.ensure_newline()
        progress = f"{self.done} of {self.total} cells, {self.summary()}"
        self.terminal.write_line(f"maskbench: {workload.mask} {workload.phase}: {progress}")

    def pytest_sessionfinish(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _draw_bar(self, text: str) -> None:
        bar = self.bar = self.bar if self.bar is not None else self._make_bar()
        bar.n = self.done
        bar.set_description_str(text)

    def _make_bar(self) -> tqdm[NoReturn]:
        return tqdm(
            total=self.total,
            bar_format="maskbench: {n_fmt} of {total_fmt} cells |{bar:20}| {desc}",
            dynamic_ncols=True,
            leave=False,
            # So that tqdm's monitor thread does not draw into the captured output of a test.
            miniters=1,
        )
