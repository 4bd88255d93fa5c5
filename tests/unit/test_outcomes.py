"""A cell is timed or it is not, never both, however it ends and however often it is tried."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from maskbench.suite import targets
from maskbench.suite.error_text import describe_error
from maskbench.timing import runner
from tests.unit.pytest_process import run_inline, strict_json
from tests.unit.saving_plugin import GRID, SIZE, FailingCells, Reruns

# Benchmarks that end in every way. They are a user's own, not cells.
ENDS = '''
import pytest

class Calls:
    """A function that raises an error in its third round."""
    def __init__(self, error):
        self.error, self.number = error, 0
    def __call__(self):
        self.number += 1
        if self.number == 3:
            raise self.error

def time(benchmark, error=None):
    benchmark.pedantic(Calls(error) if error else lambda: None, rounds=5)

@pytest.fixture
def broken(benchmark):
    raise OSError("no setup")

@pytest.fixture
def leaking(benchmark):
    yield
    raise OSError("no teardown")

def test_timed(benchmark): time(benchmark)
def test_asked_for(request): time(request.getfixturevalue("benchmark"))
def test_rounds(benchmark): time(benchmark, RuntimeError("third round\\nmore"))
def test_exit(benchmark): time(benchmark, SystemExit(3))
def test_caught(benchmark):
    with pytest.raises(ValueError):
        time(benchmark, ValueError())
def test_later(benchmark):
    time(benchmark)
    assert False, "a later check"
def test_setup(broken, benchmark): time(benchmark)
def test_teardown(leaking, benchmark): time(benchmark)
def test_both(leaking, benchmark): time(benchmark, RuntimeError("in the call"))
def test_unused(benchmark): pass
def test_skip_inside(benchmark):
    time(benchmark)
    pytest.skip("not here")
@pytest.mark.skip(reason="by a mark")
def test_skip_mark(benchmark): time(benchmark)
@pytest.mark.xfail(reason="known")
def test_xfail(benchmark): time(benchmark, RuntimeError("as known"))
def test_xfail_inside(benchmark):
    time(benchmark)
    pytest.xfail("gives up")
@pytest.mark.xfail(strict=True)
def test_strict_xpass(benchmark): time(benchmark)
@pytest.mark.xfail
def test_xpass(benchmark): time(benchmark)
def test_twice(benchmark):
    time(benchmark)
    time(benchmark)
class Odd(Exception):
    def __str__(self): raise TypeError
def test_odd_error(benchmark): raise Odd
'''
TIMED = {"timed", "asked_for", "xpass"}
UNTIMED = {
    "rounds": ("failed", "RuntimeError: third round"),
    "exit": ("failed", "SystemExit: 3"),
    "caught": ("failed", "the benchmark raised an error, which the test caught"),
    "later": ("failed", "AssertionError: a later check"),
    "setup": ("failed", "OSError: no setup (in the setup)"),
    "teardown": ("failed", "OSError: no teardown (in the teardown)"),
    "both": ("failed", "RuntimeError: in the call"),
    "unused": ("skipped", "the test passed, but it timed nothing"),
    "skip_inside": ("skipped", "not here"),
    "skip_mark": ("skipped", "by a mark"),
    "xfail": ("failed", "RuntimeError: as known (expected to fail: known)"),
    "strict_xpass": ("failed", "[XPASS(strict)]"),
    "odd_error": ("failed", "Odd: its message raised TypeError"),
}


class Watcher:
    """Keeps what the suite's plugins know at the end, and the groups of the tables."""

    def __init__(self):
        self.records = []

    def pytest_sessionstart(self, session):
        saver = session.config.pluginmanager.get_plugin("maskbench-saving")
        self.outcomes = saver.outcomes
        saver.outcomes.finished = self.records.append

    @pytest.hookimpl(wrapper=True)
    def pytest_benchmark_group_stats(self):
        self.groups = yield
        return self.groups


@pytest.fixture(scope="module", params=["once", "rerun"])
def ends(request, tmp_path_factory):
    """A run of `ENDS`; in the second one each item is tried twice."""
    folder, watcher = tmp_path_factory.mktemp("ends"), Watcher()
    file = folder / f"test_ends_{request.param}.py"  # pytest imports a name only once
    file.write_text(ENDS)
    saved = ("--benchmark-json=run.json", "--benchmark-save=name", "--benchmark-storage=storage")
    rerun = (Reruns(always=True),) if request.param == "rerun" else ()
    status, text = run_inline(
        *("-p", "maskbench.plugin", *saved, file.name),
        plugins=(watcher, *rerun),
        folder=folder,
    )
    assert status == 1, text
    (stored,) = (folder / "storage").rglob("*.json")
    return SimpleNamespace(
        text=text,
        watcher=watcher,
        attempts=len(rerun) + 1,
        saved=[strict_json(path) for path in (folder / "run.json", stored)],
    )


def name(fullname):
    return fullname.partition("::test_")[2]


def test_only_what_passed_is_timed(ends):
    for saved in ends.saved:
        names = [name(bench["fullname"]) for bench in saved["benchmarks"]]
        assert sorted(names) == sorted(TIMED)
    tables = [bench for _, group in ends.watcher.groups for bench in group]
    assert sorted(name(bench["fullname"]) for bench in tables) == sorted(TIMED)


def test_the_others_have_an_outcome_and_its_reason(ends):
    found = {
        name(fullname): (fields["outcome"], fields["reason"])
        for fullname, fields in ends.watcher.outcomes.untimed.items()
    }
    assert {key: found.get(key) for key in UNTIMED} == UNTIMED
    assert found["xfail_inside"] == ("failed", "XFailed: gives up (expected to fail: gives up)")
    assert found["twice"][1].startswith("FixtureAlreadyUsed: Fixture can only be used once.")
    assert found.keys() == {*UNTIMED, "xfail_inside", "twice"}


def test_each_finished_attempt_is_passed_on_once(ends):
    names = [record.get("benchmark", record)["fullname"] for record in ends.watcher.records]
    assert len(names) == ends.attempts * len(set(names))
    assert {name(n) for n in names} == TIMED | UNTIMED.keys() | {"xfail_inside", "twice"}
    for record in ends.watcher.records:
        assert ("benchmark" in record) == (
            name(record.get("benchmark", record)["fullname"]) in TIMED
        )
        if "benchmark" in record:
            assert len(record["benchmark"]["stats"]["data"]) == 5


def test_the_number_of_attempts_is_saved_if_there_were_several(ends):
    expected = 2 if ends.attempts == 2 else None
    for bench in ends.saved[0]["benchmarks"]:
        assert bench["extra_info"].get("attempts") == expected
    for fields in ends.watcher.outcomes.untimed.values():
        assert fields.get("attempts") == expected


def test_every_planned_benchmark_has_a_result(ends):
    suite = ends.saved[0]["maskbench"]
    assert (suite["not_run"], suite["interrupted"]) == ([], None)
    assert suite["planned"] == len(TIMED | UNTIMED.keys()) + 1  # less the one asked for at run time


# --- cells ---


CELL_ENDS = {
    ("setup", "causal-sdpa"): RuntimeError("no setup"),
    ("after timing", "causal-dense"): RuntimeError("late"),
    ("teardown", "full-sdpa"): RuntimeError("no teardown"),
}


def run_cells(path, *plugins, arguments=()):
    status, text = run_inline(
        f"--benchmark-json={path}", *GRID, *arguments, "tests/test_forward.py", plugins=plugins
    )
    saved = strict_json(path)
    timed = {
        b["extra_info"]["mask"] + "-" + b["extra_info"]["backend"]: b["extra_info"]
        for b in saved["benchmarks"]
    }
    assert len(timed) == len(saved["benchmarks"])
    untimed = {f"{c['mask']}-{c['backend']}": c for c in saved["maskbench"]["untimed"]}
    assert not timed.keys() & untimed.keys()
    return SimpleNamespace(status=status, text=text, timed=timed, untimed=untimed)


@pytest.mark.parametrize("rerun", [False, True])
def test_a_failed_cell_is_saved_as_such_whichever_phase_failed(rerun, tmp_path):
    plugins = (FailingCells(CELL_ENDS), *([Reruns()] if rerun else []))
    run = run_cells(tmp_path / "run.json", *plugins)
    assert run.status == 1
    assert run.timed.keys() == {"full-dense"}
    reasons = {key: cell["reason"] for key, cell in run.untimed.items()}
    assert reasons == {
        "causal-sdpa": "RuntimeError: no setup (in the setup)",
        "causal-dense": "RuntimeError: late",
        "full-sdpa": "RuntimeError: no teardown (in the teardown)",
    }
    assert {cell["outcome"] for cell in run.untimed.values()} == {"failed"}
    assert {cell.get("attempts") for cell in run.untimed.values()} == {2 if rerun else None}
    table = run.text.partition("Name (time")[2]
    assert "full-dense" in table
    assert f"causal-dense-{SIZE}]   " not in table


def test_a_cell_with_a_field_that_no_report_could_read_fails(tmp_path, monkeypatch):
    """One such cell made a run of 15 minutes unreadable."""
    measure = runner.measure
    monkeypatch.setattr(
        runner, "measure", lambda *arguments: {**measure(*arguments), "peak_memory_bytes": -1}
    )
    run = run_cells(tmp_path / "run.json")
    assert (run.status, len(run.timed), len(run.untimed)) == (1, 0, 4)
    (reason,) = {cell["reason"] for cell in run.untimed.values()}
    assert reason.startswith("ValueError: a measured field is invalid: Expected `int` >= 0 - at")
    assert "peak_memory_bytes" in reason


def test_numbers_of_numpy_are_readable(tmp_path, monkeypatch):
    """They are written as plain numbers, and NaN as null."""
    measure = runner.measure
    fields = {"cycles": np.float64(1e6), "two_modes": np.bool_(False), "call_clock_mhz": np.nan}
    monkeypatch.setattr(runner, "measure", lambda *given: {**measure(*given), **fields})
    run = run_cells(tmp_path / "run.json")
    assert (run.status, len(run.timed)) == (0, 4)
    (cell, *_) = run.timed.values()
    assert {name: cell[name] for name in fields} == {**fields, "call_clock_mhz": None}


@pytest.mark.parametrize("ending", CELL_ENDS)
def test_a_cell_that_passes_when_it_is_run_again_is_timed(ending, tmp_path):
    plugins = FailingCells({ending: CELL_ENDS[ending]}, always=False), Reruns()
    run = run_cells(tmp_path / "run.json", *plugins)
    assert run.status == 0
    assert not run.untimed
    attempts = {key: info.get("attempts") for key, info in run.timed.items()}
    assert attempts == {
        **dict.fromkeys(("causal-sdpa", "causal-dense", "full-sdpa", "full-dense")),
        ending[1]: 2,
    }


def test_a_cell_that_fails_when_it_is_run_again_is_not_timed(tmp_path):
    class FailsLater(FailingCells):
        calls = 0

        def _raise(self, phase, item):
            if phase == "after timing" and "full-sdpa" in item.nodeid:
                self.calls += 1
                if self.calls == 2:
                    raise RuntimeError("the second time")

    run = run_cells(tmp_path / "run.json", FailsLater({}), Reruns(always=True))
    assert run.untimed["full-sdpa"]["reason"] == "RuntimeError: the second time"
    assert len(run.timed) == 3


def test_benchmark_disable_says_that_nothing_was_timed(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("older")
    run = run_cells(path, arguments=["--benchmark-disable"])
    assert run.status == 0
    assert not run.timed
    assert {cell["reason"] for cell in run.untimed.values()} == {
        "ran once: benchmarks are disabled"
    }


def test_a_failed_cell_is_in_no_histogram_and_no_comparison(tmp_path, monkeypatch):
    drawn = []
    histogram = SimpleNamespace(
        make_plot=lambda benchmarks, title, adjustment: SimpleNamespace(
            render=lambda is_unicode: drawn.append(benchmarks) or f"<svg>{title}</svg>"
        )
    )
    monkeypatch.setitem(sys.modules, "pytest_benchmark.histogram", histogram)
    monkeypatch.setattr(targets, "find_spec", lambda name: True)
    storage = (f"--benchmark-storage={tmp_path}", "--benchmark-autosave")
    run_cells(tmp_path / "first.json", arguments=storage)
    failing = FailingCells({("after timing", "sdpa"): RuntimeError("late")})
    plots = f"--benchmark-histogram={tmp_path / 'new' / 'plot'}"
    compare = ("--benchmark-compare", "--benchmark-compare-fail=min:900000%")
    run = run_cells(tmp_path / "second.json", failing, arguments=[*storage, plots, *compare])
    assert run.status == 1
    assert "PerformanceRegression" not in run.text
    backends = [[b["extra_info"]["backend"] for b in group] for group in drawn]
    assert backends == [["dense", "dense"]] * 2  # the older one and this one
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["plot-causal_forward_256.svg", "plot-full_forward_256.svg"]
    assert "<svg>Speed in " in (tmp_path / "new" / names[0]).read_text()
    assert run.text.count("Generated histogram: ") == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError: "),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 986),
    ],
)
def test_an_error_is_described_in_one_line(error, text):
    assert describe_error(error) == text
