"""How each cell ended. One rule holds for all: a cell is timed or it is not, never both.

A cell is timed if its last attempt passed and has times. What failed in the setup, in the rounds,
after them or in the teardown has no time anywhere: not in the JSON, a table or a histogram.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.stats import Metadata

from maskbench.records import Outcome
from maskbench.schema import require_readable
from maskbench.suite.collection import CELL_KEY, CellKey, is_benchmark
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.error_text import MAX_REASON, describe_error
from maskbench.suite.replay import REPLAYED_CELL
from maskbench.whole_files import plain

CELL_RECORD = pytest.StashKey[dict[str, object]]()  # of an item: the saved fields of its cell
NOT_RUN = pytest.StashKey[bool]()  # of an item that is skipped because another process runs it


@dataclass
class Attempt:
    """One attempt at an item, as far as it has come."""

    item: pytest.Item
    fixture: BenchmarkFixture | None = None
    failure: str | None = None  # why it failed; of several reasons, the first
    skipped: str | None = None  # why it was skipped

    def add_phase(self, report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
        """Take over the result of the setup, the call or the teardown."""
        if report.outcome == "passed" or (self.failure and report.failed):
            return
        error = call.excinfo and call.excinfo.value
        reason = describe_error(error) if error else _last_line(report.longrepr)
        place = "" if report.when == "call" else f" (in the {report.when})"
        if report.failed:
            self.failure = f"{reason}{place}"
        elif hasattr(report, "wasxfail"):
            expected = report.wasxfail.removeprefix("reason: ")  # written by pytest 8
            self.failure = f"{reason}{place} (expected to fail: {expected})"
        else:
            self.skipped = str(getattr(error, "msg", None) or reason)

    @property
    def benchmark(self) -> Metadata | None:
        """The times, if there are any."""
        stats: Metadata | None = self.fixture.stats if self.fixture else None
        return stats or None  # without a round it is false

    def why_untimed(self) -> tuple[Outcome, str] | None:
        """The outcome and its reason; None if the attempt is timed."""
        record = self.item.stash.get(CELL_RECORD, {})
        if self.failure is not None:
            return Outcome.FAILED, self.failure
        if "outcome" in record:
            return Outcome(record["outcome"]), str(record["reason"])
        if self.skipped is not None:
            return Outcome.SKIPPED, self.skipped
        if self.fixture and self.fixture.has_error:
            return Outcome.FAILED, "the benchmark raised an error, which the test caught"
        if self.benchmark:
            return None
        if self.fixture and self.fixture.disabled:
            return Outcome.SKIPPED, "ran once: benchmarks are disabled"
        return Outcome.SKIPPED, "the test passed, but it timed nothing"

    def discard_times(self) -> None:
        """Take the times out of all that pytest-benchmark reports."""
        if self.fixture:
            self.fixture.has_error = True  # not in the JSON
            if self.fixture.stats:
                self.fixture.stats.stats.data = []  # nor in the tables and comparisons


def _last_line(text: object) -> str:
    return (str(text).strip().splitlines() or [""])[-1][:MAX_REASON]


class OutcomeCollector:
    """A plugin that follows the items of a session.

    Parameters
    ----------
    finished
        Called once for each finished attempt at a benchmark with its record:
        `{"benchmark": ...}` as pytest-benchmark saves it with all times, else the fields of a cell
        that was not timed. The record of a later attempt replaces that of an earlier one.
    device
        "cuda" or "cpu".
    """

    def __init__(self, finished: Callable[[dict[str, object]], None], device: str) -> None:
        self.finished, self.device = finished, device
        self.planned: list[str] = []  # node ids
        self.cell_keys: dict[str, CellKey] = {}  # of the planned cells, by node id
        self.timed: dict[str, Attempt] = {}  # node id -> its last attempt
        self.untimed: dict[str, dict[str, object]] = {}  # node id -> its fields
        self.attempts: Counter[str] = Counter()
        self.current: Attempt | None = None

    @property
    def benchmarks(self) -> list[Metadata]:
        """The times of the timed items, in the order of the run."""
        return [attempt.benchmark for attempt in self.timed.values() if attempt.benchmark]

    @property
    def untimed_cells(self) -> list[dict[str, object]]:
        """The cells that were not timed. A user's own benchmarks are not cells."""
        return [fields for fields in self.untimed.values() if "mask" in fields]

    @property
    def not_run(self) -> list[str]:
        """The node ids of planned items that have no result."""
        return [n for n in self.planned if n not in self.timed and n not in self.untimed]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        planned = (i.nodeid for i in session.items if is_benchmark(i) or CELL_KEY in i.stash)
        self.planned = list(dict.fromkeys(planned))
        cells = (item for item in session.items if CELL_KEY in item.stash)
        self.cell_keys = {item.nodeid: item.stash[CELL_KEY] for item in cells}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        self.current = Attempt(item)
        if CELL_RECORD in item.stash:  # of an earlier attempt
            del item.stash[CELL_RECORD]
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self) -> Generator[None, object, object]:
        """Note the fixture, also if a test asks for it with request.getfixturevalue."""
        value = yield
        if isinstance(value, BenchmarkFixture) and self.current:
            self.current.fixture = value
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """Fail a cell that would make the saved run unreadable."""
        yield
        benchmark = self.current.benchmark if self.current else None
        if benchmark and "mask" in benchmark.extra_info:  # a user's own benchmark may save anything
            require_readable(plain(benchmark.extra_info))

    # First, so that it sees the report as all other plugins leave it: xfail, for example.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        attempt = self.current
        if attempt is not None and attempt.item is item:
            attempt.add_phase(report, call)
            if report.failed and (lost := device_is_lost(self.device)):
                # The error that the cell met may be another library's word for it.
                attempt.failure = f"{attempt.failure}; {lost}"
            if report.when == "teardown":
                self.current = None
                if attempt.fixture or is_benchmark(item) or CELL_KEY in item.stash:
                    self._finish(attempt)
        return report

    def _card(self) -> dict[str, object]:
        """The GPU that this process uses: a run on several has one for each cell."""
        if self.device != "cuda":
            return {}
        return {"gpu_uuid": str(torch.cuda.get_device_properties(0).uuid)}

    def discard_unfinished(self) -> None:
        """Drop the times of an item that an interrupt has ended."""
        if self.current:
            self.current.discard_times()

    def _finish(self, attempt: Attempt) -> None:
        item = attempt.item
        if NOT_RUN in item.stash:
            return
        if replayed := item.stash.get(REPLAYED_CELL, None):
            self.untimed[item.nodeid] = replayed
            return
        self.attempts[item.nodeid] += 1
        attempts = self.attempts[item.nodeid]
        counted: dict[str, object] = {"attempts": attempts} if attempts > 1 else {}
        counted |= self._card()
        if earlier := self.timed.pop(item.nodeid, None):
            earlier.discard_times()
        self.untimed.pop(item.nodeid, None)
        why = attempt.why_untimed()
        if why is None and attempt.benchmark:
            # A replayed cell has them already, of the card that it was timed on.
            attempt.benchmark.extra_info |= {**counted, **attempt.benchmark.extra_info}
            self.timed[item.nodeid] = attempt
            saved = attempt.benchmark.as_dict(include_data=True)  # type: ignore[no-untyped-call]
            self.finished({"benchmark": saved})
        elif why is not None:
            attempt.discard_times()
            outcome, reason = why
            fields = {"fullname": item.nodeid, **_cell_fields(item), **counted}
            self.untimed[item.nodeid] = fields | {"outcome": outcome.value, "reason": reason}
            self.finished(self.untimed[item.nodeid])


def _cell_fields(item: pytest.Item) -> dict[str, object]:
    """What the cell computes. It is known before the cell's fixtures are set up."""
    own: dict[str, object] = item.stash.get(CELL_RECORD, {})
    return {**item.stash[CELL_KEY].fields(), **own} if CELL_KEY in item.stash else {}
