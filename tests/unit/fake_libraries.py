"""The CUDA libraries' interfaces in plain torch, for test_library_calls.py.

Each function returns the modules of one package and their members.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from maskbench.varlen.ops import CAUSAL
from tests.unit.fake_cudnn import cudnn
from tests.unit.fake_xformers import xformers
from tests.unit.plain_library import PLAIN, Attention


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
        """bool [1 or B, 1 or H, rows, columns] of blocks."""
        chosen = torch.arange(index.shape[-1]) < count[..., None]
        return torch.zeros_like(chosen).scatter_(-1, index.long(), chosen)


def block_sparse(q, k, v, mask_mod, aux_tensors, block_sparse_tensors, block_sparse_tensors_bwd):
    """flash-attn-4 with a mask_mod, which it calls in partial blocks only."""
    rows, columns = block_sparse_tensors.block_size
    batch, head, at, keys = (torch.arange(n) for n in (*q.shape[::2], q.shape[1], k.shape[1]))
    batch, head, at = batch.view(-1, 1, 1, 1), head.view(-1, 1, 1), at.view(-1, 1)
    by_mod = mask_mod([batch], [head], [at], [keys], None, aux_tensors)
    both = []
    for blocks in (block_sparse_tensors, block_sparse_tensors_bwd):
        pair = (blocks.count, blocks.index), (blocks.full_count, blocks.full_index)
        both.append([blocks.listed(*lists) for lists in pair])
    (partial, full), transposed = both
    assert torch.equal(partial, transposed[0].mT)
    assert torch.equal(full, transposed[1].mT)
    where = (..., at // rows, keys // columns)
    allowed = full[where] | partial[where] & by_mod
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, allowed, enable_gqa=grouped).transpose(1, 2)


def validate_head_dims(head_dim, v_head_dim, architecture, alignment):
    assert all(n <= 256 and n % alignment == 0 for n in (head_dim, v_head_dim)), (
        f"(head_dim, head_dim_v)=({head_dim}, {v_head_dim}) is not supported on SM{architecture}0."
    )


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
        "flash_attn.cute.interface": {
            "_flash_attn_bwd": backward,
            "_validate_head_dims": validate_head_dims,
        },
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


RUN_FAKES = {f.__name__: f for f in (flash_attn, flash_attn_4, xformers, torch_varlen, cudnn)}
PACKAGES = {**RUN_FAKES, "flex_flash": flex_flash}
