"""What a run saves when it ends early, when it times nothing, and when a target fails."""

import errno
import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest

from maskbench.records import FORMAT
from maskbench.suite import saving, targets
from maskbench.suite.targets import Storage
from tests.unit.pytest_process import strict_json
from tests.unit.saving_plugin import (
    GRID,
    KEEPS_OLDER_FILES,
    SIZE,
    FailingCells,
    no_space,
    run_inline,
)

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
        (("--backends=sdpa_cudnn",), None, (FORWARD,), None, 0),
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


# --- targets that fail ---


class Removes:
    """Puts something in the way of the targets while the last cell is timed."""

    def __init__(self, folder):
        self.folder = folder

    def pytest_runtest_logfinish(self, nodeid):
        if nodeid == CELLS[-1]:
            (self.folder / "run.json").mkdir()
            shutil.rmtree(self.folder / "storage")
            (self.folder / "storage").touch()


@KEEPS_OLDER_FILES
def test_targets_that_become_unwritable_are_named(tmp_path):
    status, text = run_inline(
        *(f"--benchmark-json={tmp_path / 'run.json'}", "--benchmark-autosave"),
        *(f"--benchmark-storage={tmp_path / 'storage'}", *GRID, FORWARD),
        plugins=(Removes(tmp_path),),
    )
    assert status == 1
    assert f"could not save {tmp_path / 'run.json'}: Is a directory" in text
    assert re.search(rf"could not save {tmp_path / 'storage'}/.*: Not a directory", text)
    assert text.count("Name (time in") == 2


@KEEPS_OLDER_FILES
@pytest.mark.parametrize(
    ("failing", "number"),
    [("json", errno.ENOSPC), ("storage", errno.EIO), ("both", errno.EDQUOT)],
)
def test_a_target_that_fails_does_not_stop_the_others(failing, number, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text('"older"')

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    if failing != "storage":
        monkeypatch.setattr(saving, "write_whole", fail)
    if failing != "json":
        monkeypatch.setattr(Storage, "save", fail)
    run = save(tmp_path)
    assert run.status == 1
    assert (run.saved == "older") == (failing != "storage")
    assert len(run.stored) == (failing == "json")
    failed = {"json": [path], "storage": ["storage"], "both": [path, "storage"]}[failing]
    for target in failed:
        line = f"could not save .*{target}.*: {os.strerror(number)}"
        assert re.search(line, run.text)
    assert run.text.count("Name (time in") == 2
    assert "4 passed" in run.text
    assert "Traceback" not in run.text


def test_a_histogram_that_fails_leaves_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: True)
    monkeypatch.setattr(saving, "draw_histogram", no_space)
    run = save(tmp_path, f"--benchmark-histogram={tmp_path / 'plot'}")
    assert run.status == 1
    assert timed(run.saved) == CELLS
    assert run.text.count("Name (time in") == 2
    problem = "the histogram of causal forward 256: No space left on device"
    assert f"maskbench: could not save {problem}" in run.text


class AddsStrangeValues:
    def pytest_benchmark_update_json(self, output_json):
        for bench in output_json["benchmarks"]:
            bench["extra_info"] |= {"nan": float("nan"), "key": {(1, 2): {3}}, "text": "\udcff"}


def test_values_that_are_not_json_do_not_lose_the_run(tmp_path):
    run = save(tmp_path, plugins=(AddsStrangeValues(),))
    assert run.status == 0
    for saved in (run.saved, *run.stored):
        info = saved["benchmarks"][0]["extra_info"]
        assert (info["nan"], info["text"]) == (None, "?")
        assert info["key"] == {"UNSERIALIZABLE[(1, 2)]": [3]}


class BrokenHooks:
    def _raise(self):
        raise ValueError("a broken hook")

    pytest_benchmark_update_json = _raise
    pytest_benchmark_update_machine_info = _raise
    pytest_benchmark_update_commit_info = _raise


class BrokenSources:
    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self):
        raise ValueError("a broken hook")

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_commit_info(self):
        raise ValueError("a broken hook")


@pytest.mark.parametrize("plugin", [BrokenHooks(), BrokenSources()])
def test_a_hook_that_raises_does_not_lose_the_run(plugin, tmp_path):
    run = save(tmp_path, plugins=(plugin,))
    assert run.status == 1
    assert "ValueError: a broken hook" in run.text
    assert run.text.count("Name (time in") == 2
    for saved in (run.saved, *run.stored):
        assert timed(saved) == CELLS
        assert saved["maskbench"]["planned"] == 4
        assert saved["machine_info"]["device"] == "cpu"
        assert "triton" in saved["commit_info"]


class UsersHooks:
    def pytest_benchmark_update_machine_info(self, machine_info):
        machine_info["rack"] = 7

    def pytest_benchmark_update_commit_info(self, commit_info):
        commit_info["branch"] = "mine"

    def pytest_benchmark_update_json(self, benchmarks, output_json):
        output_json["number"] = len(benchmarks)


def test_the_hooks_of_users_are_called(tmp_path):
    run = save(tmp_path, plugins=(UsersHooks(),))
    for saved in (run.saved, *run.stored):
        assert saved["machine_info"]["rack"] == 7
        assert saved["commit_info"]["branch"] == "mine"
        assert saved["number"] == 4


def test_times_of_rounds_are_saved_as_asked_for(tmp_path):
    """pytest.ini has --benchmark-save-data, which is for the storage; --benchmark-json has all."""
    run = save(tmp_path, "-o", "addopts=")
    assert all(bench["stats"]["data"] for bench in run.saved["benchmarks"])
    assert not any("data" in bench["stats"] for bench in run.stored[0]["benchmarks"])
    same = json.loads(json.dumps(run.saved["benchmarks"][0]["stats"]))
    del same["data"]
    assert same == run.stored[0]["benchmarks"][0]["stats"]
