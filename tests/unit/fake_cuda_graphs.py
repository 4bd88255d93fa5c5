"""Simulated CUDA graphs: streams, captures, and what a failed capture leaves behind in torch."""

from contextlib import contextmanager

import pytest
import torch

from maskbench.timing import cuda_graph


class FakeStream:
    """A stream; other streams wait for it."""

    def __init__(self):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


class FakeGraph:
    """The kernels of a capture. `replay` launches them again."""

    def __init__(self):
        self.kernels = []

    def replay(self):
        for kernel in self.kernels:
            kernel()


class FakeGraphs:
    """The state of torch.cuda, as far as captures use it.

    `ends_failed_captures` is whether the end of a failed capture ends its use of its pool, as torch
    does from 2.13 on. `launch` runs a kernel, or adds it to the graph that is captured.
    """

    def __init__(self):
        self.ends_failed_captures = False
        self.default = self.current = FakeStream()
        self.sync_mode, self.captures = 0, 0
        self.capturing = None  # the graph
        self.pools_in_use, self.released_pools = [], []
        self.generator_is_capturing = False
        self.pool_count = 0

    def launch(self, kernel):
        if self.capturing is None:
            kernel()
        else:
            self.capturing.kernels.append(kernel)

    def wait_for_device(self):
        """What an operation does that waits for the device, such as Tensor.item."""
        if self.sync_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.capturing is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def set_stream(self, stream):
        self.current = stream

    def set_sync_mode(self, mode):
        self.sync_mode = mode

    def new_pool(self):
        self.pool_count += 1
        return (0, self.pool_count)

    @contextmanager
    def graph(self, graph, pool=(1, 0), stream=None):
        """As torch.cuda.graph: after an error in the capture, its stream stays the current one."""
        assert stream is not self.default, "a capture needs a stream of its own"
        before, self.current = self.current, stream
        self.captures += 1
        self.capturing, self.generator_is_capturing = graph, True
        self.pools_in_use.append(pool)
        try:
            yield
        except BaseException:
            self.capturing = None
            if self.ends_failed_captures:
                self.pools_in_use.remove(pool)
            raise RuntimeError("CUDA error: operation failed due to a previous error") from None
        self.capturing, self.generator_is_capturing = None, False
        self.pools_in_use.remove(pool)
        self.current = before

    def end_allocate(self, device, pool):
        if pool not in self.pools_in_use:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools_in_use.remove(pool)

    def release(self, device, pool):
        self.released_pools.append(pool)


def on_cpu(create):
    """A function that creates tensors, for which a CPU takes the place of the GPU."""

    def created(*size, device=None, **options):
        return create(*size, device="cpu" if device == "cuda" else device, **options)

    return created


@pytest.fixture
def fake_graphs(monkeypatch):
    """`FakeGraphs` that torch.cuda uses."""
    cuda = FakeGraphs()
    for name, value in {
        "Stream": FakeStream,
        "CUDAGraph": FakeGraph,
        "current_stream": lambda: cuda.current,
        "set_stream": cuda.set_stream,
        "current_device": lambda: 0,
        "get_sync_debug_mode": lambda: cuda.sync_mode,
        "set_sync_debug_mode": cuda.set_sync_mode,
        "graph_pool_handle": cuda.new_pool,
        "graph": cuda.graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", cuda.end_allocate, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", cuda.release, raising=False)
    monkeypatch.setattr(torch, "zeros", on_cpu(torch.zeros))
    monkeypatch.setattr(cuda_graph, "_FAILED_GRAPHS", [])
    cuda_graph._capture_stream.cache_clear()
    yield cuda
    cuda_graph._capture_stream.cache_clear()
