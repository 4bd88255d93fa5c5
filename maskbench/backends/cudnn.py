"""cuDNN's attention, called by its own interface: the package nvidia-cudnn-frontend.

https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cudnn
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.backends.cudnn_attention import AttentionGraphs, Band
from maskbench.backends.cudnn_graphs import PackedSequences
from maskbench.backends.dense import additive_bias
from maskbench.masks import Mask
from maskbench.masks.equal_forms import simplify
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    Attend,
    AttentionOp,
    FlashLibrary,
    ForwardResult,
    Gradients,
    Window,
    require_cuda_half,
    window_id,
)

# The package imports without the library itself. This raises the error.
try:
    cudnn.backend_version()
except RuntimeError as error:
    raise ImportError(f"nvidia-cudnn-frontend does not find libcudnn.so.9: {error}") from error


class GraphAttention(torch.autograd.Function):
    """Attention by the graphs of one call, forward and backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, graphs: AttentionGraphs) -> Tensor:
        out, stats = graphs.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, stats)
        ctx.graphs = graphs
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dq, dk, dv = ctx.graphs.backward(dout, *ctx.saved_tensors)
        return dq, dk, dv, None


def differentiable(graphs: AttentionGraphs) -> Attend:
    """(q, k, v) -> out. The statistics that a gradient needs are computed only if it is needed."""
    apply: Callable[..., Tensor] = GraphAttention.apply

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            return apply(q, k, v, graphs)
        return graphs.inference(q, k, v)

    return attend


def describe_band(window: Window) -> str:
    """A window in cuDNN's terms, for the text of a formulation."""
    if window == FULL:
        return "no diagonal band"
    return "causal diagonal band" if window == CAUSAL else f"diagonal band {window}"


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    graphs = AttentionGraphs(Band(window, is_square=queries == keys))
    formulation = Formulation(window_id(window), describe_band(window))
    return AttentionOp(formulation, differentiable(graphs), graphs.forward, graphs.backward)


def packed(
    device: torch.device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    band = Band(window, is_square=list(q_lengths) == list(k_lengths))
    graphs = AttentionGraphs(band, PackedSequences.from_lengths(q_lengths, k_lengths, device))

    # cuDNN's statistics are [tokens, heads], the log-sum-exp of an AttentionOp [heads, tokens].
    def forward(q: Tensor, k: Tensor, v: Tensor) -> ForwardResult:
        out, stats = graphs.forward(q, k, v)
        return out, stats.T

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> Gradients:
        return graphs.backward(dout, q, k, v, out, lse.T)

    formulation = Formulation(f"varlen:{window_id(window)}", f"ragged, {describe_band(window)}")
    return AttentionOp(formulation, differentiable(graphs), forward, backward)


def dense_bias(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """A bias of all pairs, for a mask that has no form in diagonal bands and ragged tensors."""
    graphs = AttentionGraphs(Band(FULL, is_square=True), bias=additive_bias(mask, q))
    formulation = Formulation("dense_bias", "dense bias")
    return bind_layout(formulation, differentiable(graphs), BSHDLayout(), q, k, v)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("cuDNN", q)
    mask = simplify(mask)
    try:
        return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)
    except Unsupported:
        return dense_bias(mask, q, k, v)


BACKENDS: dict[str, Bind] = {"cudnn": bind}
