"""CUDA graphs on a real GPU: replays are right, and a failed capture leaves nothing behind."""

import pytest
import torch

from maskbench.suite.attention_call import CheckedCall, TimedCall
from maskbench.suite.cuda_graphs import time_graph
from maskbench.suite.unchanged import Unchanged
from maskbench.timing.cuda_graph import capture, on_capture_stream
from tests.unit.conformance import MASKS, bind_or_skip, checked_inputs

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_a_replay_computes_what_the_call_does(backend, backward, clock):
    if not clock.is_device_time:
        pytest.skip("needs --device cuda")
    checked = checked_inputs(MASKS["causal"], "cuda", "float16", backward=backward)
    bound = bind_or_skip(backend, MASKS["causal"], checked.inputs)
    timed = TimedCall.prepare(bound, checked.inputs.dout)
    timed.run()
    fields = time_graph(CheckedCall(bound, timed, checked, Unchanged({})), clock, 0.05)
    assert fields.keys() == {"graph_median_s", "graph_host_s"}, fields


def capturing():
    return torch.cuda.is_current_stream_capturing()


def raising(x):
    if capturing():
        raise ValueError("no capture")


def reading(x):
    """Not with x.item(), which torch would refuse before the capture."""
    if capturing():
        torch.cuda.synchronize()


def synchronizing(x):
    x.sum().item()


@pytest.mark.parametrize("fail", [raising, reading, synchronizing])
def test_after_a_failed_capture_the_process_goes_on(fail):
    x = torch.ones(2**20, device="cuda")

    def call():
        y = x * 2
        fail(y)
        return y

    torch.cuda.synchronize()
    before, stream = torch.cuda.memory_allocated(), torch.cuda.current_stream()
    for _ in range(3):
        with pytest.raises((ValueError, RuntimeError)), on_capture_stream():
            capture(call)
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    assert float(torch.rand(1, device="cuda")) < 1, "the default generator works"
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() - before < 2**20
    with on_capture_stream():
        captured = capture(lambda: x + 1)
    captured.result.zero_()
    captured.graph.replay()
    assert bool((captured.result == 2).all())
