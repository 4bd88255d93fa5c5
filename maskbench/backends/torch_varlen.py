"""torch's own attention over packed sequences, torch.nn.attention.varlen.varlen_attn.

https://docs.pytorch.org/docs/stable/nn.attention.varlen.html
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

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
    batched_lse,
    packed_lse,
    require_cuda_half,
    require_equal_head_dims,
    window_id,
)

# torch 2.11 takes grouped queries without an option; later versions need enable_gqa.
HAS_ENABLE_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters


def window_size(window: Window) -> tuple[int, int]:
    left, right = (-1 if bound is None else bound for bound in window)
    return left, right


def packed_backward(
    window: Window,
    lengths: PackedLengths,
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
) -> Gradients:
    # Private (seen on 2.11 and 2.13): varlen_attn's own backward takes only the log-sum-exp
    # of its forward. The two zeros and the empty tensor are the state of dropout.
    left, right = window_size(window)
    grads: Gradients = torch.ops.aten._flash_attention_backward(
        *(dout, q, k, v, out, lse, *lengths, 0.0, window == CAUSAL),
        *(torch.zeros(2, dtype=torch.uint64, device=q.device), q.new_empty(0)),
        window_size_left=left,
        window_size_right=right,
    )
    return grads


def packed(
    device: torch.device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    lengths = PackedLengths.of(q_lengths, k_lengths, device)
    call: Any = varlen_attn  # its parameters differ between versions of torch

    def attend(q: Tensor, k: Tensor, v: Tensor, **aux: object) -> Any:
        options = {"enable_gqa": True} if HAS_ENABLE_GQA and q.shape[1] != k.shape[1] else {}
        return call(q, k, v, *lengths, window_size=window_size(window), **options, **aux)

    text = "varlen_attn" if window == FULL else f"varlen_attn, window_size={window_size(window)}"
    return AttentionOp(
        Formulation(f"varlen:{window_id(window)}", text),
        attend,
        partial(attend, return_aux=AuxRequest(lse=True)),
        partial(packed_backward, window, lengths),
    )


def batched(
    device: torch.device, batch: int, queries: int, keys: int, window: Window
) -> AttentionOp:
    """A batch as packed sequences of equal lengths: a view of the same memory."""
    op = packed(device, [queries] * batch, [keys] * batch, window)

    def flat(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return op.attend(flat(q), flat(k), flat(v)).view(q.shape)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> ForwardResult:
        out, lse = op.forward(flat(q), flat(k), flat(v))
        return out.view(q.shape), batched_lse(lse, batch)

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> Gradients:
        dq, dk, dv = op.backward(flat(dout), flat(q), flat(k), flat(v), flat(out), packed_lse(lse))
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)

    return AttentionOp(op.formulation, attend, forward, backward)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("torch's varlen_attn", q)
    require_equal_head_dims("torch's varlen_attn", q, v)
    library = FlashLibrary(partial(batched, q.device, len(q)), partial(packed, q.device))
    return lower(library, mask, q, k, v)


BACKENDS: dict[str, Bind] = {"torch_varlen": bind}
