"""FlashAttention-2, from the package flash-attn.

https://github.com/Dao-AILab/flash-attention
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from flash_attn import flash_attn_func, flash_attn_varlen_func

# Private, as the package has no public call that takes the log-sum-exp of a whole row for a
# part of it (seen on 2.8.3.post2); ring attention needs the same two.
from flash_attn.flash_attn_interface import _flash_attn_backward, _flash_attn_varlen_backward
from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.masks import Mask
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    AttentionOp,
    FlashLibrary,
    Window,
    cu_seqlens,
    flash_window_kwargs,
    require_cuda_half,
)


def gradients(run, window: Window, lengths: tuple, dout, q, k, v, out, lse):
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    left, right = (-1, -1) if window in (FULL, CAUSAL) else window
    scale, causal = q.shape[-1] ** -0.5, window == CAUSAL
    settings = (0.0, scale, causal, left, right, 0.0, None, False)  # no dropout, softcap, ALiBi
    run(dout, q, k, v, out, lse, *grads, *lengths, *settings)
    return grads


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    form, options = flash_window_kwargs(window)

    def forward(q, k, v):
        return flash_attn_func(q, k, v, **options, return_attn_probs=True)[:2]

    backward = partial(gradients, _flash_attn_backward, window, ())
    return AttentionOp(form, partial(flash_attn_func, **options), forward, backward)


def packed(
    device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    form, options = flash_window_kwargs(window)
    # cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k: both the public and the private order
    lengths = (cu_seqlens(q_lengths, device), cu_seqlens(k_lengths, device))
    lengths += (max(q_lengths), max(k_lengths))

    def attend(q, k, v):
        return flash_attn_varlen_func(q, k, v, *lengths, **options)

    def forward(q, k, v):
        return flash_attn_varlen_func(q, k, v, *lengths, **options, return_attn_probs=True)[:2]

    backward = partial(gradients, _flash_attn_varlen_backward, window, lengths)
    return AttentionOp(f"varlen, {form}", attend, forward, backward)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("FlashAttention-2", q)
    return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS = {"flash_attn": bind}
