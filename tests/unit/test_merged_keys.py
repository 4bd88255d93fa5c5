"""Merged calls in half precision, with a library in plain torch that rounds its outputs."""

import pytest
import torch

from maskbench.masks import GlobalLocalSlidingWindow, ImageInCausal, SharedPrefix, SinkSlidingWindow
from maskbench.varlen.lowering import lower
from maskbench.varlen.merged_keys import merge_rows
from maskbench.varlen.ops import AttentionOp, FlashLibrary
from tests.unit.plain_library import PLAIN, formula

# Some queries have many keys in one call and few in the other. `reversed` swaps the two calls. In
# `mixed`, it depends on the query which of them has more.
MASKS = {
    "few_global_tokens": GlobalLocalSlidingWindow(64, (0, 400, 800), seq_len=1000),
    "few_global_tokens_reversed": GlobalLocalSlidingWindow(0, tuple(range(700)), seq_len=1000),
    "sinks": SinkSlidingWindow(500, 1, seq_len=1000),
    "sinks_reversed": SinkSlidingWindow(0, 100, seq_len=1000),
    "responses": SharedPrefix(900, (50, 50)),
    "responses_mixed": SharedPrefix(100, (450, 450)),
    "text_first": ImageInCausal(((500, 400),), seq_len=1000),
    "long_image_mixed": ImageInCausal(((1, 900),), seq_len=1000),
}
BOUND = 2  # the smallest difference of numbers near 1: each call rounds its output, too


def rounding(op):
    """The forward of an op, whose output is rounded to the data type of v."""

    def forward(q, k, v):
        out, lse = op.forward(q.double(), k.double(), v.double())
        return out.to(v.dtype), lse.float()

    return AttentionOp(op.formulation, lambda q, k, v: forward(q, k, v)[0], forward, op.backward)


ROUNDING = FlashLibrary(
    lambda *arguments: rounding(PLAIN.batched(*arguments)),
    lambda *arguments: rounding(PLAIN.packed(*arguments)),
)


def largest_error(mask, dtype):
    """Of all rows, relative to the largest number of the row."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, mask.seq_len, 32, generator=generator).to(dtype) for _ in "qkv")
    call = lower(ROUNDING, mask, q, k, v)
    out = call.unpack(call.forward(*call.inputs)).double()
    exact = formula(mask, q.double(), k.double(), v.double())
    return float(((out - exact).abs().amax(-1) / exact.abs().amax(-1)).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MASKS)
def test_merging_adds_few_rounding_errors(name, dtype):
    assert largest_error(MASKS[name], dtype) < BOUND * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "name", ["few_global_tokens_reversed", "sinks_reversed", "long_image_mixed"]
)
def test_the_other_weight_alone_is_too_inexact(name, monkeypatch):
    """A negative control: as if the second result always had fewer keys."""

    def always_fewer(first, second, rows, _):
        return merge_rows(first, second, rows, second_has_fewer_keys=True)

    for module in ("merged_keys", "shared_prefix"):
        monkeypatch.setattr(f"maskbench.varlen.{module}.merge_rows", always_fewer)
    assert largest_error(MASKS[name], torch.bfloat16) > BOUND * torch.finfo(torch.bfloat16).eps
