"""FlashAttention-2, from the package flash-attn.

https://github.com/Dao-AILab/flash-attention
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from flash_attn import flash_attn_func, flash_attn_varlen_func

# Private (seen on 2.8.3.post2). The package has no public backward for a part of a row, which
# needs the log-sum-exp of the whole row. Ring attention uses the same two functions.
from flash_attn.flash_attn_interface import _flash_attn_backward, _flash_attn_varlen_backward
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Formulation
from maskbench.masks import Mask
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    AttentionOp,
    FlashLibrary,
    ForwardResult,
    Gradients,
    PackedLengths,
    Window,
    flash_window_kwargs,
    require_cuda_half,
    require_equal_head_dims,
    window_id,
)


def backward(
    private_backward: Callable[..., object],
    window: Window,
    lengths: PackedLengths | tuple[()],
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
) -> Gradients:
    """dq, dk, dv by one of the package's private functions; `lengths` is () for a batch."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    left, right = (-1, -1) if window in (FULL, CAUSAL) else window
    scale, causal = q.shape[-1] ** -0.5, window == CAUSAL
    settings = (0.0, scale, causal, left, right, 0.0, None, False)  # no dropout, softcap, ALiBi
    private_backward(dout, q, k, v, out, lse, *grads, *lengths, *settings)
    return grads


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    text, options = flash_window_kwargs(window)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> ForwardResult:
        out, lse, *_ = flash_attn_func(q, k, v, **options, return_attn_probs=True)
        return out, lse

    return AttentionOp(
        Formulation(window_id(window), text),
        partial(flash_attn_func, **options),
        forward,
        partial(backward, _flash_attn_backward, window, ()),
    )


def packed(
    device: torch.device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    text, options = flash_window_kwargs(window)
    lengths = PackedLengths.of(q_lengths, k_lengths, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = flash_attn_varlen_func(q, k, v, *lengths, **options)
        return out

    def forward(q: Tensor, k: Tensor, v: Tensor) -> ForwardResult:
        out, lse, *_ = flash_attn_varlen_func(q, k, v, *lengths, **options, return_attn_probs=True)
        return out, lse

    return AttentionOp(
        Formulation(f"varlen:{window_id(window)}", f"varlen, {text}"),
        attend,
        forward,
        partial(backward, _flash_attn_varlen_backward, window, lengths),
    )


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("FlashAttention-2", q)
    require_equal_head_dims("FlashAttention-2", q, v)
    return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS: dict[str, Bind] = {"flash_attn": bind}
