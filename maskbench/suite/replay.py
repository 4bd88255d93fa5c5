"""Replays what an earlier process of the run has finished, so that nothing is timed twice.

pytest-benchmark gets the saved times of a cell through a timer that returns them. So its table,
its comparison and its files have all cells of the run, whichever process has timed them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.journal import Journal
from maskbench.records import Outcome

REPLAYED_CELL = pytest.StashKey[dict[str, Any]]()  # of an item: its untimed cell in the journal
SKIPPED_OUTCOMES = (Outcome.SKIPPED, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY)


def replay_timer(name: str, seconds: list[float]) -> Callable[[], float]:
    """A timer that returns `seconds` again, under the name of the timer that measured them."""
    readings = [reading for duration in seconds for reading in (0.0, duration)]
    remaining = iter(readings)

    def timer() -> float:
        return next(remaining)

    timer.__name__ = name
    return timer


class Replay:
    """Ends the tests that the journal has, without running them."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def timer(self, node_id: str) -> Callable[[], float] | None:
        """The timer for a cell that the journal has a time of."""
        saved = self.journal.timed.get(node_id)
        if saved is None:
            return None
        iterations = saved["stats"]["iterations"]
        seconds = [duration * iterations for duration in saved["stats"]["data"]]
        return replay_timer(saved["options"]["timer"], seconds)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End a test that died in its fixtures before they run again."""
        record = self._untimed(item.nodeid)
        if record and record.get("phase", "call") != "call":
            self._end(item, record)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        name = pyfuncitem.nodeid
        if record := self._untimed(name):
            self._end(pyfuncitem, record)
        benchmark, saved = pyfuncitem.funcargs.get("benchmark"), self.journal.timed.get(name)
        if saved is None or not isinstance(benchmark, BenchmarkFixture):
            return None
        replay_times(benchmark, saved)
        return True

    def _untimed(self, node_id: str) -> dict[str, Any] | None:
        return self.journal.untimed.get(node_id) or self.journal.died.get(node_id)

    def _end(self, item: pytest.Item, record: dict[str, Any]) -> None:
        """Skip or fail the test as it was skipped or failed before."""
        reason = str(record["reason"])
        if "outcome" in record:
            item.stash[REPLAYED_CELL] = record
        if record.get("outcome") in SKIPPED_OUTCOMES:
            pytest.skip(f"{record['outcome']}: {reason}")
        pytest.fail(f"{reason} (in an earlier process of this run)", pytrace=False)


def replay_times(benchmark: BenchmarkFixture, saved: dict[str, Any]) -> None:
    """Give the fixture the times and fields that were saved."""
    benchmark.extra_info |= saved["extra_info"]
    stats = saved["stats"]
    benchmark.pedantic(  # type: ignore[no-untyped-call]  # it has no annotations
        lambda: None, rounds=len(stats["data"]), iterations=stats["iterations"]
    )
