"""xFormers' memory_efficient_attention, with the kernel that it chooses itself.

https://facebookresearch.github.io/xformers/components/ops.html
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import xformers
import xformers.ops as xops
from torch import Tensor
from xformers.ops.fmha import (
    memory_efficient_attention_backward,
    memory_efficient_attention_forward_requires_grad,
)
from xformers.ops.fmha.attn_bias import (
    BlockDiagonalMask,
    LocalAttentionFromBottomRightMask,
    LowerTriangularFromBottomRightMask,
    LowerTriangularMask,
)

from maskbench.attention import BoundAttention, Unsupported
from maskbench.backends.dense import additive_bias
from maskbench.masks import LocalAttention2D, Mask
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import CAUSAL, FULL, AttentionOp, FlashLibrary, Window, require_cuda_half

# Where its kernels do not load (without libcudart.so.12, say) xFormers only warns, and every
# operator is then missing. Loading them again raises what was wrong.
KERNELS = list(Path(xformers.__file__).parent.glob("_C*.so"))
if not KERNELS:
    raise ImportError(
        f"this xformers has no compiled kernels: no _C*.so beside {xformers.__file__}"
    )
torch.ops.load_library(KERNELS[0])


def grouped(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Grouped queries as xFormers has them: [..., kv_heads, group, head_dim], keys expanded."""
    kv_heads = k.shape[-2]
    if q.shape[-2] == kv_heads:
        return q, k, v
    q = q.unflatten(-2, (kv_heads, -1))
    k, v = (t.unsqueeze(-2).expand(*t.shape[:-1], q.shape[-2], t.shape[-1]) for t in (k, v))
    return q, k, v


def kernel(form: str, bias, in_pack: bool) -> AttentionOp:
    """A pack is a batch of one to xFormers; its lse is [1, heads, tokens]."""

    def ready(*tensors: Tensor) -> list[Tensor]:
        return [t[None] for t in tensors] if in_pack else list(tensors)

    def attend(q, k, v):
        out = xops.memory_efficient_attention(*grouped(*ready(q, k, v)), attn_bias=bias)
        return out.reshape(q.shape)

    def forward(q, k, v):
        operands = grouped(*ready(q, k, v))
        out, lse = memory_efficient_attention_forward_requires_grad(*operands, attn_bias=bias)
        lse = lse.flatten(1, -2)  # the group, too
        return out.reshape(q.shape), lse[0] if in_pack else lse

    def backward(dout, q, k, v, out, lse):
        dout, q, k, v, out = ready(dout, q, k, v, out)
        lse = lse[None] if in_pack else lse
        grads = memory_efficient_attention_backward(dout, out, lse, q, k, v, attn_bias=bias)
        return tuple(g[0] for g in grads) if in_pack else grads

    return AttentionOp(form, attend, forward, backward)


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    if window == FULL:
        return kernel("no bias", None, False)
    if window == CAUSAL:
        aligned = LowerTriangularMask if queries == keys else LowerTriangularFromBottomRightMask
        return kernel(aligned.__name__, aligned(), False)
    bias = LocalAttentionFromBottomRightMask(*window)
    return kernel(f"{type(bias).__name__}{window}", bias, False)


def packed(
    device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    bias = BlockDiagonalMask.from_seqlens(list(q_lengths), list(k_lengths), device=device)
    if window == CAUSAL:
        bias = bias.make_causal() if q_lengths == k_lengths else bias.make_causal_from_bottomright()
    elif window != FULL:
        raise Unsupported("no form of a window over packed sequences in xFormers here")
    return kernel(type(bias).__name__, bias, True)


def dense_bias(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """S x S: for the mask that its biases cannot say."""
    bias = F.pad(additive_bias(mask, q), (0, -mask.seq_len % 8))  # rows start at 16 bytes
    bias = bias[..., : mask.seq_len].expand(q.shape[0], q.shape[1], -1, -1)
    if q.shape[1] != k.shape[1]:  # as `grouped` has the tensors
        bias = bias.unflatten(1, (k.shape[1], -1))
    dense = kernel("dense bias", bias, False)
    return bind_layout(dense.form, dense.attend, BSHDLayout(), q, k, v)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    # its CUTLASS kernel takes float32, the FlashAttention-2 that it prefers does not
    require_cuda_half("xFormers' FlashAttention-2", q)
    if q.requires_grad and q.shape[1] != k.shape[1]:
        raise Unsupported("xFormers has grouped queries in the forward only (experimental)")
    if isinstance(mask, LocalAttention2D):
        return dense_bias(mask, q, k, v)
    return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS = {"xformers": bind}
