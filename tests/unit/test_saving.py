"""What a run saves when it ends early, and when it times nothing."""

import pytest

from maskbench.records import FORMAT
from tests.unit.pytest_process import run_inline
from tests.unit.saving_plugin import (
    CELLS,
    FORWARD,
    GRID,
    KEEPS_OLDER_FILES,
    FailingCells,
    save,
    timed,
)

# --- runs that end early ---


class StopsSession:
    """Sets session.shouldstop or shouldfail after the second cell."""

    def __init__(self, attribute):
        self.attribute = attribute

    def pytest_runtest_logfinish(self, nodeid):
        if nodeid == CELLS[1]:
            setattr(self.session, self.attribute, "the disk is hot")

    def pytest_sessionstart(self, session):
        self.session = session


def in_third(phase, error):
    return FailingCells({(phase, "full-sdpa"): error})


class BreaksPytest:
    """Raises an error in a hook after the second cell."""

    def pytest_runtest_logfinish(self, nodeid):
        if nodeid == CELLS[1]:
            raise OSError("a plugin is broken")


@pytest.mark.parametrize(
    ("plugin", "arguments", "not_run", "reason", "status"),
    [
        (in_third("after timing", KeyboardInterrupt()), (), 2, "KeyboardInterrupt", 2),
        (in_third("setup", KeyboardInterrupt("SIGTERM")), (), 2, "SIGTERM", 2),
        (in_third("teardown", KeyboardInterrupt()), (), 2, "KeyboardInterrupt", 2),
        (in_third("call", pytest.exit.Exception("enough", 7)), (), 2, "enough", 7),
        (in_third("call", RuntimeError("x")), ("-x",), 1, "stopping after 1 failures", 1),
        (in_third("setup", OSError("x")), ("--maxfail=1",), 1, "stopping after 1 failures", 1),
        (StopsSession("shouldstop"), (), 2, "the disk is hot", 2),
        (StopsSession("shouldfail"), (), 2, "the disk is hot", 1),
        (BreaksPytest(), (), 2, "internal error: OSError: a plugin is broken", 3),
    ],
)
def test_a_run_that_ends_early_says_so(plugin, arguments, not_run, reason, status, tmp_path):
    run = save(tmp_path, *arguments, plugins=(plugin,))
    assert run.status == status
    for saved in (run.saved, *run.stored):
        assert timed(saved) == CELLS[:2]
        suite = saved["maskbench"]
        assert (suite["planned"], suite["pieces"]) == (4, 1)
        assert suite["not_run"] == CELLS[4 - not_run :]
        assert suite["interrupted"] == reason
    assert len(run.stored) == 1
    if status in (1, 2):  # with others pytest prints no summary
        assert f"maskbench: {not_run} of 4 cells were not run: {reason}" in run.text
        table = run.text.partition("Name (time in")[2].partition("Legend:")[0]
        assert "causal-sdpa" in table
        assert "full-sdpa" not in table


def test_a_failure_in_the_last_cell_leaves_a_whole_run(tmp_path):
    plugin = FailingCells({("call", "full-dense"): RuntimeError("x")})
    suite = save(tmp_path, "-x", plugins=(plugin,)).saved["maskbench"]
    assert (suite["planned"], suite["not_run"], suite["interrupted"]) == (4, [], None)
    assert [cell["outcome"] for cell in suite["untimed"]] == ["failed"]


def test_an_undisturbed_run_is_whole(tmp_path):
    run = save(tmp_path)
    assert run.status == 0
    assert "were not run" not in run.text
    for saved in (run.saved, *run.stored):
        assert timed(saved) == CELLS
        suite = saved["maskbench"]
        assert (suite["format"], suite["interrupted"], suite["not_run"]) == (FORMAT, None, [])
        assert suite["planned"] == 4
    assert f"Wrote benchmark data in: {run.path}" in run.text
    assert "Saved benchmark data in: " in run.text


# --- runs that time nothing ---


@pytest.mark.parametrize(
    ("arguments", "plugin", "tests", "reason", "status"),
    [
        (("--backends=sdpa_flash", "--masks=prefix_lm"), None, (FORWARD,), None, 0),
        ((), FailingCells({("call", ""): RuntimeError("x")}), (FORWARD,), None, 1),
        ((), FailingCells({("setup", ""): RuntimeError("x")}), (FORWARD,), None, 1),
        (("-k", "nothing"), None, (FORWARD,), "no benchmark was selected", 5),
        (("--benchmark-skip",), None, (FORWARD,), "no benchmark was selected", 5),
        (("--benchmark-disable",), None, (FORWARD,), None, 0),
        ((), None, (FORWARD, "broken"), "1 error during collection", 2),
    ],
)
def test_a_run_that_times_nothing_replaces_the_older_file(
    arguments, plugin, tests, reason, status, tmp_path
):
    (tmp_path / "run.json").write_text('{"benchmarks": ["older"]}')
    broken = tmp_path / "test_broken_import.py"
    broken.write_text("import a_module_that_is_missing")
    files = [broken if test == "broken" else test for test in tests]
    run = save(tmp_path, *arguments, tests=files, plugins=(plugin,) if plugin else ())
    assert run.status == status
    assert run.saved["benchmarks"] == []
    suite = run.saved["maskbench"]
    assert suite["interrupted"] == reason
    assert len(suite["untimed"]) + len(suite["not_run"]) == suite["planned"]
    assert bool(suite["untimed"]) == (reason is None)
    assert run.stored == []  # a later comparison would find nothing in it
    assert "Nothing saved in: " in run.text


@KEEPS_OLDER_FILES
@pytest.mark.parametrize(
    "arguments",
    [("--collect-only",), ("--device=tpu",), ("a_file_that_is_missing.py",), ("--version",)],
)
def test_a_run_that_does_not_begin_changes_nothing(arguments, tmp_path):
    path = tmp_path / "run.json"
    path.write_text("older")
    run_inline(f"--benchmark-json={path}", *GRID, *arguments, FORWARD)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_during_collection_are_saved_where_the_rest_is_timed(tmp_path):
    broken = tmp_path / "test_broken_too.py"
    broken.write_text("1 / 0")
    run = save(tmp_path, "--continue-on-collection-errors", tests=(FORWARD, broken))
    assert run.status == 1
    assert timed(run.saved) == CELLS
    assert run.saved["maskbench"]["interrupted"] == "1 error during collection"
