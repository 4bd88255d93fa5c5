"""A cell is timed or it is not, never both, however it ends and however often it is tried."""

from types import SimpleNamespace

import pytest

from maskbench.suite.error_text import describe_error
from tests.unit.pytest_process import run_inline, strict_json
from tests.unit.saving_plugin import Reruns

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
