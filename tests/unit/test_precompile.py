"""Compiling ahead: stamps, plugins, and what a run says about it."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskbench.suite import kernel_cache, precompile
from maskbench.suite.precompile import CompileResult, compile_cell
from maskbench.suite.requested_masks import MaskRequest
from tests.unit import compile_tasks
from tests.unit.compile_tasks import CAUSAL, WORKLOAD, task
from tests.unit.compiling_plugin import PluginMask
from tests.unit.pytest_process import pytest_inline, pytest_run, strict_json

cache = compile_tasks.cache

NO_MASKS = MaskRequest(())


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_stamp_that_cannot_be_written_is_a_line(cache, monkeypatch, error):
    def refuse(path, text):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    line = precompile._record(task("dense"), CompileResult(True, "compiled"))
    assert line.startswith("its stamp cannot be written: ")
    assert os.strerror(error) in line


def test_another_environments_torch_is_compiled_for_again(cache, monkeypatch):
    kernel_cache.environment_fingerprint.cache_clear()
    here = kernel_cache.stamp_path(WORKLOAD, CAUSAL, "dense")
    monkeypatch.setattr("torch.__file__", "/elsewhere/torch/__init__.py")
    kernel_cache.environment_fingerprint.cache_clear()
    elsewhere = kernel_cache.stamp_path(WORKLOAD, CAUSAL, "dense")
    kernel_cache.environment_fingerprint.cache_clear()
    assert here != elsewhere


def test_a_stamp_depends_on_the_files_of_mask_and_backend(cache, tmp_path, monkeypatch):
    file = tmp_path / "plugin.py"
    file.write_text("first version")
    monkeypatch.setattr("tests.unit.compiling_plugin.__file__", str(file))
    before = kernel_cache.stamp_path(WORKLOAD, PluginMask(seq_len=256), "dense")
    other = kernel_cache.stamp_path(WORKLOAD, CAUSAL, "dense")
    file.write_text("second version")
    assert kernel_cache.stamp_path(WORKLOAD, PluginMask(seq_len=256), "dense") != before
    assert kernel_cache.stamp_path(WORKLOAD, CAUSAL, "dense") == other


def test_an_exception_of_a_cell_is_sent_as_text(cache, monkeypatch):
    monkeypatch.setattr("tests.unit.compiling_plugin.in_worker", lambda: True)
    assert compile_cell(task("failing")) == CompileResult(
        False, "UnpicklableError: compilation failed"
    )
    assert compile_cell(task("dense")) == CompileResult(True, "compiled")
    assert compile_cell(task("unsupporting")) == CompileResult(True, "unsupported: takes no mask")


@pytest.fixture(scope="module")
def plugin_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with the plugin's mask and backends, in an empty cache folder."""
    folder = tmp_path_factory.mktemp("plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        text = pytest_run(
            *("-p", "tests.unit.compiling_plugin", "--device", "cpu", "--jobs", 2),
            *("--backends", "dying,failing,recording,sdpa", "--masks", "plugin_mask"),
            *("--seq-lens", 256, "--benchmark-max-time=0.01"),
            *(f"--benchmark-json={folder / 'run.json'}", "tests/test_forward.py"),
        )
    return SimpleNamespace(text=text, cache=folder, saved=strict_json(folder / "run.json"))


def test_a_plugins_mask_and_backends_are_compiled_by_the_workers(plugin_run):
    recorded = (plugin_run.cache / "recorded").read_text().splitlines()
    assert recorded == ["PluginMask in worker", "PluginMask in timing process"]
    (stamp,) = (plugin_run.cache / "maskbench").iterdir()  # of three cells that compile
    assert stamp.read_text() == "compiled"


def test_a_dead_workers_cell_is_compiled_where_it_is_timed(plugin_run):
    line = "compiled in the timing process: plugin_mask dying forward S=256: its worker died"
    assert f"maskbench: {line} (exit code 7)" in plugin_run.text
    backends = [bench["extra_info"]["backend"] for bench in plugin_run.saved["benchmarks"]]
    assert backends == ["dying", "failing", "recording", "sdpa"]


def test_the_workers_clean_up(plugin_run):
    assert "leaked" not in plugin_run.text


def test_the_time_of_a_run_is_broken_down(plugin_run):
    assert "maskbench: where the time went" in plugin_run.text
    seconds = plugin_run.saved["maskbench"]["seconds"]
    assert {"compile ahead", "compile", "check", "time", "other", "total"} == seconds.keys()
    parts = sum(s for stage, s in seconds.items() if stage != "total")
    assert parts == pytest.approx(seconds["total"])


def test_a_broken_test_file_is_reported_before_minutes_of_compiling(tmp_path):
    broken = tmp_path / "test_broken.py"
    broken.write_text("import no_such_module")
    few = ("--backends", "flex", "--masks", "causal", "--seq-lens", 256, "--device", "cpu")
    text = pytest_inline(*few, "tests/test_forward.py", broken, expect=2)
    assert "No module named 'no_such_module'" in text
    assert "compiling ahead" not in text


def test_cells_that_cannot_run_are_not_compiled_ahead():
    few = ("--backends", "sdpa,flex", "--masks", "causal", "--seq-lens", 64, "--device", "cpu")
    text = pytest_inline("--benchmark-only", *few, "tests/test_backward.py")
    assert "1 more will be skipped" in text  # flex has no backward on a CPU
    assert "compiling ahead" not in text


@pytest.mark.slow
def test_the_timing_process_compiles_nothing_again(cache):
    """It finds the workers' kernels: cache keys include torch's settings of float32 precision."""
    assert precompile.precompile([task("flex")], 1, NO_MASKS) == []
    compiled = sorted(cache.rglob("*"))
    few = ("--masks", "causal", "--backends", "flex", "--seq-lens", 256, "--device", "cpu")
    few = (*few, "--heads", 2, "--head-dim", 16, "tests/test_forward.py")
    text = pytest_run("--benchmark-only", *few)
    assert "1/1" in text, "the worker's stamp was found"
    assert sorted(cache.rglob("*")) == compiled
