"""The reference equals torch's attention in float64; its tolerance detects one wrong key."""

import pytest
import torch
import torch.nn.functional as F

from maskbench.masks import Causal, Documents, PrefixLM, SlidingWindow
from maskbench.reference import ieee_matmul
from maskbench.suite.attention_call import check_attention
from maskbench.suite.workload import Shape, make_inputs_with_reference
from tests.unit.conformance import (
    DTYPES,
    GROUPED_HEADS,
    MASKS,
    bind_or_skip,
    checked_inputs,
)


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
