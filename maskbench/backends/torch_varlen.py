"""torch's own attention over packed sequences, torch.nn.attention.varlen.varlen_attn.

https://docs.pytorch.org/docs/stable/nn.attention.varlen.html
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from maskbench.attention import BoundAttention
from maskbench.masks import Mask
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    AttentionOp,
    FlashLibrary,
    Window,
    batched_lse,
    cu_seqlens,
    packed_lse,
    require_cuda_half,
)

# torch 2.11 takes grouped queries as they come, later versions ask for this switch.
GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters


def window_size(window: Window) -> tuple[int, int]:
    return tuple(-1 if bound is None else bound for bound in window)


def gradients(window: Window, lengths: tuple, dout, q, k, v, out, lse):
    # Private: varlen_attn's own backward takes no other log-sum-exp than its forward's (seen on
    # 2.11 and 2.13). The zeros and the empty tensor are dropout's.
    left, right = window_size(window)
    return torch.ops.aten._flash_attention_backward(
        *(dout, q, k, v, out, lse, *lengths, 0.0, window == CAUSAL),
        *(torch.zeros(2, dtype=torch.uint64, device=q.device), q.new_empty(0)),
        window_size_left=left,
        window_size_right=right,
    )


def packed(
    device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    lengths = (cu_seqlens(q_lengths, device), cu_seqlens(k_lengths, device))
    lengths += (max(q_lengths), max(k_lengths))

    def attend(q, k, v, **asked):
        options = {"enable_gqa": True} if GROUPED and q.shape[1] != k.shape[1] else {}
        return varlen_attn(q, k, v, *lengths, window_size=window_size(window), **options, **asked)

    forward = partial(attend, return_aux=AuxRequest(lse=True))
    form = "varlen_attn" if window == FULL else f"varlen_attn, window_size={window_size(window)}"
    return AttentionOp(form, attend, forward, partial(gradients, window, lengths))


def batched(device, batch: int, queries: int, keys: int, window: Window) -> AttentionOp:
    """A batch as packed sequences of one length each: the same memory, read otherwise."""
    pack = packed(device, [queries] * batch, [keys] * batch, window)

    def flat(*tensors: Tensor) -> list[Tensor]:
        return [t.flatten(0, 1) for t in tensors]

    def attend(q, k, v):
        return pack.attend(*flat(q, k, v)).view(q.shape)

    def forward(q, k, v):
        out, lse = pack.forward(*flat(q, k, v))
        return out.view(q.shape), batched_lse(lse, batch)

    def backward(dout, q, k, v, out, lse):
        grads = pack.backward(*flat(dout, q, k, v, out), packed_lse(lse))
        return tuple(g.view(t.shape) for g, t in zip(grads, (q, k, v), strict=True))

    return AttentionOp(pack.form, attend, forward, backward)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("torch's varlen_attn", q)
    library = FlashLibrary(partial(batched, q.device, len(q)), partial(packed, q.device))
    return lower(library, mask, q, k, v)


BACKENDS = {"torch_varlen": bind}
