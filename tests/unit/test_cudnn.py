"""How the backend `cudnn` makes and runs graphs, on the fake of its library."""

import sys

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.masks import Causal, Documents, LastQueries, PrefixLM, SlidingWindow
from tests.unit.plain_library import EXACT, formula, formula_difference

pytestmark = pytest.mark.parametrize("library", ["cudnn"])
N = 48


@pytest.fixture
def graphs(module, monkeypatch):
    """The graphs that the module makes, in order."""
    made = []

    class Recorded(sys.modules["cudnn"].pygraph):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(sys.modules["cudnn"], "pygraph", Recorded)
    return made


def qkv(mask, training=False, dtype=torch.float64):
    shapes = (2, 4, mask.q_len, 16), (2, 2, mask.seq_len, 16), (2, 2, mask.seq_len, 8)
    return [torch.randn(shape, dtype=dtype).requires_grad_(training) for shape in shapes]


TOP_LEFT, BOTTOM_RIGHT = "top left", "bottom right"
LAST_IN_DOCUMENTS = LastQueries(Documents((20, 28), Causal(seq_len=N)), 40)
BANDS = {
    "causal": (Causal(seq_len=N), TOP_LEFT, None, 0),
    "window": (SlidingWindow(5, 0, seq_len=N), TOP_LEFT, 6, 0),
    "both sides": (SlidingWindow(5, 7, seq_len=N), TOP_LEFT, 6, 7),
    "last queries": (LastQueries(SlidingWindow(5, 7, seq_len=N), 9), BOTTOM_RIGHT, 6, 7),
    "documents": (Documents((20, 28), SlidingWindow(5, 0, seq_len=N)), TOP_LEFT, 6, 0),
    "last documents": (
        LastQueries(Documents((20, 28), Causal(seq_len=N)), 40),
        BOTTOM_RIGHT,
        None,
        0,
    ),
}


@pytest.mark.parametrize("name", BANDS)
def test_a_window_is_a_diagonal_band(name, bind, graphs):
    mask, alignment, left, right = BANDS[name]
    assert formula_difference(bind, mask)[1] < EXACT
    forward, backward = (graph.arguments for graph in graphs)
    for arguments in (forward, backward):
        assert arguments["diagonal_alignment"] == alignment
        assert arguments["diagonal_band_left_bound"] == left
        assert arguments["diagonal_band_right_bound"] == right


def test_no_mask_has_no_band(bind, graphs):
    """An unbounded band would be checked by a kernel that needs no check."""
    formula_difference(bind, LastQueries(Causal(seq_len=N), 1))
    assert "diagonal_band_right_bound" not in graphs[0].arguments
    assert graphs[0].arguments["diagonal_alignment"] == TOP_LEFT


def test_a_graph_is_built_once_for_a_layout(bind, graphs):
    call = bind(PrefixLM(20, seq_len=N), *qkv(PrefixLM(20, seq_len=N), training=True))
    for _ in range(2):
        out = call.forward(*call.inputs)
        for _ in range(2):
            torch.autograd.grad(out, call.inputs, torch.ones_like(out), retain_graph=True)
    assert [len(graph.outputs) for graph in graphs] == [2, 2, 3, 3]


def test_statistics_are_computed_for_gradients_only(bind, graphs):
    mask = Causal(seq_len=N)
    call = bind(mask, *qkv(mask))
    call.forward(*call.inputs)
    assert graphs[0].outputs[1] is None
    call = bind(mask, *qkv(mask, training=True))
    with torch.no_grad():
        call.forward(*call.inputs)
    assert graphs[1].outputs[1] is None
    call.forward(*call.inputs)
    assert graphs[2].outputs[1] is not None


def test_sequences_without_queries_or_keys_are_left_out(module, graphs, monkeypatch):
    """cuDNN 9.19 returns NaN for them, so their results are written here."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(3))
    op = module.packed(torch.device("cpu"), [3, 2, 0, 4], [3, 0, 5, 4], (None, 0))
    q, k, v = (torch.randn(n, 2, 16, dtype=torch.float64) for n in (9, 12, 12))
    out, lse = op.forward(q, k, v)
    assert not out[3:5].any()
    assert torch.all(lse[:, 3:5] == -torch.inf)
    dq, dk, dv = op.backward(torch.ones_like(out), q, k, v, out, lse)
    assert not dq[3:5].any()
    assert not dk[3:8].any()
    assert not dv[3:8].any()
    rows, keys = slice(5, 9), slice(8, 12)
    as_batch = (t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
    expected = formula(Causal(seq_len=4), *as_batch)[0].transpose(0, 1)
    assert (out[rows] - expected).abs().max() < EXACT
    assert graphs[0].inputs["q"].dim == [2, 2, 4, 16]


def test_packed_single_queries_are_declared_longer_where_there_are_statistics(module, graphs):
    """cuDNN 9.19's kernel for one query writes wrong statistics of packed sequences."""
    op = module.packed(torch.device("cpu"), [1, 1], [5, 3], (None, None))
    q, k, v = (torch.randn(n, 2, 16, dtype=torch.float64) for n in (2, 8, 8))
    op.attend(q, k, v)
    out, lse = op.forward(q, k, v)
    op.backward(torch.ones_like(out), q, k, v, out, lse)
    assert [graph.inputs["q"].dim[2] for graph in graphs] == [1, 2, 2]
    assert [graph.inputs["k"].dim[2] for graph in graphs] == [5, 5, 5]


def test_backward_knows_the_number_of_packed_tokens(bind, graphs):
    formula_difference(bind, Documents((20, 28), Causal(seq_len=N)))
    arguments = graphs[1].arguments
    assert arguments["max_total_seq_len_q"] == arguments["max_total_seq_len_kv"] == 128  # of 2 * 48


def test_a_dout_with_strides_that_cudnn_does_not_take(bind):
    mask = Causal(seq_len=N)
    q, k, v = qkv(mask, training=True)
    call = bind(mask, q, k, v)
    got = torch.autograd.grad(call.forward(*call.inputs).sum(), call.inputs)
    expected = torch.autograd.grad(formula(mask, q, k, v).sum(), (q, k, v))
    for result, right in zip(got, expected, strict=True):
        assert (call.unpack(result) - right).abs().max() < EXACT


# The beginning of a refusal of cuDNN 9.19.1.
ENGINES = """No valid engine configs for ______________
{"engineId":0,"smVersion":900,"knobChoices":{"CUDNN_KNOB_TYPE_KERNEL_CFG":-1}}
Warning: CUDNN_STATUS_NOT_SUPPORTED; Reason: The matmul should either be an entrance node"""


@pytest.mark.parametrize("stage", ["validate", "create_execution_plans", "build_plans"])
def test_a_refusal_of_cudnn_is_the_reason(stage, bind, graphs, monkeypatch):
    cudnn = sys.modules["cudnn"]

    def refuse(*_):
        raise cudnn.cudnnGraphNotSupportedError(ENGINES)

    monkeypatch.setattr(cudnn.pygraph, stage, refuse)
    mask = Causal(seq_len=N)
    with pytest.raises(Unsupported, match=r"^cuDNN 9.19.0 refuses: No valid engine configs$"):
        formula_difference(bind, mask)


def test_another_error_is_none(bind, graphs, monkeypatch):
    def fail(_):
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(sys.modules["cudnn"].pygraph, "build_plans", fail)
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_EXECUTION_FAILED"):
        formula_difference(bind, Causal(seq_len=N))


def test_a_refusal_of_the_backward_reaches_the_caller(bind, graphs, monkeypatch):
    """Autograd runs it, in a thread of its own on a GPU."""
    cudnn = sys.modules["cudnn"]

    def refuse(*_, **__):
        raise cudnn.cudnnGraphNotSupportedError("no backward of this mask")

    mask = Causal(seq_len=N)
    call = bind(mask, *qkv(mask, training=True))
    out = call.forward(*call.inputs)
    monkeypatch.setattr(cudnn.pygraph, "validate", refuse)
    with pytest.raises(Unsupported, match="no backward of this mask"):
        out.sum().backward()


def test_a_missing_libcudnn_is_an_import_error(module, monkeypatch):
    def missing():
        raise RuntimeError("Unable to find symbol cudnnGetVersion")

    monkeypatch.setattr(sys.modules["cudnn"], "backend_version", missing)
    with pytest.raises(ImportError, match=r"does not find libcudnn\.so\.9: Unable to find symbol"):
        module.__spec__.loader.exec_module(module)
