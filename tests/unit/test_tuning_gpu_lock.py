"""The lock of the GPU: one worker at a time measures, and a worker that dies frees it."""

import signal
import subprocess
import sys
from threading import Thread
from time import monotonic, sleep
from types import SimpleNamespace

import pytest

from maskbench.records import Phase
from maskbench.suite.tuning import screening
from maskbench.suite.tuning.gpu_lock import GPULock, worker_lock
from maskbench.suite.tuning.screening import (
    ScreeningTask,
    screen,
)
from maskbench.suite.workers import WorkerPool
from maskbench.suite.workload import Shape, Workload
from maskbench.tuned_options import DEFAULT_OPTIONS
from tests.unit import pool_handlers

WORKLOAD = Workload("causal", 64, Shape(1, 1, 1, 16), "float32", "cpu", Phase.FORWARD)


HOLD = """
import sys
from pathlib import Path
from maskbench.suite.tuning.gpu_lock import GPULock
with GPULock(Path(sys.argv[1])).exclusive():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock, and the lock's file."""
    path = tmp_path / "gpu"
    program = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process, path
        process.kill()


def wait_in_thread(lock):
    entered = []

    def enter():
        with lock.exclusive():
            entered.append(True)

    thread = Thread(target=enter, daemon=True)
    thread.start()
    return thread, entered


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_dies_frees_the_lock_even_if_it_was_stopped(holder, stopped):
    process, path = holder
    if stopped:
        process.send_signal(signal.SIGSTOP)
    lock = GPULock(path)
    thread, entered = wait_in_thread(lock)
    thread.join(0.1)
    assert not entered
    process.kill()
    thread.join(10)
    assert entered
    assert lock.waited_s > 0.09
    lock.close()


def test_workers_measure_one_after_the_other_and_can_be_stopped_meanwhile(tmp_path):
    """The one that is stopped keeps the lock. The timing process does not wait for it."""
    path, trace = tmp_path / "gpu", tmp_path / "trace"
    with WorkerPool(2, pool_handlers.initialize, (), pool_handlers.measure_alone, 60) as workers:
        for index in range(4):
            workers.submit(index, str(path).encode())
        done, give_up = {}, monotonic() + 60
        while not trace.exists() or not trace.read_bytes().endswith(b"("):
            assert monotonic() < give_up
            done |= dict(workers.results(0.01))
        with workers.paused():
            sleep(0.05)  # what was just being written
            before = trace.read_bytes()
            sleep(0.5)
            assert trace.read_bytes() == before
        while len(done) < 4:
            assert monotonic() < give_up
            done |= dict(workers.results())
    assert trace.read_bytes() == b"()" * 4
    assert set(done.values()) == {b"done"}


def test_a_nested_context_does_not_free_the_lock(tmp_path):
    lock, other = GPULock(tmp_path / "gpu"), GPULock(tmp_path / "gpu")
    with lock.exclusive():
        with lock.exclusive():
            pass
        assert not other.lock.try_alone()
    assert other.lock.try_alone()
    lock.close()
    other.close()


@pytest.mark.parametrize("has_hook", [True, False])
def test_torchs_own_search_measures_under_the_lock(tmp_path, monkeypatch, has_hook):
    benchmarking = pytest.importorskip("torch._inductor.runtime.benchmarking")
    name, other = "set_gpu_benchmark_lock_context", GPULock(tmp_path / "gpu")

    class FakeBenchmarker:
        def benchmark_gpu(self, call, rep=1):
            return call() * rep

    contexts = []
    if has_hook:
        monkeypatch.setattr(benchmarking, name, contexts.append, raising=False)
    else:
        monkeypatch.delattr(benchmarking, name, raising=False)
    monkeypatch.setattr(benchmarking, "benchmarker", FakeBenchmarker())
    worker_lock.cache_clear()
    lock = worker_lock(tmp_path / "gpu")
    assert worker_lock(tmp_path / "gpu") is lock

    def call():
        assert not other.lock.try_alone()
        return 2.0

    if has_hook:
        (context,) = contexts
        with context():
            call()
    else:
        assert benchmarking.benchmarker.benchmark_gpu(call, rep=3) == 6.0
    assert other.lock.try_alone()
    worker_lock.cache_clear()
    lock.close()
    other.close()


def test_a_measurement_holds_the_lock_and_a_compilation_does_not(tmp_path, monkeypatch):
    held = {}
    other = GPULock(tmp_path / "gpu")

    def is_held():
        free = other.lock.try_alone()
        if free:
            other.lock.release()
        return not free

    def compile_and_run(*_):
        held["compile"] = is_held()
        return None, SimpleNamespace(run=lambda: None), None

    def measure(*_):
        held["measure"] = is_held()
        return 1.0

    monkeypatch.setattr(screening, "bind_and_run", compile_and_run)
    monkeypatch.setattr(screening, "screening_time", measure)
    monkeypatch.setattr(screening, "worker_lock", GPULock)
    result = screen(ScreeningTask(WORKLOAD, None, DEFAULT_OPTIONS, tmp_path / "gpu"))
    assert result.seconds == 1.0
    assert held == {"compile": False, "measure": True}
    assert not is_held()
    other.close()


def test_waiting_for_the_gpu_is_not_a_workers_time(holder, monkeypatch):
    process, path = holder
    monkeypatch.setattr(screening, "worker_lock", GPULock)
    monkeypatch.setattr(
        screening, "bind_and_run", lambda *_: (None, SimpleNamespace(run=lambda: None), None)
    )
    monkeypatch.setattr(screening, "screening_time", lambda *_: 1.0)
    found = []
    task = ScreeningTask(WORKLOAD, None, DEFAULT_OPTIONS, path)
    thread = Thread(target=lambda: found.append(screen(task)), daemon=True)
    start = monotonic()
    thread.start()
    sleep(1.0)
    process.kill()
    thread.join(10)
    assert found[0].worker_s < monotonic() - start - 0.3
