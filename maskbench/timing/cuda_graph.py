"""Captures a call into a CUDA graph, and cleans up after a capture that fails.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
WARMUP_CALLS = 3  # libraries allocate workspaces and choose kernels in their first calls
# torch's allocator of pinned memory may still refer to a graph whose capture failed.
_FAILED_GRAPHS: list[torch.cuda.CUDAGraph] = []


@dataclass(frozen=True)
class CapturedCall(Generic[T]):
    """A call as a CUDA graph.

    Parameters
    ----------
    graph
        `graph.replay()` launches all kernels of the call at once.
    result
        What the call returned while it was captured. Each replay writes to its tensors.
    """

    graph: torch.cuda.CUDAGraph
    result: T


@cache
def _capture_stream() -> torch.cuda.Stream:
    """One stream for all captures of the process: each stream has workspaces of its own."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no annotation


@contextmanager
def on_capture_stream() -> Iterator[None]:
    """Make the stream of captures the current one.

    It waits for the work that was enqueued before, and the work that follows waits for it. The
    backward of a call runs on the stream of its forward, so the forward must run here, too.

    torch.cuda.graph leaves its own stream current if a capture fails. This context does not.
    """
    before, stream = torch.cuda.current_stream(), _capture_stream()
    stream.wait_stream(before)
    torch.cuda.set_stream(stream)
    try:
        yield
    finally:
        torch.cuda.set_stream(before)
        before.wait_stream(stream)


def capture(call: Callable[[], T]) -> CapturedCall[T]:
    """Capture `call` on the current stream. Use it within `on_capture_stream`.

    Raises
    ------
    Exception
        What `call` raises, such as torch's RuntimeError for an operation that waits for the
        device. The process can go on with CUDA unless the device is lost.
    """
    for _ in range(WARMUP_CALLS):
        call()
    require_no_synchronization(call)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    failure: Exception | None = None
    try:
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
            try:
                result = call()
            except Exception as error:
                failure = error  # the end of the capture raises another one, which says less
                raise
    except Exception as error:
        failure = failure or error
    if failure is None:
        return CapturedCall(graph, result)
    failure = failure.with_traceback(None)  # its frames hold tensors of the capture
    _abandon(graph, pool)
    try:
        raise failure
    finally:
        del failure  # its new traceback refers to this frame


def require_no_synchronization(call: Callable[[], object]) -> None:
    """Run `call`; raise torch's RuntimeError if it waits for the device, as far as torch sees it.

    Such a call cannot be captured. Here it fails before a capture has begun.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
    """Undo what a failed capture leaves in torch's allocator and in its random generator."""
    device = torch.cuda.current_device()
    # Private (seen in torch 2.13 and 2.15): torch has no public function that ends a graph's use of
    # its memory. Up to 2.12 a failed capture does not end it: freed memory is then kept, and later
    # allocations take longer. https://github.com/pytorch/pytorch/pull/180395
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:
        pass  # the capture has ended it
    else:
        torch._C._cuda_releasePool(device, pool)
        _FAILED_GRAPHS.append(graph)
    # A failed capture leaves the default generator in the state of a capture, in which the next
    # random number raises an error. A capture that succeeds ends that state.
    number = torch.zeros(1, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.current_stream()):
        number.zero_()
