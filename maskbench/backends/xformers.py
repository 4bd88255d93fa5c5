"""xFormers' memory_efficient_attention, with the kernel that it selects itself.

https://facebookresearch.github.io/xformers/components/ops.html
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

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

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.backends.dense import additive_bias
from maskbench.masks import Causal, Documents, Full, LastQueries, Mask, Padded
from maskbench.masks.equal_forms import simplify
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    AttentionOp,
    FlashLibrary,
    ForwardResult,
    Gradients,
    Window,
    require_cuda_half,
    window_id,
)

# If its kernels do not load (for example without libcudart.so.12), xFormers only warns and every
# operator is missing. Loading them here raises the error.
LIBRARIES = list(Path(xformers.__file__).parent.glob("_C*.so"))
if not LIBRARIES:
    raise ImportError(
        f"this xformers has no compiled kernels: no _C*.so beside {xformers.__file__}"
    )
load_library: Any = torch.ops.load_library  # untyped
load_library(LIBRARIES[0])


def group_queries(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """xFormers' layout of grouped queries: [..., kv_heads, group, head_dim], keys expanded."""
    kv_heads = k.shape[-2]
    if q.shape[-2] == kv_heads:
        return q, k, v
    q = torch.unflatten(q, -2, (kv_heads, -1))
    k, v = (t.unsqueeze(-2).expand(*t.shape[:-1], q.shape[-2], t.shape[-1]) for t in (k, v))
    return q, k, v


def attention_op(formulation: Formulation, bias: Any, is_packed: bool) -> AttentionOp:
    """The calls with an attention bias of xFormers, a dense tensor or None.

    xFormers takes packed sequences as a batch of one; their lse is then [1, heads, tokens].
    """

    def add_batch(*tensors: Tensor) -> list[Tensor]:
        return [t[None] for t in tensors] if is_packed else list(tensors)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        operands = group_queries(*add_batch(q, k, v))
        out: Tensor = xops.memory_efficient_attention(*operands, attn_bias=bias)
        return out.reshape(*q.shape[:-1], v.shape[-1])

    def forward(q: Tensor, k: Tensor, v: Tensor) -> ForwardResult:
        operands = group_queries(*add_batch(q, k, v))
        out, lse = memory_efficient_attention_forward_requires_grad(*operands, attn_bias=bias)
        lse = lse.flatten(1, -2)  # kv_heads and group to heads
        return out.reshape(*q.shape[:-1], v.shape[-1]), lse[0] if is_packed else lse

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> Gradients:
        dout, q, k, v, out = add_batch(dout, q, k, v, out)
        lse = lse[None] if is_packed else lse
        grads = memory_efficient_attention_backward(dout, out, lse, q, k, v, attn_bias=bias)
        dq, dk, dv = (g[0] for g in grads) if is_packed else grads
        return dq, dk, dv

    return AttentionOp(formulation, attend, forward, backward)


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    if window == FULL:
        bias, text = None, "no bias"
    elif window == CAUSAL:
        aligned = LowerTriangularMask if queries == keys else LowerTriangularFromBottomRightMask
        bias, text = aligned(), aligned.__name__
    else:
        bias = LocalAttentionFromBottomRightMask(*window)
        text = f"{type(bias).__name__}{window}"
    return attention_op(Formulation(window_id(window), text), bias, is_packed=False)


def packed(
    device: torch.device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    bias = BlockDiagonalMask.from_seqlens(list(q_lengths), list(k_lengths), device=device)
    same, (left, right), text = list(q_lengths) == list(k_lengths), window, ""
    if window == CAUSAL:
        bias = bias.make_causal() if same else bias.make_causal_from_bottomright()
    elif left is not None and right == 0:
        # xFormers counts the query itself: its window of 1 sees one key.
        size, text = left + 1, f"({left + 1})"
        local = bias.make_local_attention if same else bias.make_local_attention_from_bottomright
        bias = local(size)
    elif window != FULL:
        raise Unsupported("xFormers has windows over packed sequences for causal masks only")
    formulation = Formulation(f"varlen:{window_id(window)}", type(bias).__name__ + text)
    return attention_op(formulation, bias, is_packed=True)


def dense_bias(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """A bias of all pairs, for a mask that none of xFormers' attention biases expresses."""
    bias = F.pad(additive_bias(mask, q), (0, -mask.seq_len % 8))  # rows are aligned to 16 bytes
    bias = bias[..., : mask.seq_len].expand(q.shape[0], q.shape[1], -1, -1)
    if q.shape[1] != k.shape[1]:  # the layout of `group_queries`
        bias = torch.unflatten(bias, 1, (k.shape[1], -1))
    op = attention_op(Formulation("dense_bias", "dense bias"), bias, is_packed=False)
    return bind_layout(op.formulation, op.attend, BSHDLayout(), q, k, v)


def runs_in_cutlass(mask: Mask) -> bool:
    """Whether one call of the CUTLASS kernel computes the mask: no window, nothing merged.

    Only this kernel takes a v whose head dimension is not that of q. Its backward has no windows,
    and it pads the log-sum-exps that merging needs.
    """
    while isinstance(mask, (LastQueries, Documents, Padded)):
        mask = mask.inner
    return isinstance(mask, (Full, Causal))


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    # xFormers' CUTLASS kernel takes float32, but FlashAttention-2, which it prefers, does not.
    require_cuda_half("xFormers' FlashAttention-2", q)
    if q.requires_grad and q.shape[1] != k.shape[1]:
        raise Unsupported("xFormers has grouped queries in the forward only (experimental)")
    mask = simplify(mask)
    if v.shape[-1] != q.shape[-1] and not runs_in_cutlass(mask):
        return dense_bias(mask, q, k, v)
    try:
        return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)
    except Unsupported:
        return dense_bias(mask, q, k, v)


BACKENDS: dict[str, Bind] = {"xformers": bind}
