"""Screening: one worker at a time measures, with the suite's clock, and a pause does not matter."""

import itertools
import os
from dataclasses import replace
from threading import Thread
from time import sleep

import pytest
import torch

from maskbench.backends import dense
from maskbench.records import Phase
from maskbench.suite.requested_masks import MaskRequest
from maskbench.suite.tuning import screening, searches, session
from maskbench.suite.tuning.gpu_lock import GPULock
from maskbench.suite.tuning.screening import (
    MAX_ROUNDS,
    MAX_ROUNDS_TO_AGREE,
    MIN_ROUNDS,
    ScreeningTask,
    screen,
    screening_time,
)
from maskbench.suite.tuning.searches import AUTOTUNE_PROBLEMS_AHEAD, Searches
from maskbench.suite.workload import Shape, Workload
from maskbench.timing.clock import HostClock
from maskbench.timing.device_clock import DeviceClock
from maskbench.tuned_options import DEFAULT_OPTIONS

WORKLOAD = Workload("causal", 64, Shape(1, 1, 1, 16), "float32", "cpu", Phase.FORWARD)


class Rounds(HostClock):
    """The rounds take these times in turn."""

    def __init__(self, *seconds):
        self.seconds, self.count = itertools.cycle(seconds), 0

    def round(self, call):
        self.count += 1
        seconds = next(self.seconds)
        return seconds, seconds


@pytest.mark.parametrize(
    "rounds",
    [
        (1.0, 1.0, 1.0),
        (1.0, 50.0, 1.0),  # a pause of this worker
        (60.0, 1.0, 1.005),
        (3.0, 2.0, 1.0, 4.0, 1.005),  # other workers used the GPU in most rounds
    ],
)
def test_long_rounds_do_not_count(rounds):
    clock = Rounds(*rounds)
    assert screening_time(lambda: None, clock, max_seconds=0) == pytest.approx(1.0, rel=0.01)
    assert clock.count <= MAX_ROUNDS_TO_AGREE


def test_there_are_few_rounds():
    clock = Rounds(1.0)
    screening_time(lambda: None, clock, max_seconds=0)
    assert clock.count == MIN_ROUNDS
    clock = Rounds(1.0)
    screening_time(lambda: None, clock, max_seconds=60)
    assert clock.count == MAX_ROUNDS
    clock = Rounds(*(1.1**i for i in range(40)))
    screening_time(lambda: None, clock, max_seconds=0)
    assert clock.count == MAX_ROUNDS_TO_AGREE


def test_the_hosts_time_is_not_in_a_gpu_time(fake_gpu):
    """FlexAttention's FLASH call takes the host 0.7 ms, and the GPU less."""
    clock = DeviceClock(torch.device("cpu"))
    fake_gpu.kernels.clear()

    def call():
        sleep(0.7e-3)
        fake_gpu.kernel("attention", 0.2e-3)

    assert screening_time(call, clock, 0) == pytest.approx(0.2e-3, rel=0.01)
    spins = [end - start for name, start, end in fake_gpu.kernels if name.startswith("spin")]
    assert spins
    assert min(spins) > 700, "us: the blocking kernel outlasts the host"


def test_a_worker_times_on_a_cpu_without_a_lock(monkeypatch):
    monkeypatch.setattr(screening, "bind_with", lambda options: dense.bind)
    monkeypatch.setitem(screening.SCREENING_S, "cpu", 0.01)
    result = screen(ScreeningTask(WORKLOAD, None, DEFAULT_OPTIONS, None))
    assert result.seconds > 0
    assert result.worker_s > result.seconds
    assert result.reason == ""


# --- the searches ---


class RecordingPool:
    """A pool that ends no task."""

    def __init__(self, *_):
        self.given, self.rounds = [], 0

    @property
    def unfinished(self):
        return len(self.given)

    def submit(self, index, task):
        self.given.append(index)

    def results(self, wait_s):
        self.rounds += 1
        return []


def searches_of(monkeypatch, workloads):
    monkeypatch.setattr(searches, "WorkerPool", RecordingPool)
    return Searches(workloads, 100, len(workloads), MaskRequest(()))


def test_workers_get_tasks_while_the_timing_process_waits_for_the_gpu(monkeypatch):
    made = searches_of(monkeypatch, [WORKLOAD])
    worker = GPULock(made.gpu_lock.lock.path)
    with worker.exclusive():
        thread = Thread(target=lambda: sleep(0.1) or worker.lock.release())
        thread.start()
        with made.exclusive():
            assert made.pool.rounds > 1
            assert not worker.lock.try_alone()
    thread.join()
    assert worker.lock.try_alone(), "it is free afterwards"
    worker.close()


def test_torchs_own_search_starts_before_the_tasks_of_earlier_problems(monkeypatch):
    workloads = [replace(WORKLOAD, seq_len=128 * n) for n in range(1, 10)]
    made = searches_of(monkeypatch, workloads)
    monkeypatch.setattr(searches, "Search", FakeSearch)
    for workload in workloads:
        made._start(workload)
    made.advance(0)
    order = [made.tasks[index] for index in made.pool.given]
    autotuned = [(workload, None) for workload in workloads]
    assert order[: AUTOTUNE_PROBLEMS_AHEAD + 1] == autotuned[: AUTOTUNE_PROBLEMS_AHEAD + 1]
    others = [(workloads[0], DEFAULT_OPTIONS), autotuned[AUTOTUNE_PROBLEMS_AHEAD + 1]]
    assert order[AUTOTUNE_PROBLEMS_AHEAD + 1 : AUTOTUNE_PROBLEMS_AHEAD + 3] == others


class FakeSearch:
    """A search that asks for torch's own search and the default."""

    first_tasks = (None, DEFAULT_OPTIONS)

    def __init__(self, workload, mask, has_autotune):
        self.mask = mask


def test_workers_fit_into_the_memory_of_the_gpu(monkeypatch):
    free = 79 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))

    def workers(seq_len, head_dim, phase):
        shape = Shape(8, 16, 16, head_dim)
        return session.workers_that_fit(
            [
                WORKLOAD,
                replace(WORKLOAD, phase=phase, seq_len=seq_len, shape=shape, dtype="float16"),
            ]
        )

    assert workers(4096, 64, Phase.TUNE_BACKWARD) > 15
    assert 4 <= workers(16384, 128, Phase.TUNE_BACKWARD) <= 12
    assert workers(16384, 128, Phase.TUNE_FORWARD) > workers(16384, 128, Phase.TUNE_BACKWARD)
    assert workers(2**20, 128, Phase.TUNE_BACKWARD) == 1
    assert session.workers_that_fit([]) == 1


def test_no_lock_file_is_left(monkeypatch):
    made = searches_of(monkeypatch, [WORKLOAD])
    folder = made.folder.name
    assert os.listdir(folder) == ["gpu"]
    RecordingPool.__enter__ = RecordingPool.__exit__ = lambda *_: None
    with made:
        pass
    assert not os.path.exists(folder)
