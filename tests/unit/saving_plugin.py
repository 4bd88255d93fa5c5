"""Plugins that a test gives to `run_inline`, and a small grid whose run is saved in many ways."""

from __future__ import annotations

import argparse
import errno
import os
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from _pytest.runner import runtestprotocol  # as pytest-rerunfailures does

from tests.unit.pytest_process import run_inline, strict_json

# Four cells, each of them small: causal-sdpa, causal-dense, full-sdpa, full-dense.
GRID = (
    *("--device=cpu", "--masks=causal,full", "--seq-lens=256", "--backends=sdpa,dense"),
    *("--heads=1", "--head-dim=16", "--benchmark-max-time=0.005", "--benchmark-min-rounds=5", "-q"),
)
KEEPS_OLDER_FILES = pytest.mark.skipif(
    tuple(map(int, version("pytest-benchmark").split(".")[:2])) < (5, 3),
    reason="it empties the file when it reads its options",
)
SIZE = "s256-b1h1d16-float32"
FORWARD = "tests/test_forward.py"
CELLS = [
    f"{FORWARD}::test_forward[{mask}-{backend}-{SIZE}]"
    for mask in ("causal", "full")
    for backend in ("sdpa", "dense")
]


def save(folder, *arguments, plugins=(), tests=(FORWARD,)):
    """Run the grid into run.json and the storage; returns status, output and what was saved."""
    path, storage = folder / "run.json", folder / "storage"
    status, text = run_inline(
        *(f"--benchmark-json={path}", f"--benchmark-storage={storage}", "--benchmark-save=name"),
        *(*GRID, *arguments, *tests),
        plugins=plugins,
    )
    stored = [strict_json(file) for file in sorted(storage.rglob("*.json"))]
    return SimpleNamespace(
        status=status, text=text, path=path, stored=stored, saved=strict_json(path)
    )


def timed(saved):
    return [bench["fullname"] for bench in saved["benchmarks"]]


def options(**given):
    """A configuration with pytest-benchmark's defaults, and `given`."""
    defaults = {
        **{"benchmark_json": None, "benchmark_save": None, "benchmark_autosave": None},
        **{"benchmark_storage": "file://./.benchmarks", "benchmark_histogram": []},
        **{"benchmark_compare": [], "benchmark_compare_fail": [], "benchmark_cprofile_dump": []},
    }
    return SimpleNamespace(option=argparse.Namespace(**defaults | given))


class Reruns:
    """Runs each item that fails once more, as pytest-rerunfailures does.

    `always` reruns what passes, too.
    """

    def __init__(self, always: bool = False) -> None:
        self.always = always

    def pytest_runtest_protocol(self, item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for last in (False, True):
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if last or not (self.always or any(report.failed for report in reports)):
                break
            item._initrequest()
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


class FailingCells:
    """Makes cells end in many ways: `raise_in` has (phase, part of the node id) -> error.

    An error is raised once; one that is to be raised at each attempt is given with `always`.
    """

    def __init__(self, raise_in, always: bool = True) -> None:
        self.raise_in, self.always = dict(raise_in), always

    def _raise(self, phase: str, item: pytest.Item) -> None:
        for (where, part), error in list(self.raise_in.items()):
            if where == phase and part in item.nodeid:
                if not self.always:
                    del self.raise_in[where, part]
                raise error

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self, item):
        self._raise("setup", item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self._raise("call", item)
        result = yield
        self._raise("after timing", item)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        result = yield
        self._raise("teardown", item)
        return result


def no_space(*arguments: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
