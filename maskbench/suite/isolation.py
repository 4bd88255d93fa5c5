"""A pytest plugin that restores the settings of the process after each benchmark."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.suite.collection import is_benchmark
from maskbench.suite.process_state import ProcessState, ProcessStateChanged, same_random_state


def void_time(funcargs: dict[str, object]) -> None:
    """Void the time of a test that failed.

    pytest-benchmark saves no time of a fixture with an error. But its table, its histogram and
    --benchmark-compare-fail use the rounds that were recorded before the error, so these go.
    """
    benchmark = funcargs.get("benchmark")
    if isinstance(benchmark, BenchmarkFixture):
        benchmark.has_error = True
        if benchmark.stats is not None:
            benchmark.stats.stats.data.clear()


class CellIsolation:
    """Fails a benchmark that changes a setting, restores it, and voids times of failed tests."""

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
        """Fail a benchmark that changed a setting; a failed benchmark has no time.

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
            void_time(item.funcargs)
            before.restore()
            raise
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """A benchmark whose fixtures fail when they are torn down has no time either."""
        funcargs = dict(item.funcargs) if isinstance(item, pytest.Function) else {}
        try:
            return (yield)
        except BaseException:
            void_time(funcargs)
            raise
