"""What a run saves when a target, a value or a hook fails."""

import errno
import json
import os
import re
import shutil

import pytest

from maskbench.suite import saving, targets
from maskbench.suite.targets import Storage
from tests.unit.pytest_process import run_inline
from tests.unit.saving_plugin import (
    CELLS,
    FORWARD,
    GRID,
    KEEPS_OLDER_FILES,
    no_space,
    save,
    timed,
)


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
