"""The workers that compile ahead: how they fail, are interrupted and end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from types import ModuleType

import pytest

from maskbench.masks import Causal, Mask
from maskbench.suite import kernel_cache, precompile
from maskbench.suite.precompile import CompileTask, is_compiled
from maskbench.suite.requested_masks import MaskRequest
from tests.unit import compile_tasks
from tests.unit.compile_tasks import task
from tests.unit.compiling_plugin import PluginMask, UnpicklableMask
from tests.unit.pytest_process import PLAIN, ROOT

cache = compile_tasks.cache

NO_MASKS = MaskRequest(())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[CompileTask]:
    """The tasks for which workers would be started from now on; none is."""
    tasks: list[CompileTask] = []
    monkeypatch.setattr(
        precompile, "_compile_in_workers", lambda cold, jobs, request, bar: tasks.extend(cold) or []
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
    failures = sorted(precompile.precompile([*lost, *failed, *done], 2, NO_MASKS))
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
    precompile.precompile([*done, *lost, *failed], 2, NO_MASKS)
    assert sent == [*lost, *failed]
    assert "3/7" in capsys.readouterr().err

    # With another torch everything is compiled again.
    sent.clear()
    monkeypatch.setattr(kernel_cache, "environment_fingerprint", lambda: "another torch")
    precompile.precompile(done, 2, NO_MASKS)
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
    failures = precompile.precompile([*map(task, ways), *others], 2, NO_MASKS)
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
            precompile.precompile(tasks, 1, NO_MASKS)
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
        [sys.executable, "-m", "pytest", *PLAIN, *few],
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
    failures = precompile.precompile([task("hanging"), task("recording")], 2, NO_MASKS)
    assert failures == ["causal hanging forward S=256: its worker took more than 6 s"]
    assert is_compiled(task("recording"))
    assert not is_compiled(task("hanging"))
