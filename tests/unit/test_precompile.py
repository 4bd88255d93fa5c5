"""Compiling ahead: in workers, with progress, and no cell stops the others."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from types import ModuleType, SimpleNamespace

import pytest

from maskbench.backends import registry
from maskbench.masks import Causal, Mask
from maskbench.records import Phase
from maskbench.suite import kernel_cache, precompile
from maskbench.suite.precompile import CompileResult, CompileTask, compile_cell, is_compiled
from maskbench.suite.workload import Shape, Workload
from tests.unit.compiling_plugin import SPECS, PluginMask, UnpicklableMask
from tests.unit.pytest_process import NO_CACHE, ROOT, pytest_inline, pytest_run, strict_json

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


REASONS = {
    "system_exit": "raised SystemExit: 3",
    "keyboard_interrupt": "raised KeyboardInterrupt",
    "generator_exit": "raised GeneratorExit",
    "exit_0": "died (exit code 0)",
    "exit_3": "died (exit code 3)",
    "abort": "died (exit code -6)",
    "sigkill": "died (exit code -9)",
    "close_all_files": "died (exit code 1)",
    "fork_then_exit": "died (exit code 0)",
}


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(["system_exit", "exit_0"], id="some"),
        pytest.param(sorted(REASONS), id="all", marks=pytest.mark.slow),
    ],
)
def test_a_worker_may_leave_in_any_way(cache, ways):
    others = [task("recording", PluginMask(seq_len=256)), task("recording")]
    started = monotonic()
    failures = precompile.precompile([*map(task, ways), *others], 2)
    # Each worker that dies is replaced, which imports torch again; no limit of 300 s is waited for.
    assert monotonic() - started < 120
    expected = {f"causal {way} forward S=256: its worker {REASONS[way]}" for way in ways}
    assert set(failures) == expected
    assert [t for t in [*map(task, ways), *others] if is_compiled(t)] == others


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def compilers(cache: Path, count: int) -> list[int]:
    """Wait until `count` workers have started a compiler; their process ids."""
    file, give_up = cache / "processes", monotonic() + 60
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert monotonic() < give_up
        sleep(0.05)
    return [int(pid) for pid in file.read_text().split()]


def all_end(pids: list[int], within_s: float) -> bool:
    give_up = monotonic() + within_s
    while any(map(alive, pids)) and monotonic() < give_up:
        sleep(0.02)
    return not any(map(alive, pids))


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_compiling_at_once_and_keeps_the_stamps(
    cache, monkeypatch, signal_number
):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal_number, interrupt)
    compiled = task("recording")
    tasks = [compiled, *[task("compiler_started")] * 500]
    sent = []

    def send_signal():
        sent.extend(compilers(cache, 1))
        sent.append(monotonic())
        os.kill(os.getpid(), signal_number)

    thread = Thread(target=send_signal)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            precompile.precompile(tasks, 1)
    finally:
        signal.signal(signal_number, before)
    *pids, sent_at = sent
    assert monotonic() - sent_at < 1
    assert all_end(pids, within_s=0.5)
    assert is_compiled(compiled)
    thread.join()


@linux
@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_workers_and_compilers_die_with_their_parent(cache, signal_number):
    few = ("-p", "tests.unit.compiling_plugin", "--benchmark-only", "--jobs", "1")
    few = (*few, "--masks", "causal", "--backends", "compiler_started", "--device", "cpu")
    few = (*few, "--seq-lens", "256", "tests/test_forward.py")
    parent = subprocess.Popen(
        [sys.executable, "-m", "pytest", *NO_CACHE, *few],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pids = compilers(cache, 1)
    assert all(map(alive, pids))
    parent.send_signal(signal_number)
    parent.wait()
    assert all_end(pids, within_s=1)


@pytest.mark.slow
def test_a_worker_that_hangs_is_stopped(cache, monkeypatch):
    monkeypatch.setattr(precompile, "WORKER_TIMEOUT_S", 6)
    failures = precompile.precompile([task("hanging"), task("recording")], 2)
    assert failures == ["causal hanging forward S=256: its worker took more than 6 s"]
    assert is_compiled(task("recording"))
    assert not is_compiled(task("hanging"))


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
