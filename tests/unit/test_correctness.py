"""Every backend against the dense reference: forward everywhere, gradients where there are any."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from maskbench.reference import ieee_matmul
from maskbench.suite.cell import check_attention
from maskbench.suite.workload import CheckedInputs, Inputs, Shape, make_inputs_with_reference
from masks import PATTERNS

N = 300  # not a multiple of 128
LENGTHS = torch.tensor([[300], [171]])
MASKS = {
    "full": Full(seq_len=N),
    "causal": Causal(seq_len=N),
    "causal_sliding_window": SlidingWindow(100, 0, seq_len=N),
    "bidirectional_sliding_window": SlidingWindow(60, 70, seq_len=N),
    "bidirectional_dilated_sliding_window": DilatedSlidingWindow(150, 2, seq_len=N),
    "global_local_sliding_window": GlobalLocalSlidingWindow(40, (0, 130, 299), seq_len=N),
    "prefix_lm": PrefixLM(140, seq_len=N),
    "multi_document_bidirectional": Documents((7, 130, 100, 63), Full(seq_len=N)),
    "multi_document_causal": Documents((7, 130, 100, 63), Causal(seq_len=N)),
    "multi_document_prefix_lm": Documents((7, 130, 100, 63), PrefixLM(20, seq_len=N)),
    "standalone_self_attention": LocalAttention2D(20, 5, seq_len=N),
    "causal_padding": Padded(Causal(seq_len=N), torch.arange(N) >= LENGTHS),
}
HALF_ON_CPU = ("causal", "global_local_sliding_window", "multi_document_prefix_lm")


# With few heads FlashAttention-2 splits the keys, in kernels that some builds leave out.
HEADS = {"cuda": (32, 32), "cpu": (4, 4)}
GROUPED_HEADS = {"cuda": (32, 8), "cpu": (8, 2)}


def tensors_for(mask, device, dtype="float32", heads=HEADS, backward=False, head_dim=64):
    shape = Shape(mask.batch or 2, *heads[device], head_dim)
    return make_inputs_with_reference(mask, shape, dtype, device, backward)


def bound(backend, mask, tensors):
    """The backend's call, or a skip with its reason."""
    try:
        bind = registry.load(backend)
    except registry.BackendUnavailable as said:
        pytest.skip(str(said))
    try:
        return bind(mask, tensors.inputs.q, tensors.inputs.k, tensors.inputs.v)
    except Unsupported as reason:
        pytest.skip(str(reason))


def assert_right(backend, mask, tensors):
    compared, _ = check_attention(bound(backend, mask, tensors), tensors)
    assert compared.within_tolerance, compared


def test_every_backend_has_its_kernel_named():
    assert {*KERNELS, "sdpa", "dense"} == {*registry.BACKENDS}


def test_every_pattern_is_tried():
    assert {name: type(mask) for name, mask in MASKS.items()} == {
        name: type(pattern.example) for name, pattern in PATTERNS.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", MASKS)
def test_forward_agrees(name, backend, dtype, device):
    compiled_cpu = backend == "flex" and device == "cpu"
    if compiled_cpu and dtype != "float32" and name not in HALF_ON_CPU:
        pytest.skip("4 s of C++ compiler each: the half types are tried on three masks on a CPU")
    assert_right(backend, MASKS[name], tensors_for(MASKS[name], device, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", MASKS)
def test_gradients_agree(name, backend, dtype, device):
    tensors = tensors_for(MASKS[name], device, dtype, backward=True)
    assert_right(backend, MASKS[name], tensors)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", MASKS)
def test_grouped_queries_agree(name, backend, backward, device):
    if device == "cpu" and name not in ("causal", "causal_sliding_window", "causal_padding"):
        pytest.skip("grouped queries are tried on three masks on a CPU")
    dtype = "float16" if device == "cuda" else "float32"
    mask = MASKS[name]
    assert_right(backend, mask, tensors_for(mask, device, dtype, GROUPED_HEADS, backward))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", MASKS)
def test_head_dim_128_agrees(name, backend, backward, device):
    if device == "cpu":
        pytest.skip("head_dim chooses another kernel on CUDA only")
    mask = MASKS[name]
    tensors = tensors_for(mask, device, "bfloat16", GROUPED_HEADS, backward, head_dim=128)
    assert_right(backend, mask, tensors)


def between(n):
    return torch.rand(2, n, generator=torch.Generator().manual_seed(2)) < 0.3


PADDINGS = {
    "end": torch.arange(N) >= torch.tensor([[200], [300]]),
    "front": torch.arange(N) < torch.tensor([[129], [1]]),
    "between": between(N),
    "a whole element": torch.tensor([[True], [False]]).expand(2, N),
}


@pytest.mark.parametrize("inner", ["causal", "bidirectional_sliding_window"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("where", PADDINGS)
def test_padding_takes_no_part(where, backend, inner, device):
    if device == "cpu" and backend == "flex" and inner != "causal":
        pytest.skip("4 s of C++ compiler each: padding is tried around one mask on a CPU")
    mask = Padded(MASKS[inner], PADDINGS[where])
    dtype = "float16" if device == "cuda" else "float32"
    backward = device == "cuda" or backend != "flex"
    tensors = tensors_for(mask, device, dtype, backward=backward)
    call = bound(backend, mask, tensors)
    compared, _ = check_attention(call, tensors)
    assert compared.within_tolerance, compared
    padding = mask.padding.to(device)[:, None, :, None]
    out = call.forward(*call.inputs)
    assert (call.unpack(out).masked_select(padding) == 0).all(), "a padding query gives zeros"
    if backward:
        grads = torch.autograd.grad(out, call.inputs, call.pack(tensors.inputs.dout))
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


@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_padded_batch_gives_what_each_sequence_gives_alone(backend, device):
    dtype = torch.float16 if device == "cuda" else torch.float32
    draw = torch.Generator().manual_seed(3)
    lengths, n = [200, 77, 131], 200
    torch.manual_seed(0)
    with torch.no_grad():
        mask = Padded(Causal(seq_len=n), torch.arange(n) >= torch.tensor(lengths)[:, None])
        probe = torch.zeros(3, 4, n, 64, device=device, dtype=dtype)
        bound(
            backend, mask, CheckedInputs(Inputs(probe, probe, probe, None), None)
        )  # skips with its reason
        module = SelfAttention(registry.load(backend)).to(device, dtype)
        alone = SelfAttention(registry.load("dense"))
        alone.load_state_dict(module.state_dict())
        x = torch.randn(3, n, 256, generator=draw)
        together = module(x.to(device, dtype), mask)
        for i, length in enumerate(lengths):
            expected = alone(x[i : i + 1, :length], Causal(seq_len=length))
            got = together[i : i + 1, :length].float().cpu()
            tolerance = 5e-3 if device == "cuda" else 1e-5
            assert torch.allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MASKS)
def test_reference_is_torchs_attention(name):
    mask = MASKS[name]
    tensors = tensors_for(mask, "cpu", heads=GROUPED_HEADS, backward=True)
    q, k, v = (
        t.detach().double().requires_grad_()
        for t in (tensors.inputs.q, tensors.inputs.k, tensors.inputs.v)
    )
    allowed = mask.dense("cpu")
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True)
    grads = torch.autograd.grad(out, (q, k, v), tensors.inputs.dout.double())
    for name, expected in zip(("out", "dq", "dk", "dv"), (out, *grads), strict=True):
        got = tensors.reference.exact[name].reshape(expected.shape)
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_reference_leaves_torchs_precision_as_it_was(precision):
    product = torch.backends.cuda.matmul
    before, product.fp32_precision = product.fp32_precision, precision
    try:
        with ieee_matmul():
            assert product.fp32_precision == "ieee"
        make_inputs_with_reference(
            Causal(seq_len=8), Shape(1, 1, 1, 4), "float32", "cpu", backward=False
        )
        assert product.fp32_precision == precision
    finally:
        product.fp32_precision = before


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
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
    tensors = tensors_for(mask, "cpu", dtype, backward=True)
    right, _ = check_attention(bound("dense", mask, tensors), tensors)
    assert right.within_tolerance, right
    off, _ = check_attention(bound("dense", wrong, tensors), tensors)
    assert not off.within_tolerance, off


def test_nan_is_never_right():
    mask = MASKS["causal"]
    tensors = tensors_for(mask, "cpu")
    out = bound("dense", mask, tensors).forward(
        tensors.inputs.q, tensors.inputs.k, tensors.inputs.v
    )
    out[0, 0, 17, 3] = torch.nan
    assert not tensors.reference.compare({"out": out}).within_tolerance


KERNELS = {
    "sdpa_flash": r"pytorch_flash::flash_(fwd|bwd)",
    "sdpa_cudnn": r"cudnn",
    "sdpa_efficient": r"fmha_cutlass",
    "sdpa_math": r"gemm|softmax",
    "flex": r"triton_\w*flex_attention",
    "flex_flash": r"flash_attncuteflash_(fwd|bwd)",
    "flash_attn": r"\bflash::flash_(fwd|bwd)",
    "flash_attn_4": r"flash_attncuteflash_(fwd|bwd)",
    "torch_varlen": r"pytorch_flash::flash_(fwd|bwd)",
    "xformers": r"flash::flash_(fwd|bwd)",  # flash-attn's where it is installed, else torch's
}
ELSEWHERE = "flash_|cudnn|fmha|flex_attention"  # none of another library's


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ["causal", "bidirectional_sliding_window"])
@pytest.mark.parametrize("backend", KERNELS)
def test_backend_runs_the_kernel_it_is_named_for(backend, name, backward, device):
    if device != "cuda":
        pytest.skip("kernels are known by name on CUDA only")
    mask = MASKS[name]
    tensors = tensors_for(mask, device, "float16", backward=backward)
    _, call = check_attention(bound(backend, mask, tensors), tensors)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        call()
        torch.cuda.synchronize()
    names = [e.name for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert any(re.search(KERNELS[backend], n) for n in names), names
    others = [n for n in names if re.search(ELSEWHERE, n) and not re.search(KERNELS[backend], n)]
    assert not others, others
