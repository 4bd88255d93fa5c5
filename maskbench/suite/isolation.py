"""A pytest plugin that restores the settings of the process after each benchmark."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from maskbench.suite.collection import is_benchmark
from maskbench.suite.process_state import ProcessState, ProcessStateChanged, same_random_state


class CellIsolation:
    """Fails a benchmark that changes a setting, and restores it."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Restore everything after the fixtures of a benchmark are torn down."""
        if not is_benchmark(item):
            return (yield)
        before = ProcessState.capture()
        try:
            with same_random_state():
                return (yield)
        finally:
            before.restore()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a benchmark that changed a setting.

        The environment and the current folder do not count where the test has pytest's
        `monkeypatch`, which restores them when the test is torn down.
        """
        if not is_benchmark(item) or not isinstance(item, pytest.Function):
            return (yield)
        before = ProcessState.capture()
        try:
            result = yield
            if changes := before.changes("monkeypatch" not in item.fixturenames):
                raise ProcessStateChanged(f"the cell changed {', '.join(changes)}")
        except BaseException:
            before.restore()
            raise
        return result
