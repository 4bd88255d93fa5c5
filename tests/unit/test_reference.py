"""The reference equals torch's attention in float64; its tolerance detects one wrong key."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maskbench import reference
from maskbench.masks import Causal, Documents, LastQueries, PrefixLM, SlidingWindow
from maskbench.reference import Comparison, ieee_matmul
from maskbench.suite.attention_call import check_attention
from maskbench.suite.workload import Shape, make_inputs_with_reference
from tests.unit.conformance import (
    DTYPES,
    GROUPED_HEADS,
    MASKS,
    bind_or_skip,
    checked_inputs,
)

ALL, NONE = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize("name", MASKS)
def test_reference_is_torchs_attention(name):
    mask = MASKS[name]
    checked = checked_inputs(mask, "cpu", heads=GROUPED_HEADS, backward=True)
    *qkv, dout = checked.inputs
    q, k, v = (t.detach().double().requires_grad_() for t in qkv)
    allowed = mask.dense("cpu")
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True)
    grads = torch.autograd.grad(out, (q, k, v), dout.double())
    for tensor, expected in zip(("out", "dq", "dk", "dv"), (out, *grads), strict=True):
        result = checked.reference.exact[tensor].reshape(expected.shape)
        assert torch.allclose(result, expected, rtol=1e-9, atol=1e-12), tensor


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_reference_restores_torchs_precision(precision):
    setting = torch.backends.cuda.matmul
    before, setting.fp32_precision = setting.fp32_precision, precision
    try:
        with ieee_matmul():
            assert setting.fp32_precision == "ieee"
        make_inputs_with_reference(
            Causal(seq_len=8), Shape(1, 1, 1, 4), "float32", "cpu", backward=False
        )
        assert setting.fp32_precision == precision
    finally:
        setting.fp32_precision = before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mask", "wrong"),
    [
        (SlidingWindow(64, 0, seq_len=512), SlidingWindow(65, 0, seq_len=512)),
        (SlidingWindow(64, 64, seq_len=512), SlidingWindow(64, 63, seq_len=512)),
        (PrefixLM(128, seq_len=512), PrefixLM(127, seq_len=512)),
        (Documents((256, 256), Causal(seq_len=512)), Documents((255, 257), Causal(seq_len=512))),
    ],
)
def test_one_key_too_many_or_too_few_is_wrong(mask, wrong, dtype):
    checked = checked_inputs(mask, "cpu", dtype, backward=True)
    comparison, _ = check_attention(bind_or_skip("dense", mask, checked.inputs), checked)
    assert comparison.within_tolerance, comparison
    comparison, _ = check_attention(bind_or_skip("dense", wrong, checked.inputs), checked)
    assert not comparison.within_tolerance, comparison


def test_nan_is_never_within_tolerance():
    mask = MASKS["causal"]
    checked = checked_inputs(mask, "cpu")
    call = bind_or_skip("dense", mask, checked.inputs)
    out = call.forward(*call.inputs)
    out[0, 0, 17, 3] = torch.nan
    assert not checked.reference.compare({"out": out}).within_tolerance


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_is_float64_and_the_error_of_each_tensor_is_known(dtype):
    checked = checked_inputs(MASKS["causal"], "cpu", dtype, backward=True)
    assert {t.dtype for t in checked.reference.exact.values()} == {torch.float64}
    call = bind_or_skip("dense", MASKS["causal"], checked.inputs)
    comparison, _ = check_attention(call, checked)
    assert comparison.errors.keys() == {"out", "dq", "dk", "dv"}
    eps = torch.finfo(getattr(torch, dtype)).eps
    for name, error in comparison.errors.items():
        assert 0 < error <= comparison.bounds[name]
        dense = comparison.dense_errors[name]
        assert 0 < dense < 100 * eps
        assert comparison.bounds[name] == 2 * dense + 2 * eps
    fields = comparison.fields()
    assert fields["error"] == fields["errors"][fields["error_of"]]
    assert fields["error_bound"] == fields["error_bounds"][fields["error_of"]]


def test_the_tensor_nearest_to_its_bound_is_named():
    bounds = {"out": 1.0, "dq": 10.0, "dk": 1.0}
    comparison = Comparison({"out": 0.5, "dq": 2.0, "dk": 0.7}, bounds, bounds, "all")
    assert (comparison.tensor, comparison.error, comparison.bound) == ("dk", 0.7, 1.0)
    assert comparison.within_tolerance
    comparison = Comparison({"out": 5.0, "dq": math.nan, "dk": 0.7}, bounds, bounds, "all")
    assert comparison.tensor == "dq"
    assert not comparison.within_tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_chunk_of_float64_has_half_as_many_scores(dtype, monkeypatch):
    """They take as much memory as those of float32."""
    monkeypatch.setattr(reference, "CHUNK_SCORES", {"cpu": 8 * 64})
    rows = []
    mask = MASKS["causal"]
    monkeypatch.setattr(
        type(mask), "dense_rows", lambda self, start, stop, device: rows.append(stop - start) or ALL
    )
    q = torch.randn(1, 1, 64, 8, dtype=dtype)
    reference.attention(Causal(seq_len=64), q, q, q, None, (NONE, NONE), dtype)
    assert set(rows) == {4 if dtype == torch.float64 else 8}


def test_the_keys_of_the_compared_heads_are_limited(monkeypatch):
    """A batch of decoding has few scores for many keys, which the reference holds in float64."""
    q, k = torch.empty(8, 4, 1, 16), torch.empty(8, 2, 100, 16)
    batches, kv_heads = reference.sample_heads(q, k)
    assert len(batches) == 16
    monkeypatch.setattr(reference, "MAX_KEY_NUMBERS", {"cpu": 5 * 100 * 16})
    batches, kv_heads = reference.sample_heads(q, k)
    assert len(batches) == 5
    assert (batches[0], kv_heads[0], batches[-1], kv_heads[-1]) == (0, 0, 7, 1)


def test_grouped_queries_do_not_copy_the_keys():
    """A copy for each query head of 32 on 8 took 32 GiB for 128 sequences of 8192 keys."""

    class LargestTensor(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, torch.Tensor) and "expand" not in function.__name__:
                self.numel = max(self.numel, result.numel())
            return result

    mask = LastQueries(Causal(seq_len=512), 1)
    q, k = torch.randn(1, 8, 1, 32), torch.randn(1, 1, 512, 32)
    with LargestTensor() as largest:
        reference.attention(mask, q, k, k, None, (NONE, NONE), torch.float64)
    assert largest.numel <= 8 * 512 * 32 // 8
