"""Every backend against the reference: forward, gradients, grouped queries, padding, kernels."""

import re
from itertools import cycle, product

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from maskbench.backends import registry
from maskbench.masks import Causal, LastQueries, Padded
from maskbench.suite.attention_call import check_attention
from maskbench.suite.workload import Inputs
from masks import PATTERNS
from tests.unit.conformance import (
    DTYPES,
    GROUPED_HEADS,
    MASKS,
    PHASES,
    N,
    assert_agrees,
    bind_or_skip,
    checked_inputs,
    for_each_backend,
    pytest_generate_tests,  # noqa: F401
)

# On a CPU a backend that compiles takes 4 s for each case. The code of the mask and that of the
# data type do not meet, so each mask has one data type. test_last_queries_agree has float32.
FORWARD_COMPILED = {
    *(f"{name}-{dtype}" for name, dtype in zip(MASKS, cycle(DTYPES))),
    *(f"causal-{dtype}" for dtype in DTYPES),
}


@for_each_backend(
    {"name": MASKS, "dtype": DTYPES},
    fast=("causal-float32", "multi_document_causal-float32", "causal-float16"),
    compiled=FORWARD_COMPILED,
)
def test_forward_agrees(name, dtype, backend, device):
    assert_agrees(backend, MASKS[name], checked_inputs(MASKS[name], device, dtype))


# On a CPU the gradients in half precision take as long as everything else in this module.
HALF_FAST = ("causal", "global_local_sliding_window", "multi_document_prefix_lm")
HALF_SLOW = [
    f"{name}-{dtype}"
    for name, dtype in product(MASKS, ("float16", "bfloat16"))
    if name not in HALF_FAST
]


@for_each_backend({"name": MASKS, "dtype": DTYPES}, fast=("causal-float32",), slow=HALF_SLOW)
def test_gradients_agree(name, dtype, backend, device):
    checked = checked_inputs(MASKS[name], device, dtype, backward=True)
    assert_agrees(backend, MASKS[name], checked)


# The masks that a batch element or a head has of its own, and one that all share.
MASKS_OF_EACH_KIND = ("causal", "causal_padding", "block_sparse")
# test_last_queries_agree has grouped queries with the other masks.
GROUPED_COMPILED = [
    *(f"{name}-forward" for name in MASKS_OF_EACH_KIND),
    *(f"{name}-backward" for name in MASKS),
]


@for_each_backend(
    {"name": MASKS, "phase": PHASES}, fast=("causal-forward",), compiled=GROUPED_COMPILED
)
def test_grouped_queries_agree(name, phase, backend, device):
    dtype = "float16" if device == "cuda" else "float32"
    checked = checked_inputs(MASKS[name], device, dtype, GROUPED_HEADS, PHASES[phase])
    assert_agrees(backend, MASKS[name], checked)


QUERIES = ("1", "16", "130")
# At this length FlexAttention has one kernel for any number of queries on a CPU.
LAST_QUERIES_COMPILED = [
    *(f"{name}-130-forward" for name in MASKS),
    *(f"{name}-{queries}-forward" for name in MASKS_OF_EACH_KIND for queries in QUERIES),
    *(f"{name}-{queries}-backward" for name in MASKS for queries in QUERIES),
]


@for_each_backend(
    {"name": MASKS, "queries": QUERIES, "phase": PHASES},
    fast=("causal-16-forward",),
    compiled=LAST_QUERIES_COMPILED,
)
def test_last_queries_agree(name, queries, phase, backend, device):
    mask, dtype = (
        LastQueries(MASKS[name], int(queries)),
        "float16" if device == "cuda" else "float32",
    )
    checked = checked_inputs(mask, device, dtype, GROUPED_HEADS, PHASES[phase])
    assert_agrees(backend, mask, checked)


@for_each_backend({"name": ("full", "causal_sliding_window", "causal_padding", "block_sparse")})
def test_one_query_of_many_keys_agrees(name, backend, device):
    """From 512 keys for each batch element, FlexAttention decodes with another kernel on a CPU."""
    heads = GROUPED_HEADS
    mask = PATTERNS[name](seq_len=1024, batch=2, heads=heads[0])
    dtype = "float16" if device == "cuda" else "float32"
    last = LastQueries(mask, 1)
    assert_agrees(backend, last, checked_inputs(last, device, dtype, heads))


@for_each_backend(
    {"name": ("full", "causal", "causal_sliding_window", "prefix_tree"), "phase": PHASES},
    fast=("causal-forward",),
)
def test_another_head_dim_of_v_agrees(name, phase, backend, device):
    dtype = "bfloat16" if device == "cuda" else "float32"
    dims = {"head_dim": 192, "v_head_dim": 128}
    checked = checked_inputs(MASKS[name], device, dtype, None, PHASES[phase], **dims)
    assert_agrees(backend, MASKS[name], checked)


# On a CPU head_dim does not select another kernel.
@for_each_backend({"name": MASKS, "phase": PHASES}, devices=("cuda",))
def test_head_dim_128_agrees(name, phase, backend, device):
    heads, backward = GROUPED_HEADS, PHASES[phase]
    checked = checked_inputs(MASKS[name], device, "bfloat16", heads, backward, head_dim=128)
    assert_agrees(backend, MASKS[name], checked)


# --- padding ---

PADDINGS = {
    "end": torch.arange(N) >= torch.tensor([[200], [300]]),
    "front": torch.arange(N) < torch.tensor([[129], [1]]),
    "between": torch.rand(2, N, generator=torch.Generator().manual_seed(2)) < 0.3,
    "a whole element": torch.tensor([[True], [False]]).expand(2, N),
}


@for_each_backend(
    {"where": PADDINGS, "inner": ("causal", "bidirectional_sliding_window")},
    fast=("between-causal",),
)
def test_padding_gives_zeros_and_gets_no_gradient(where, inner, backend, device):
    mask = Padded(MASKS[inner], PADDINGS[where])
    dtype = "float16" if device == "cuda" else "float32"
    backward = device == "cuda" or backend != "flex"  # FlexAttention has no backward on a CPU
    checked = checked_inputs(mask, device, dtype, backward=backward)
    call = bind_or_skip(backend, mask, checked.inputs)
    comparison, _ = check_attention(call, checked)
    assert comparison.within_tolerance, comparison
    padding = mask.padding.to(device)[:, None, :, None]
    out = call.forward(*call.inputs)
    assert (call.unpack(out).masked_select(padding) == 0).all(), "a padding query gives zeros"
    if backward:
        grads = torch.autograd.grad(out, call.inputs, call.pack(checked.inputs.dout))
        for grad in map(call.unpack, grads):
            assert grad.isfinite().all()
            assert (grad.masked_select(padding) == 0).all(), "padding gets no gradient"


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention as in a small model; the mask comes with the batch."""

    def __init__(self, bind, width=256, heads=4):
        super().__init__()
        self.bind, self.heads = bind, heads
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)

    def forward(self, x, mask):
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        call = self.bind(mask, *(t.contiguous() for t in split))
        attended = call.unpack(call.forward(*call.inputs))
        return self.out(attended.transpose(1, 2).flatten(2))


@for_each_backend({})
def test_padded_batch_equals_each_sequence_by_itself(backend, device):
    dtype = torch.float16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(3)
    lengths, n = [200, 77, 131], 200
    torch.manual_seed(0)
    with torch.no_grad():
        mask = Padded(Causal(seq_len=n), torch.arange(n) >= torch.tensor(lengths)[:, None])
        probe = torch.zeros(3, 4, n, 64, device=device, dtype=dtype)
        bind_or_skip(backend, mask, Inputs(probe, probe, probe, None))
        module = SelfAttention(registry.load(backend)).to(device, dtype)
        single = SelfAttention(registry.load("dense"))
        single.load_state_dict(module.state_dict())
        x = torch.randn(3, n, 256, generator=generator)
        batched = module(x.to(device, dtype), mask)
        for i, length in enumerate(lengths):
            expected = single(x[i : i + 1, :length], Causal(seq_len=length))
            result = batched[i : i + 1, :length].float().cpu()
            tolerance = 5e-3 if device == "cuda" else 1e-5
            assert torch.allclose(result, expected, rtol=tolerance, atol=tolerance)


# --- kernels ---

KERNEL_PATTERNS = {
    spec.name: spec.kernel_pattern for spec in registry.BACKENDS.values() if spec.kernel_pattern
}
ATTENTION_KERNEL = "flash_|cudnn|fmha|flex_attention"  # of any library


# Kernels have names on CUDA only.
@for_each_backend(
    {"name": ("causal", "bidirectional_sliding_window"), "phase": PHASES},
    devices=("cuda",),
    backends=KERNEL_PATTERNS,
)
def test_backend_runs_its_own_kernel(name, phase, backend, device):
    mask, pattern = MASKS[name], KERNEL_PATTERNS[backend]
    checked = checked_inputs(mask, device, "float16", backward=PHASES[phase])
    _, call = check_attention(bind_or_skip(backend, mask, checked.inputs), checked)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        call()
        torch.cuda.synchronize()
    names = [e.name for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert any(re.search(pattern, n) for n in names), names
    others = [n for n in names if re.search(ATTENTION_KERNEL, n) and not re.search(pattern, n)]
    assert not others, others


@pytest.mark.parametrize("backend", KERNEL_PATTERNS)
def test_kernel_pattern_is_a_regular_expression(backend):
    re.compile(KERNEL_PATTERNS[backend])
