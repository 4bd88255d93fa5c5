"""Screening: a worker process compiles a candidate and times a few rounds of it.

Compilation fills the on-disk caches, from which the timing process loads the fastest options. The
rounds are those of the suite's clock, and one worker at a time runs them. Other workers make inputs
and run a first call at the same time. That can only lengthen a round, so the short rounds count.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import flex
from maskbench.backends.flex_tuned import compile_with_options
from maskbench.masks import Mask
from maskbench.suite.attention_call import bind_and_run
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.error_text import describe_error
from maskbench.suite.tuning.gpu_lock import GPULock, worker_lock
from maskbench.suite.worker_main import TaskFailure
from maskbench.suite.workload import Workload, make_inputs
from maskbench.timing.clock import Clock, make_clock
from maskbench.tuned_options import FlexOptions

# Wall time of the rounds. A CPU has one worker, and five candidates for a problem.
SCREENING_S = {"cuda": 0.04, "cpu": 0.5}
MIN_ROUNDS, MAX_ROUNDS = 3, 30
MAX_RATIO_OF_SHORTEST = 1.01  # of the two shortest rounds; if it is larger, more are timed
MAX_ROUNDS_TO_AGREE = 6
AUTOTUNE_MODE = "max-autotune-no-cudagraphs"


@dataclass(frozen=True)
class ScreeningTask:
    """Options to compile. `options` None stands for torch's own search, `AUTOTUNE_MODE`.

    `mask` None is built in the worker (see `CompileTask`). `gpu_lock` is the file of the lock
    under which a GPU is measured; None on a CPU.
    """

    workload: Workload
    mask: Mask | None
    options: FlexOptions | None
    gpu_lock: Path | None


@dataclass(frozen=True)
class Screened:
    """What a worker reports.

    Parameters
    ----------
    seconds
        The time of a call: device time on a GPU. None if it cannot run.
    reason
        Why it cannot run.
    worker_s
        How long the worker took, without waiting for the GPU.
    """

    seconds: float | None
    reason: str
    worker_s: float


def bind_with(options: FlexOptions | None) -> Bind:
    """The `bind` of a candidate. The calls that were compiled before stay compiled."""

    def bind(mask: Mask, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> BoundAttention:
        if options is None:
            return flex.compile_call(mask, q, k, v, mode=AUTOTUNE_MODE)
        return compile_with_options(options, mask, q, k, v)

    return bind


def screen(task: ScreeningTask) -> Screened | TaskFailure:
    """Compile and time a candidate; `TaskFailure` if the GPU cannot be used afterwards."""
    start, seconds, reason = time.perf_counter(), None, ""
    lock = worker_lock(task.gpu_lock) if task.gpu_lock else None
    waited_before_s = lock.waited_s if lock else 0.0
    try:
        seconds = _compile_and_time(task, lock)
    except Unsupported as unsupported:
        reason = str(unsupported)
    except Exception as error:  # of torch, Triton, CuTe or CUDA's driver
        reason = describe_error(error)
        if device_is_lost(task.workload.device):
            return TaskFailure(reason)
    if task.workload.device == "cuda":
        torch.cuda.empty_cache()  # the workers share the GPU
    waited_s = lock.waited_s - waited_before_s if lock else 0.0
    return Screened(seconds, reason, time.perf_counter() - start - waited_s)


def _compile_and_time(task: ScreeningTask, lock: GPULock | None) -> float:
    workload = task.workload
    mask = task.mask or workload.build_mask()
    needs_gradients = workload.phase.needs_gradients
    inputs = make_inputs(mask, workload.shape, workload.dtype, workload.device, needs_gradients)
    torch.compiler.reset()
    _, timed, _ = bind_and_run(bind_with(task.options), mask, inputs)
    with lock.exclusive() if lock else nullcontext():
        clock = _clock(workload.device)
        return screening_time(timed.run, clock, SCREENING_S[workload.device])


@cache
def _clock(device: str) -> Clock:
    """The clock of this worker. All its times include the launch of a kernel, about 1 us."""
    return make_clock(torch.device(device))


def screening_time(call: Callable[[], object], clock: Clock, max_seconds: float) -> float:
    """The lower quartile of a few rounds, in seconds.

    Rounds end after `max_seconds` of wall time if the two shortest agree. The timing process may
    stop this worker between a round's start and its call; that round is one of the long ones.
    """
    clock.size_blocking_kernel(call)
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < MAX_ROUNDS:
        is_over = len(seconds) >= MIN_ROUNDS and time.perf_counter() - start > max_seconds
        if is_over and (_agree(seconds) or len(seconds) >= MAX_ROUNDS_TO_AGREE):
            break
        seconds.append(clock.round(call)[0])
    return sorted(seconds)[len(seconds) // 4]


def _agree(seconds: list[float]) -> bool:
    shortest, next_one = sorted(seconds)[:2]
    return next_one <= MAX_RATIO_OF_SHORTEST * shortest


def receive_screening(pickled: bytes) -> Screened | TaskFailure:
    """`screen` on a pickled task; `TaskFailure` if its worker cannot unpickle it."""
    try:
        task: ScreeningTask = pickle.loads(pickled)
    except Exception as error:  # importing the mask's module may raise any
        return TaskFailure(f"its worker cannot load it ({error})", worker_alive=True)
    return screen(task)
