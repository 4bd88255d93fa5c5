"""CUDA graphs, simulated: what is captured, and that a failed capture leaves nothing behind."""

from dataclasses import replace

import pytest
import torch

from maskbench.attention import BoundAttention
from maskbench.backends import dense
from maskbench.masks import Causal
from maskbench.suite import cuda_graphs
from maskbench.suite.attention_call import CheckedCall, TimedCall
from maskbench.suite.cuda_graphs import time_graph
from maskbench.suite.unchanged import ChangedTensor, Unchanged
from maskbench.suite.workload import Shape, make_inputs_with_reference
from maskbench.timing.clock import HostClock
from maskbench.timing.cuda_graph import WARMUP_CALLS, capture, on_capture_stream
from tests.unit.pytest_process import run_inline, strict_json

MASK, SHAPE = Causal(seq_len=16), Shape(1, 2, 2, 8)


# --- capturing ---


def test_a_replay_launches_the_kernels_of_the_call(fake_graphs):
    out = torch.zeros(1, device="cuda")

    def call():
        fake_graphs.launch(lambda: out.add_(1))
        return out

    with on_capture_stream():
        captured = capture(call)
    before = WARMUP_CALLS + 1  # and one that must not synchronize
    assert (captured.result, float(out)) == (out, before)
    captured.graph.replay()
    assert float(out) == before + 1
    assert fake_graphs.current is fake_graphs.default


def fails_in_a_capture(cuda):
    if cuda.capturing:
        raise ValueError("this library looks at the device")


@pytest.mark.parametrize("ends_failed_captures", [False, True])
def test_after_a_failed_capture_everything_is_as_before(ends_failed_captures, fake_graphs):
    fake_graphs.ends_failed_captures = ends_failed_captures
    with (
        pytest.raises(ValueError, match="this library looks at the device"),
        on_capture_stream(),
    ):
        capture(lambda: fails_in_a_capture(fake_graphs))
    assert fake_graphs.current is fake_graphs.default
    assert fake_graphs.pools_in_use == []
    assert fake_graphs.released_pools == ([] if ends_failed_captures else [(0, 1)])
    assert not fake_graphs.generator_is_capturing
    with on_capture_stream():
        assert capture(lambda: 5).result == 5


def test_a_call_that_waits_for_the_device_fails_before_a_capture(fake_graphs):
    def call():
        fake_graphs.wait_for_device()

    with pytest.raises(RuntimeError, match="called a synchronizing"), on_capture_stream():
        capture(call)
    assert fake_graphs.captures == 0
    assert fake_graphs.sync_mode == 0


def test_the_streams_wait_for_each_other(fake_graphs):
    with on_capture_stream():
        side = fake_graphs.current
        assert side.waited_for == [fake_graphs.default]
    assert fake_graphs.default.waited_for == [side]


# --- a cell's call ---


def checked_call(backward, forward=None):
    checked = make_inputs_with_reference(MASK, SHAPE, "float32", "cpu", backward)
    right = dense.bind(MASK, *checked.inputs[:3])
    bound = replace(right, forward=forward(right)) if forward else right
    timed = TimedCall.prepare(right, checked.inputs.dout)
    return CheckedCall(bound, timed, checked, Unchanged({}))


def on_graph(cuda):
    """A forward whose single kernel the graph replays."""

    def of(right: BoundAttention):
        def forward(*inputs):
            exact = right.forward(*inputs)
            out = exact.clone()
            cuda.launch(lambda: out.copy_(exact))
            return out

        return forward

    return of


def test_the_replay_of_a_right_call_is_timed(fake_graphs):
    fields = time_graph(checked_call(False, on_graph(fake_graphs)), HostClock(), 0.01)
    assert fields.keys() == {"graph_median_s", "graph_host_s"}
    assert all(seconds > 0 for seconds in fields.values())


@pytest.mark.parametrize("backward", [False, True])
def test_a_graph_without_the_kernels_has_a_reason_and_no_time(backward, fake_graphs):
    """The kernels of dense attention run on the CPU, as those of a library on another stream."""
    fields = time_graph(checked_call(backward), HostClock(), 0.01)
    assert fields.keys() == {"graph_reason"}
    assert (
        "differs from the reference in a replay of its CUDA graph: error nan"
        in fields["graph_reason"]
    )


def test_the_reason_of_a_failed_capture_is_the_first_error(fake_graphs, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "device_is_lost", lambda device: None)

    def failing(right):
        def forward(*inputs):
            fails_in_a_capture(fake_graphs)
            return right.forward(*inputs)

        return forward

    fields = time_graph(checked_call(False, failing), HostClock(), 0.01)
    assert fields == {"graph_reason": "ValueError: this library looks at the device"}


def test_a_lost_device_fails_the_cell(fake_graphs, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "device_is_lost", lambda device: "illegal memory access")

    def failing(right):
        return lambda *inputs: fails_in_a_capture(fake_graphs)

    with pytest.raises(ValueError, match="this library looks"):
        time_graph(checked_call(False, failing), HostClock(), 0.01)


def test_a_replay_that_changes_the_inputs_fails_the_cell(fake_graphs):
    call = checked_call(False)

    def changing(right):
        def forward(*inputs):
            out = right.forward(*inputs)
            if fake_graphs.capturing:
                fake_graphs.launch(lambda: inputs[0].add_(1))
            return out

        return forward

    call = replace(call, bound=replace(call.bound, forward=changing(call.bound)))
    with pytest.raises(ChangedTensor, match="changed q in place in a replay of its CUDA graph"):
        time_graph(call, HostClock(), 0.01)


def test_a_backward_is_captured_on_inputs_of_its_own(fake_graphs):
    """A node of autograd that another stream has made would make the capture wait for it."""
    call, seen = checked_call(True), []

    def watching(right):
        def forward(*inputs):
            seen.extend(inputs)
            return right.forward(*inputs)

        return forward

    call = replace(call, bound=replace(call.bound, forward=watching(call.bound)))
    time_graph(call, HostClock(), 0.01)
    for own, earlier in zip(seen, call.bound.inputs, strict=True):
        assert own is not earlier
        assert own.data_ptr() == earlier.data_ptr()
        assert own.requires_grad
        assert own.is_leaf


# --- the option ---


class GraphsOnCPU:
    """A plugin that sets the option where it would be refused."""

    def pytest_collection_finish(self, session):
        session.config.option.cuda_graphs = True


def test_the_fields_of_the_graph_are_saved_only_with_the_option(tmp_path, monkeypatch):
    fields = {"graph_median_s": 1e-3, "graph_host_s": 1e-5}
    monkeypatch.setattr("maskbench.suite.cell.time_graph", lambda call, clock, seconds: fields)
    saved = {}
    for name, plugins in (("with", [GraphsOnCPU()]), ("without", [])):
        path = tmp_path / f"{name}.json"
        grid = ("--device=cpu", "--masks=causal", "--seq-lens=32", "--backends=sdpa")
        run = ("tests/test_forward.py", f"--benchmark-json={path}", "--benchmark-max-time=0.01")
        status, text = run_inline(*run, *grid, plugins=plugins)
        assert status == 0, text
        saved[name] = strict_json(path)["benchmarks"][0]["extra_info"]
    assert fields.items() <= saved["with"].items()
    assert not fields.keys() & saved["without"].keys()


def test_the_option_is_refused_on_a_cpu():
    status, text = run_inline("tests/test_forward.py", "--device=cpu", "--cuda-graphs")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--cuda-graphs: needs a GPU; the device of this run is cpu" in text
