"""The call of a cell as a CUDA graph: the time of its replays, or why there is no graph."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.suite.attention_call import CheckedCall, TimedCall, WrongResult
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.error_text import describe_error
from maskbench.timing.clock import Clock
from maskbench.timing.cuda_graph import CapturedCall, capture, on_capture_stream
from maskbench.timing.runner import median_times


def time_graph(call: CheckedCall, clock: Clock, max_seconds: float) -> dict[str, object]:
    """Capture the call, check what a replay computes, and time replays.

    Parameters
    ----------
    call
        The call, which has been timed without a graph.
    clock
        The clock of the GPU.
    max_seconds
        The wall time that the rounds may take, in seconds.

    Returns
    -------
    dict
        `graph_median_s` and `graph_host_s`: the device time of a replay and the host's time to
        launch it, in seconds. If the call cannot be captured, or a replay computes something
        else, only `graph_reason`.

    Raises
    ------
    Exception
        If the device is lost, or a replay changes the inputs.
    """
    try:
        with on_capture_stream():
            timed = TimedCall.prepare(with_own_inputs(call.bound), call.checked.inputs.dout)
            captured = capture(timed.run)
    except Exception as error:  # of the library: it does something that cannot be captured
        if device_is_lost("cuda"):
            raise
        return {"graph_reason": describe_error(error)}
    device_s, host_s = median_times(clock, captured.graph.replay, max_seconds)
    try:
        check_replay(captured, replace(call, timed=timed))
    except WrongResult as wrong:
        return {"graph_reason": str(wrong)}
    return {"graph_median_s": device_s, "graph_host_s": host_s}


def with_own_inputs(bound: BoundAttention) -> BoundAttention:
    """The same call on the same memory, with inputs that no other stream has used in autograd.

    autograd has a node for each input, on the stream of its first forward. The backward waits for
    that stream, and a capture must not.
    """
    q, k, v = (t.detach().requires_grad_(t.requires_grad) for t in bound.inputs)
    return replace(bound, inputs=(q, k, v))


def check_replay(captured: CapturedCall[object], call: CheckedCall) -> None:
    """Check the result of a replay, which must write every element.

    Raises ChangedTensor or WrongResult.
    """
    for tensor in result_tensors(captured.result):
        tensor.fill_(torch.nan)  # else a kernel that the graph lacks would go unnoticed
    captured.graph.replay()
    call.check(captured.result, "a replay of its CUDA graph")


def result_tensors(result: object) -> tuple[Tensor, ...]:
    """The output of a forward, or the gradients of a backward."""
    return result if isinstance(result, tuple) else (cast(Tensor, result),)
