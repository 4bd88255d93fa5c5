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

from backends import Call
from backends.composed import bind as composed
from backends.kernel import CAUSAL, FULL, Kernel, Library, Window, halves_on_cuda, starts_of, told
from masks import Mask


def gradients(run, window: Window, lengths: tuple, dout, q, k, v, out, lse):
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    left, right = (-1, -1) if window in (FULL, CAUSAL) else window
    scale, causal = q.shape[-1] ** -0.5, window == CAUSAL
    settings = (0.0, scale, causal, left, right, 0.0, None, False)  # no dropout, softcap, ALiBi
    run(dout, q, k, v, out, lse, *grads, *lengths, *settings)
    return grads


def batched(queries: int, keys: int, window: Window) -> Kernel:
    form, options = told(window)

    def forward(q, k, v):
        return flash_attn_func(q, k, v, **options, return_attn_probs=True)[:2]

    backward = partial(gradients, _flash_attn_backward, window, ())
    return Kernel(form, partial(flash_attn_func, **options), forward, backward)


def packed(device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window) -> Kernel:
    form, options = told(window)
    # cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k: both the public and the private order
    lengths = (starts_of(q_lengths, device), starts_of(k_lengths, device))
    lengths += (max(q_lengths), max(k_lengths))

    def attend(q, k, v):
        return flash_attn_varlen_func(q, k, v, *lengths, **options)

    def forward(q, k, v):
        return flash_attn_varlen_func(q, k, v, *lengths, **options, return_attn_probs=True)[:2]

    backward = partial(gradients, _flash_attn_varlen_backward, window, lengths)
    return Kernel(f"varlen, {form}", attend, forward, backward)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    halves_on_cuda("FlashAttention-2", q)
    return composed(Library(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS = {"flash_attn": bind}
