"""The modules of the CUDA libraries, run on fakes with the same interface in plain torch.

This checks on any machine how each module calls its library: the order of arguments, windows,
lengths, layouts and return values. The libraries themselves run on CUDA, in test_correctness.py.
"""

import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.legacy_formulations import legacy_formulation
from maskbench.masks import GlobalLocalSlidingWindow, LocalAttention2D
from maskbench.varlen.ops import CAUSAL, FULL
from tests.unit.conformance import LOWERED, MASKS, assert_sentence
from tests.unit.plain_library import EXACT, PLAIN, difference


class Attention(torch.autograd.Function):
    """(out, lse) of a plain AttentionOp; lse has no gradient, as in FlashAttention-2."""

    @staticmethod
    def forward(ctx, q, k, v, op):
        out, lse = op.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.op = op
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx, dout, _):
        return *ctx.op.backward(dout, *ctx.saved_tensors), None


def op_for(q, k, window, starts=None):
    """The plain op of a call. `starts`: cu_seqlens of queries and keys, then their max lengths."""
    if starts is None:
        return PLAIN.batched(q.shape[1], k.shape[1], window)
    lengths = [cu.diff().tolist() for cu in starts[:2]]
    assert [max(n) for n in lengths] == list(starts[2:])
    assert all(cu.dtype == torch.int32 for cu in starts[:2])
    return PLAIN.packed(*lengths, window)


def as_window(causal, window, unbounded):
    if causal:
        assert window == (unbounded, unbounded)
        return CAUSAL
    return tuple(None if bound == unbounded else bound for bound in window)


def flash_attn():
    """flash-attn 2.8: flash_attn.flash_attn_interface."""
    none = (-1, -1)

    def function(q, k, v, causal=False, window_size=none, return_attn_probs=False):
        results = Attention.apply(q, k, v, op_for(q, k, as_window(causal, window_size, -1)))
        return (*results, None) if return_attn_probs else results[0]

    def varlen(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        window = as_window(options.get("causal", False), options.get("window_size", none), -1)
        op = op_for(q, k, window, (cu_q, cu_k, max_q, max_k))
        results = Attention.apply(q, k, v, op)
        return (*results, None) if options.get("return_attn_probs") else results[0]

    def backward(dout, q, k, v, out, lse, dq, dk, dv, *rest):
        *starts, dropout, scale, causal, left, right, softcap, slopes, deterministic = rest
        assert (dropout, softcap, slopes, deterministic) == (0.0, 0.0, None, False)
        assert scale == 1 / math.sqrt(q.shape[-1])
        op = op_for(q, k, as_window(causal, (left, right), -1), starts or None)
        for into, grad in zip((dq, dk, dv), op.backward(dout, q, k, v, out, lse), strict=True):
            into.copy_(grad)

    interface = {"_flash_attn_backward": backward, "_flash_attn_varlen_backward": backward}
    public = {"flash_attn_func": function, "flash_attn_varlen_func": varlen}
    return {"flash_attn": public, "flash_attn.flash_attn_interface": interface}


@dataclass
class Blocks:
    """The fake of flash-attn-4's block lists: by query block, or by key block."""

    count: torch.Tensor
    index: torch.Tensor
    full_count: torch.Tensor
    full_index: torch.Tensor
    block_size: tuple[int, int]

    def listed(self, count, index):
        """bool [rows, columns] of blocks."""
        chosen = torch.arange(index.shape[-1]) < count[0, 0, :, None]
        return torch.zeros_like(chosen).scatter_(-1, index[0, 0].long(), chosen)


def block_sparse(q, k, v, mask_mod, aux_tensors, block_sparse_tensors, block_sparse_tensors_bwd):
    """flash-attn-4 with a mask_mod, which it calls in partial blocks only."""
    at, (rows, columns) = torch.arange(q.shape[1]), block_sparse_tensors.block_size
    by_mod = mask_mod(None, None, [at[:, None]], [at], None, aux_tensors)
    both = []
    for blocks in (block_sparse_tensors, block_sparse_tensors_bwd):
        pair = (blocks.count, blocks.index), (blocks.full_count, blocks.full_index)
        both.append([blocks.listed(*lists) for lists in pair])
    (partial, full), transposed = both
    assert torch.equal(partial, transposed[0].T)
    assert torch.equal(full, transposed[1].T)
    where = (at[:, None] // rows, at // columns)
    allowed = full[where] | partial[where] & by_mod
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, allowed, enable_gqa=grouped).transpose(1, 2)


def flash_attn_4():
    """flash-attn-4: flash_attn.cute, whose functions return (out, lse)."""
    none = (None, None)

    def function(q, k, v, causal=False, window_size=none, return_lse=False, **own):
        if own:
            return block_sparse(q, k, v, **own), None
        return Attention.apply(q, k, v, op_for(q, k, as_window(causal, window_size, None)))

    def named(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k):
        return cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k

    def varlen(q, k, v, causal=False, window_size=none, return_lse=False, **lengths):
        op = op_for(q, k, as_window(causal, window_size, None), named(**lengths))
        return Attention.apply(q, k, v, op)

    def backward(q, k, v, out, dout, lse, causal, window_size_left, window_size_right, **lengths):
        window = as_window(causal, (window_size_left, window_size_right), None)
        op = op_for(q, k, window, named(**lengths) if lengths else None)
        return op.backward(dout, q, k, v, out, lse)

    public = {"flash_attn_func": function, "flash_attn_varlen_func": varlen}
    return {
        "cutlass": {"const_expr": bool, "Boolean": bool, "cute": SimpleNamespace(jit=lambda f: f)},
        "flash_attn": {},
        "flash_attn.cute": {**public, "utils": SimpleNamespace(scalar_to_ssa=lambda x, kind: x)},
        "flash_attn.cute.block_sparsity": {"BlockSparseTensorsTorch": Blocks},
        "flash_attn.cute.interface": {"_flash_attn_bwd": backward},
    }


@dataclass
class Bias:
    """The base of the fakes of xFormers' attention biases."""

    window: tuple
    lengths: tuple | None = None

    @classmethod
    def from_seqlens(cls, q_lengths, k_lengths, device):
        return cls(FULL, (q_lengths, k_lengths))

    def make_causal(self):
        assert self.lengths[0] == self.lengths[1]
        return BlockDiagonalCausalMask(CAUSAL, self.lengths)

    def make_causal_from_bottomright(self):
        return BlockDiagonalCausalFromBottomRightMask(CAUSAL, self.lengths)


class BlockDiagonalMask(Bias):
    pass


class BlockDiagonalCausalMask(Bias):
    pass


class BlockDiagonalCausalFromBottomRightMask(Bias):
    pass


class LowerTriangularMask(Bias):
    def __init__(self):
        super().__init__(CAUSAL)


class LowerTriangularFromBottomRightMask(LowerTriangularMask):
    pass


class LocalAttentionFromBottomRightMask(Bias):
    def __init__(self, left, right):
        super().__init__((left, right))


def xformers():
    """xFormers 0.0.35: packed sequences are a batch of one, groups a dimension, keys expanded."""

    def kernel(q, k, bias):
        if bias is None or bias.lengths is None:
            return PLAIN.batched(q.shape[1], k.shape[1], bias.window if bias else FULL)
        assert len(q) == 1
        return PLAIN.packed(*bias.lengths, bias.window)

    def plain(q, k, v, bias):
        """The operands without the group dimension, and without the batch if packed."""
        pack, group = bias is not None and bias.lengths is not None, q.dim() == 5
        if group:
            q, k, v = q.flatten(2, 3), k[:, :, :, 0], v[:, :, :, 0]
        return [t[0] if pack else t for t in (q, k, v)]

    def attention(q, k, v, attn_bias):
        operands = plain(q, k, v, attn_bias)
        return Attention.apply(*operands, kernel(q, k, attn_bias))[0].reshape(q.shape)

    def forward(q, k, v, attn_bias):
        out, lse = Attention.apply(*plain(q, k, v, attn_bias), kernel(q, k, attn_bias))
        lse = lse if lse.dim() == 3 else lse[None]
        return out.reshape(q.shape), lse.unflatten(1, q.shape[2:4]) if q.dim() == 5 else lse

    def backward(dout, out, lse, q, k, v, attn_bias):
        assert q.dim() == 4, "grouped queries have no backward"
        run = kernel(q, k, attn_bias)
        if attn_bias is None or attn_bias.lengths is None:
            return run.backward(dout, q, k, v, out, lse)
        return tuple(g[None] for g in run.backward(*(t[0] for t in (dout, q, k, v, out, lse))))

    biases = (
        BlockDiagonalMask,
        LowerTriangularMask,
        LowerTriangularFromBottomRightMask,
        LocalAttentionFromBottomRightMask,
    )
    return {
        "xformers": {},
        "xformers.ops": {"memory_efficient_attention": attention},
        "xformers.ops.fmha": {
            "memory_efficient_attention_backward": backward,
            "memory_efficient_attention_forward_requires_grad": forward,
        },
        "xformers.ops.fmha.attn_bias": {bias.__name__: bias for bias in biases},
    }


def torch_varlen():
    """torch.nn.attention.varlen. `aten_backward` below stands for its private operator."""

    def varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size, return_aux=None):
        window = as_window(False, window_size, -1)
        results = Attention.apply(q, k, v, op_for(q, k, window, (cu_q, cu_k, max_q, max_k)))
        return results if return_aux else results[0]

    return {"torch.nn.attention.varlen": {"varlen_attn": varlen_attn, "AuxRequest": dict}}


def aten_backward(*given, window_size_left, window_size_right):
    dout, q, k, v, out, lse, *starts, dropout, causal, _, _ = given
    window = as_window(False, (window_size_left, window_size_right), -1)
    assert (dropout, causal) == (0.0, window == CAUSAL)
    return op_for(q, k, window, starts).backward(dout, q, k, v, out, lse)


def flex_flash():
    """The package whose kernels torch would run. Only its import is needed here."""
    return {"flash_attn": {}, "flash_attn.cute": {}}


RUN_FAKES = {f.__name__: f for f in (flash_attn, flash_attn_4, xformers, torch_varlen)}
PACKAGES = {**RUN_FAKES, "flex_flash": flex_flash}


@pytest.fixture
def module(library, monkeypatch, tmp_path):
    """The library's module, executed anew with the fakes in place of its packages."""
    for name, members in PACKAGES[library]().items():
        fake = ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
    if library == "xformers":
        (tmp_path / "_C.so").touch()
        sys.modules["xformers"].__file__ = str(tmp_path / "__init__.py")
        sys.modules["xformers"].ops = sys.modules["xformers.ops"]
        monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", aten_backward)
    monkeypatch.setattr("maskbench.varlen.ops.require_cuda_half", lambda library, q: None)
    path = Path(registry.__file__).with_name(f"{library}.py")
    spec = importlib.util.spec_from_file_location(f"{library}_alone", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bind(module, library):
    return module.BACKENDS[library]


LOWERED_MASKS = [name for name in MASKS if name != "standalone_self_attention"]


def assert_exact_or_reason(bind, mask, **options):
    """Check the result. Only masks that are not in `conformance.LOWERED` may be unsupported."""
    try:
        formulation, error = difference(bind, mask, **options)
    except Unsupported as reason:
        assert_sentence(reason)
        if mask in [MASKS[name] for name in LOWERED]:
            raise
    else:
        assert error < EXACT, formulation
        assert legacy_formulation(formulation.text) == formulation.id


@pytest.mark.parametrize("library", RUN_FAKES)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", LOWERED_MASKS)
def test_library_is_called_by_its_interface(name, kv_heads, library, bind):
    if library == "xformers" and kv_heads != 4:
        with pytest.raises(Unsupported, match="grouped queries in the forward only"):
            difference(bind, MASKS[name], kv_heads=kv_heads)
        return
    assert_exact_or_reason(bind, MASKS[name], kv_heads=kv_heads)


@pytest.mark.parametrize("library", ["xformers"])
@pytest.mark.parametrize("name", LOWERED_MASKS)
def test_xformers_forward_of_grouped_queries(name, library, bind):
    assert_exact_or_reason(bind, MASKS[name], backward=False)


@pytest.mark.parametrize("library", ["flash_attn_4"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "mask",
    [
        LocalAttention2D(16, 3, seq_len=300),
        LocalAttention2D(20, 5, seq_len=300),
        GlobalLocalSlidingWindow(40, (0, 128, 256), seq_len=300),
        MASKS["multi_document_prefix_lm"],
        MASKS["prefix_lm"],
    ],
    ids=["bits", "division", "evenly_global", "documents", "prefix"],
)
def test_native_mask_mods_compute_the_masks(mask, backward, library, bind):
    formulation, error = difference(bind, mask, backward=backward)
    merged = mask == MASKS["prefix_lm"] and not backward
    assert formulation.id == ("prefix_two_calls" if merged else "mask_mod:128x128")
    text = "2 calls" if merged else "mask_mod + block sparsity 128x128"
    assert formulation.text.startswith(text)
    assert legacy_formulation(formulation.text) == formulation.id
    assert error < EXACT, formulation


@pytest.mark.parametrize("library", ["flash_attn_4"])
@pytest.mark.parametrize(
    ("seq_len", "head_dim", "training", "native"),
    [
        (8192, 64, False, False),
        (8192, 64, True, True),
        (4096, 64, False, True),
        (8192, 128, False, True),
    ],
)
def test_global_local_is_merged_where_that_is_faster(
    seq_len, head_dim, training, native, library, module
):
    mask = GlobalLocalSlidingWindow(256, (0, 512, 1024), seq_len=seq_len)
    q = torch.zeros(1, 1, seq_len, head_dim, requires_grad=training)
    assert (module.native_mask_mod(mask, q) is not None) is native


@pytest.mark.parametrize("library", ["flex_flash"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("width", "seq_len"), [(16, 256), (20, 300), (1, 32)])
def test_mask_mod_without_shifts_is_the_same_mask(width, seq_len, training, library, module):
    variant = module.LocalAttention2DNoShift(width, 3, training, seq_len=seq_len)
    mask = LocalAttention2D(width, 3, seq_len=seq_len)
    assert torch.equal(variant.dense("cpu"), mask.dense("cpu"))
