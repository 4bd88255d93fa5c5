"""What the summary says of a session: what it lacks and why, and how many cells are noisy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from pytest_benchmark.stats import Metadata

from maskbench.suite.cell import will_be_skipped
from maskbench.suite.collection import CellKey
from maskbench.suite.error_text import describe_error
from maskbench.timing.statistics import NOISY_ABOVE


class Ending:
    """A plugin that notes what ends the session early.

    `stopped_by` is what ended it in an earlier process of the run.
    """

    def __init__(self, stopped_by: str | None) -> None:
        self.interrupt = stopped_by
        self.collection_errors = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.collection_errors += report.failed

    @pytest.hookimpl(tryfirst=True)  # a second Ctrl-C may end the call of the other hooks
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C, another KeyboardInterrupt, pytest.exit() or session.shouldstop."""
        error = excinfo.value
        self.interrupt = str(getattr(error, "msg", None) or error) or type(error).__name__
        # A signal can come at an instruction without a line (seen on Python 3.11), and pytest 9.2
        # fails to show such an entry.
        shown = [entry for entry in excinfo.traceback if _has_line(entry)]
        if len(shown) < len(excinfo.traceback):
            excinfo.traceback = type(excinfo.traceback)(shown)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.interrupt = f"internal error: {describe_error(excinfo.value)}"

    def why_early(
        self, session: pytest.Session, planned: Sequence[str], not_run: Sequence[str]
    ) -> str | None:
        """A short text; None if every planned cell has a result and all files were collected."""
        errors, number = None, self.collection_errors
        if number:
            errors = f"{number} error{'s' * (number > 1)} during collection"
        if planned and not not_run:
            return errors
        stopped = session.shouldfail or session.shouldstop
        reason = self.interrupt or (str(stopped) if stopped else None) or errors
        return reason or ("unknown" if planned else "no benchmark was selected")


def not_run_line(
    not_run: Sequence[str],
    planned: int,
    cell_keys: Mapping[str, CellKey],
    backends_named: bool,
    interrupted: str | None,
) -> str:
    """How many of the planned cells were not run, and why.

    Cells that would be skipped are counted apart, as in the line after collection: a session that
    runs to its end does not time them either.

    Parameters
    ----------
    not_run
        The node ids of the planned cells that have no result.
    planned
        The number of all planned cells.
    cell_keys
        The keys of the planned cells, by node id.
    backends_named
        Whether --backends was given.
    interrupted
        Why the session ended early.
    """
    keys = [cell_keys[name] for name in not_run if name in cell_keys]
    skipped = sum(will_be_skipped(*key, backends_named) for key in keys)
    more = f" ({skipped} more would be skipped)" if skipped else ""
    missing = len(not_run) - skipped
    return f"maskbench: {missing} of {planned - skipped} cells were not run{more}: {interrupted}"


def noise_line(benchmarks: Iterable[Metadata]) -> str | None:
    """How many of the timed cells have a wide interval; None if none has.

    Benchmarks without an interval, such as those of compilation, are not counted.
    """
    intervals = [b.extra_info["interval"] for b in benchmarks if "interval" in b.extra_info]
    noisy = sum(interval > NOISY_ABOVE for interval in intervals)
    if not noisy:
        return None
    return (
        f"maskbench: {noisy} of {len(intervals)} cells are noisy "
        f"(95 % interval over ±{NOISY_ABOVE:.0%}): is the machine busy?"
    )


def _has_line(entry: object) -> bool:
    """Whether an entry of a traceback has a line number."""
    try:
        return getattr(entry, "lineno", None) is not None
    except TypeError:  # pytest calculates with None
        return False
