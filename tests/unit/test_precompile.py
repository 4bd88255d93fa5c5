"""Compiling ahead: in workers, with progress, and no cell stops the others."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from maskbench.backends import registry
from maskbench.masks import Causal, Mask
from maskbench.records import Phase
from maskbench.suite import kernel_cache, precompile
from maskbench.suite.precompile import CompileResult, CompileTask, compile_cell, is_compiled
from maskbench.suite.workload import Shape, Workload
from tests.unit.compiling_plugin import SPECS, PluginMask, UnpicklableMask
from tests.unit.pytest_process import pytest_inline, pytest_run, strict_json

WORKLOAD = Workload("causal", 256, Shape(1, 2, 2, 16), "float32", "cpu", Phase.FORWARD)
CAUSAL = Causal(seq_len=256)


def task(variant: str, mask: Mask = CAUSAL) -> CompileTask:
    return CompileTask(WORKLOAD, mask, variant)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and the plugin's backends."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for spec in SPECS:
        monkeypatch.setitem(registry.BACKENDS, spec.name, spec)
    registry._import_backend.cache_clear()
    yield folder
    registry._import_backend.cache_clear()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[CompileTask]:
    """The tasks for which workers would be started from now on; none is."""
    tasks: list[CompileTask] = []
    monkeypatch.setattr(
        precompile, "_compile_in_workers", lambda cold, jobs, bar: tasks.extend(cold) or []
    )
    return tasks


@pytest.fixture
def unimportable_mask(monkeypatch: pytest.MonkeyPatch) -> Mask:
    """A mask whose class a worker cannot import."""
    module = ModuleType("module_of_this_process")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.Local = type("Local", (Causal,), {"__module__": module.__name__})
    return module.Local(seq_len=256)


def test_a_worker_that_fails_stops_no_other_cell(
    cache, capsys, request, monkeypatch, unimportable_mask
):
    lost = [task("dying"), task("recording", UnpicklableMask(seq_len=256))]
    lost.append(task("recording", unimportable_mask))
    done = [task("recording", PluginMask(seq_len=256)), task("unsupporting"), task("recording")]
    failed = [task("failing")]
    failures = sorted(precompile.precompile([*lost, *failed, *done], 2))
    assert failures[0] == "causal dying forward S=256: its worker died (exit code 7)"
    assert failures[1].startswith("causal recording forward S=256: it cannot be sent to a worker (")
    reason = "its worker cannot load it (No module named 'module_of_this_process')"
    assert failures[2] == f"causal recording forward S=256: {reason}"
    assert len(failures) == 3, "the timing process meets the exception of the cell itself"
    assert "compiling ahead: 100%" in capsys.readouterr().err
    recorded = sorted((cache / "recorded").read_text().splitlines())
    assert recorded == ["Causal in worker", "PluginMask in worker"]

    # A later run sends what no worker finished, and nothing else.
    assert [t for t in [*lost, *failed, *done] if is_compiled(t)] == done
    contents = sorted(stamp.read_text() for stamp in (cache / "maskbench").iterdir())
    assert contents == ["compiled", "compiled", "unsupported: takes no mask"]
    sent = request.getfixturevalue("sent")
    precompile.precompile([*done, *lost, *failed], 2)
    assert sent == [*lost, *failed]
    assert "3/7" in capsys.readouterr().err

    # With another torch everything is compiled again.
    sent.clear()
    monkeypatch.setattr(kernel_cache, "environment_fingerprint", lambda: "another torch")
    precompile.precompile(done, 2)
    assert sent == done


@pytest.mark.slow
def test_a_worker_that_hangs_is_stopped(cache, monkeypatch):
    monkeypatch.setattr(precompile, "WORKER_TIMEOUT_S", 6)
    failures = precompile.precompile([task("hanging"), task("recording")], 2)
    assert failures == ["causal hanging forward S=256: its worker took more than 6 s"]
    assert is_compiled(task("recording"))
    assert not is_compiled(task("hanging"))


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


def test_the_time_of_a_run_is_broken_down(plugin_run):
    assert "maskbench: where the time went" in plugin_run.text
    seconds = plugin_run.saved["maskbench"]["seconds"]
    assert {"compile ahead", "compile", "check", "time", "other", "total"} == seconds.keys()
    parts = sum(s for stage, s in seconds.items() if stage != "total")
    assert parts == pytest.approx(seconds["total"])


def test_a_cache_that_cannot_be_written_is_a_usage_error(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "below"))
    few = ("--masks", "causal", "--seq-lens", 256, "--device", "cpu", "tests/test_forward.py")
    text = pytest_inline(*few, "--backends", "flex", expect=4)
    assert f"TRITON_CACHE_DIR: {file / 'below'} cannot be written: Not a directory" in text
    assert "Traceback" not in text
    pytest_inline(*few, "--backends", "sdpa", "--benchmark-disable")  # compiles nothing


def test_a_broken_test_file_is_reported_before_minutes_of_compiling(tmp_path):
    broken = tmp_path / "test_broken.py"
    broken.write_text("import no_such_module")
    few = ("--backends", "flex", "--masks", "causal", "--seq-lens", 256, "--device", "cpu")
    text = pytest_inline(*few, "tests/test_forward.py", broken, expect=2)
    assert "No module named 'no_such_module'" in text
    assert "compiling ahead" not in text


@pytest.mark.slow
def test_the_timing_process_compiles_nothing_again(cache):
    """It finds the workers' kernels: cache keys include torch's settings of float32 precision."""
    assert precompile.precompile([task("flex")], 1) == []
    compiled = sorted(cache.rglob("*"))
    few = ("--masks", "causal", "--backends", "flex", "--seq-lens", 256, "--device", "cpu")
    few = (*few, "--heads", 2, "--head-dim", 16, "tests/test_forward.py")
    text = pytest_run("--benchmark-only", *few)
    assert "1/1" in text, "the worker's stamp was found"
    assert sorted(cache.rglob("*")) == compiled
