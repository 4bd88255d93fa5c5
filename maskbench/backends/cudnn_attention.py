"""cuDNN's attention, forward and backward. Its graphs are built once for a layout of the tensors.

https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cudnn
import torch
from torch import Tensor

from maskbench.backends.cudnn_graphs import GraphBuilder, PackedSequences, Plan
from maskbench.varlen.ops import FULL, Gradients, Window

STATS_DTYPE = torch.float32


@dataclass(frozen=True)
class Band:
    """A window (left, right) as cuDNN's band around a diagonal.

    `is_square` says that each sequence has as many queries as keys. If not, the diagonal is aligned
    at the bottom right: it ends at the last query and the last key.
    """

    window: Window
    is_square: bool

    def arguments(self) -> dict[str, Any]:
        """The arguments of a graph's `sdpa` and `sdpa_backward`."""
        if self.window == FULL:
            return {}
        left, right = self.window
        alignment = cudnn.diagonal_alignment
        return {
            "diagonal_alignment": alignment.TOP_LEFT if self.is_square else alignment.BOTTOM_RIGHT,
            # exclusive: key k is hidden from query q if k <= q - bound
            "diagonal_band_left_bound": None if left is None else left + 1,
            "diagonal_band_right_bound": right,  # inclusive
        }


class AttentionGraphs:
    """The graphs of one attention call: for each layout of its tensors, one for each direction.

    The tensors are [B, S, heads, head_dim], or packed [tokens, heads, head_dim]. The statistics
    are the log-sum-exp of each row: float32 [B, heads, S], or packed [tokens, heads].

    Parameters
    ----------
    band
        The window.
    packed
        The packed sequences; None for a batch.
    bias
        [1 or B, 1 or heads, Q, S] in the data type of the tensors, added to the scaled scores.
    """

    def __init__(
        self, band: Band, packed: PackedSequences | None = None, bias: Tensor | None = None
    ):
        self.band, self.packed, self.bias = band, packed, bias
        self.plans: dict[object, Plan] = {}

    def inference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The output alone."""
        out = self._new_output(q, v)
        self._plan(self._build_forward, (q, k, v, out)).run(q, k, v, out)
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the statistics."""
        out, stats = self._new_output(q, v), self._new_stats(q)
        tensors = q, k, v, out, self._in_output_layout(stats)
        self._plan(self._build_forward, tensors).run(*tensors)
        return out, stats

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, stats: Tensor
    ) -> Gradients:
        """dq, dk and dv. `out` and `stats` are the merged ones if this call is one of several."""
        if self.packed is None:
            dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
        else:
            dq = self.packed.new_result("q", q.shape, q.dtype)
            dk, dv = (self.packed.new_result("k", t.shape, t.dtype) for t in (k, v))
        if dout.stride(-1) != 1:
            dout = dout.contiguous()
        tensors = (q, k, v, out, dout, self._in_output_layout(stats.contiguous()), dq, dk, dv)
        self._plan(self._build_backward, tensors).run(*tensors)
        return dq, dk, dv

    def _new_output(self, q: Tensor, v: Tensor) -> Tensor:
        shape = *q.shape[:-1], v.shape[-1]
        return (
            q.new_empty(shape)
            if self.packed is None
            else self.packed.new_result("q", shape, q.dtype)
        )

    def _new_stats(self, q: Tensor) -> Tensor:
        if self.packed is None:
            batch, queries, heads, _ = q.shape
            return q.new_empty(batch, heads, queries, dtype=STATS_DTYPE)
        return self.packed.new_result("q", q.shape[:-1], STATS_DTYPE, -math.inf)

    def _in_output_layout(self, stats: Tensor) -> Tensor:
        """The statistics in the layout of the output, with one element for each head."""
        return (stats if self.packed is not None else stats.transpose(1, 2)).unsqueeze(-1)

    def _plan(self, build: Callable[..., Plan], tensors: tuple[Tensor, ...]) -> Plan:
        key = build.__name__, tuple((t.shape, t.stride(), t.dtype) for t in tensors)
        if key not in self.plans:
            self.plans[key] = build(*tensors)
        return self.plans[key]

    def _builder(self, q: Tensor, *, has_statistics: bool) -> GraphBuilder:
        packed = self.packed
        if packed is not None and has_statistics:
            packed = packed.with_statistics()
        return GraphBuilder.for_tensor(q, packed)

    def _arguments(self, builder: GraphBuilder, q: Tensor) -> dict[str, Any]:
        arguments = {"attn_scale": 1 / math.sqrt(q.shape[-1]), **builder.length_arguments()}
        if self.bias is not None:
            arguments["bias"] = builder.constant(self.bias)
        return arguments | self.band.arguments()

    def _build_forward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, stats: Tensor | None = None
    ) -> Plan:
        builder = self._builder(q, has_statistics=stats is not None)
        inputs = [builder.input(q, "q"), builder.input(k, "k"), builder.input(v, "k")]
        arguments = self._arguments(builder, q)
        out_node, stats_node = builder.graph.sdpa(
            *inputs, generate_stats=stats is not None, **arguments
        )
        builder.output(out_node, out, "q")
        if stats is not None:
            builder.output(stats_node, stats, "q")
        return builder.build(q.device)

    def _build_backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        dout: Tensor,
        stats: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
    ) -> Plan:
        builder = self._builder(q, has_statistics=True)
        inputs = [builder.input(q, "q"), builder.input(k, "k"), builder.input(v, "k")]
        inputs += [builder.input(t, "q") for t in (out, dout, stats)]
        arguments = self._arguments(builder, q)
        if self.packed is not None:  # else cuDNN assumes that all sequences are the longest
            total = self.packed.total_tokens
            arguments["max_total_seq_len_q"] = -(-total["q"] // 64) * 64
            arguments["max_total_seq_len_kv"] = -(-total["k"] // 64) * 64
        dq_node, dk_node, dv_node = builder.graph.sdpa_backward(*inputs, **arguments)
        builder.output(dq_node, dq, "q")
        builder.output(dk_node, dk, "k")
        builder.output(dv_node, dv, "k")
        return builder.build(q.device)
