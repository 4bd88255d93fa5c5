"""Screening: a worker process compiles a candidate and times it roughly.

Compilation fills the on-disk caches, from which the timing process loads what may win. Other
workers use the GPU meanwhile, so the shortest of a few times counts.
"""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import torch

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import flex
from maskbench.backends.flex_tuned import compile_options
from maskbench.masks import Mask
from maskbench.suite.attention_call import TimedCall, bind_and_run
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.error_text import describe_error
from maskbench.suite.worker_main import Lost
from maskbench.suite.workload import Workload, make_inputs
from maskbench.tuned_options import FlexOptions

CALLS = 5
MAX_SECONDS = 0.5  # for all calls, unless a single one takes longer
AUTOTUNE_MODE = "max-autotune-no-cudagraphs"


@dataclass(frozen=True)
class ScreeningTask:
    """Options to compile. `options` None stands for torch's own search, `AUTOTUNE_MODE`.

    `mask` None is built in the worker (see `CompileTask`).
    """

    workload: Workload
    mask: Mask | None
    options: FlexOptions | None


@dataclass(frozen=True)
class Screened:
    """What a worker reports.

    Parameters
    ----------
    seconds
        The shortest time of a call; None if it cannot run.
    reason
        Why it cannot run.
    worker_s
        How long the worker took.
    """

    seconds: float | None
    reason: str
    worker_s: float


def bind_with(options: FlexOptions | None) -> Bind:
    """The `bind` of a candidate. The calls that were compiled before stay compiled."""

    def bind(mask: Mask, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> BoundAttention:
        if options is None:
            return flex.compile_call(mask, q, k, v, mode=AUTOTUNE_MODE)
        return compile_options(options, mask, q, k, v)

    return bind


def screen(task: ScreeningTask) -> Screened | Lost:
    """Compile a candidate and time it roughly; `Lost` if the GPU cannot be used afterwards."""
    start = time.perf_counter()
    seconds, reason = None, ""
    try:
        seconds = _compile_and_time(task)
    except Unsupported as unsupported:
        reason = str(unsupported)
    except Exception as error:  # of torch, Triton, CuTe or CUDA's driver
        reason = describe_error(error)
        if device_is_lost(task.workload.device):
            return Lost(reason)
    if task.workload.device == "cuda":
        torch.cuda.empty_cache()  # the workers share the GPU
    return Screened(seconds, reason, time.perf_counter() - start)


def _compile_and_time(task: ScreeningTask) -> float:
    workload = task.workload
    mask = task.mask or workload.build_mask()
    needs_gradients = workload.phase.needs_gradients
    inputs = make_inputs(mask, workload.shape, workload.dtype, workload.device, needs_gradients)
    torch.compiler.reset()
    _, timed, _ = bind_and_run(bind_with(task.options), mask, inputs)
    return shortest_time(timed, workload.device)


def shortest_time(timed: TimedCall, device: str) -> float:
    """The shortest of a few times, in seconds: device time on a GPU."""
    seconds: list[float] = []
    while len(seconds) < CALLS and sum(seconds) < MAX_SECONDS:
        seconds.append(_device_seconds(timed) if device == "cuda" else _wall_seconds(timed))
    return min(seconds)


def _device_seconds(timed: TimedCall) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    timed.run()
    end.record()
    end.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms / 1e3


def _wall_seconds(timed: TimedCall) -> float:
    start = time.perf_counter()
    timed.run()
    return time.perf_counter() - start


def receive_screening(pickled: bytes) -> Screened | Lost:
    """`screen` on a pickled task; `Lost` if its worker cannot unpickle it."""
    try:
        task: ScreeningTask = pickle.loads(pickled)
    except Exception as error:  # importing the mask's module may raise any
        return Lost(f"its worker cannot load it ({error})", alive=True)
    return screen(task)
