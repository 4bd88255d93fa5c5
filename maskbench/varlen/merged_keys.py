"""Several calls as one, over disjoint keys.

With outputs o1, o2 of a query over disjoint keys and their log-sum-exps l1, l2, the result is
(e^l1 o1 + e^l2 o2) / (e^l1 + e^l2) (https://arxiv.org/abs/2402.05099). The gradient is the sum of
the gradients of the calls, each computed with the output and the log-sum-exp of the whole row
(https://arxiv.org/abs/2310.01889).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskbench.attention import Unsupported
from maskbench.masks import GlobalLocalSlidingWindow, ImageInCausal, SinkSlidingWindow
from maskbench.varlen.ops import (
    CAUSAL,
    EXCLUDED_LSE,
    FULL,
    Attend,
    AttentionOp,
    FlashLibrary,
    ForwardResult,
    batched_lse,
    packed_lse,
)

# The first queries that see 1, 2, ... sinks outside their window are sequences of their own.
MAX_SINKS = 128


@dataclass(frozen=True)
class FarKeys:
    """A packed call over keys that the first call of a plan leaves out.

    Parameters
    ----------
    op
        The call.
    queries
        int64: which of the B * Q queries are its queries, each once. None means all, in order.
    keys
        int64: which of the B * S tokens are its keys. A token may occur several times.
    has_keys
        bool: whether each of its queries has keys. None means that all have.
    has_fewer_keys
        Whether each of its queries has at most as many keys here as in the first call.
    """

    op: AttentionOp
    queries: Tensor | None
    keys: Tensor
    has_keys: Tensor | None
    has_fewer_keys: bool

    def rows(self, tensor: Tensor) -> Tensor:
        """The rows of `queries` of a tensor [B * Q, ...]."""
        return tensor if self.queries is None else tensor[self.queries]


@dataclass(frozen=True)
class GlobalRows:
    """A packed call that replaces the rows of the queries `tokens`: they see every key.

    `tokens` is int64, which of the B * S tokens.
    """

    op: AttentionOp
    tokens: Tensor


@dataclass(frozen=True)
class MergePlan:
    """Calls on [B, S, heads, head_dim]: `near` on every query, the others on some."""

    near: AttentionOp
    far: FarKeys
    whole: GlobalRows | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Differentiable attention."""
        apply: Callable[..., Tensor] = MergedKeys.apply
        return apply(q, k, v, self)


def in_each_element(
    tokens: Sequence[int], seq_len: int, batch: int, device: torch.device
) -> Tensor:
    """int64: which of the B * S tokens are at the positions `tokens` of an element."""
    starts = torch.arange(batch, device=device)[:, None] * seq_len
    return (starts + torch.tensor(tokens, dtype=torch.int64, device=device)).flatten()


def far_segments(
    library: FlashLibrary,
    segments: Sequence[tuple[int, Sequence[int]]],
    seq_len: int,
    batch: int,
    device: torch.device,
    has_fewer_keys: bool,
) -> FarKeys:
    """The call for runs of queries: (number of queries, the keys of each), in order."""
    lengths = [length for length, _ in segments] * batch
    counts = [len(keys) for _, keys in segments] * batch
    has_keys = torch.tensor(counts).repeat_interleave(torch.tensor(lengths)) > 0
    keys = [key for _, keys in segments for key in keys]
    return FarKeys(
        library.packed(lengths, counts, FULL),
        None,
        in_each_element(keys, seq_len, batch, device),
        has_keys.to(device),
        has_fewer_keys,
    )


# --- the masks ---


def global_segments(mask: GlobalLocalSlidingWindow) -> list[tuple[int, list[int]]]:
    """(length, tokens) of each run of queries with the same global tokens outside their window."""
    n, w = mask.seq_len, mask.window
    changes = {0, n, *(t - w for t in mask.tokens), *(t + w + 1 for t in mask.tokens)}
    bounds = sorted(c for c in changes if 0 <= c <= n)
    return [
        (stop - start, [t for t in mask.tokens if abs(start - t) > w])
        for start, stop in pairwise(bounds)
    ]


def global_local(
    library: FlashLibrary, mask: GlobalLocalSlidingWindow, batch: int, device: torch.device
) -> Attend:
    """Global+local: a window, the global keys outside it, and the rows of the global queries.

    A query that is not global sees the keys in its window and the global tokens elsewhere. Those
    are disjoint, so two calls are merged by log-sum-exp. Global queries see all keys: a third
    call replaces their rows.
    """
    n, tokens = mask.seq_len, mask.tokens
    segments = global_segments(mask)
    if not any(keys for _, keys in segments):
        raise Unsupported("every global token lies in every query's window")
    whole = library.packed([len(tokens)] * batch, [n] * batch, FULL)
    plan = MergePlan(
        near=library.batched(n, n, (mask.window, mask.window)),
        far=far_segments(library, segments, n, batch, device, len(tokens) <= mask.window + 1),
        whole=GlobalRows(whole, in_each_element(tokens, n, batch, device)),
    )
    return plan.attend


def sink_window(
    library: FlashLibrary, mask: SinkSlidingWindow, queries: int, batch: int, device: torch.device
) -> Attend:
    """Attention sinks for the last `queries`: a window, and the sinks that are before it."""
    n, left, sinks = mask.seq_len, mask.left, mask.sinks
    if sinks > MAX_SINKS:
        raise Unsupported(f"{sinks} sinks take as many sequences: at most {MAX_SINKS}")
    first = n - queries
    changes = {first, n, *range(left + 1, left + sinks + 1)}
    bounds = sorted(c for c in changes if first <= c <= n)
    segments = [
        (stop - start, range(min(sinks, max(0, start - left)))) for start, stop in pairwise(bounds)
    ]
    if not segments[-1][1]:
        raise Unsupported("every sink lies in every query's window")
    plan = MergePlan(
        near=library.batched(queries, n, (left, 0)),
        far=far_segments(library, segments, n, batch, device, sinks <= left + 1),
    )
    return plan.attend


def causal_images(
    library: FlashLibrary, mask: ImageInCausal, batch: int, device: torch.device
) -> Attend:
    """Images in causal text: a causal call, and in each image the keys after the query.

    In reverse order, the keys after a query are those before it. Query i of n in reverse order,
    from 1 on, sees the keys 0 to i - 1: a causal mask of n - 1 queries and n - 1 keys.
    """
    images = [(first, first + length - 1) for first, length in mask.images if length > 1]
    queries = [token for first, last in images for token in range(last - 1, first - 1, -1)]
    keys = [token for first, last in images for token in range(last, first, -1)]
    lengths = [last - first for first, last in images] * batch
    far = FarKeys(
        library.packed(lengths, lengths, CAUSAL),
        in_each_element(queries, mask.seq_len, batch, device),
        in_each_element(keys, mask.seq_len, batch, device),
        None,
        all(last - first <= first + 1 for first, last in images),
    )
    return MergePlan(library.batched(mask.seq_len, mask.seq_len, CAUSAL), far).attend


# --- running a plan ---


class MergedKeys(torch.autograd.Function):
    """Runs a MergePlan."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: MergePlan) -> Tensor:
        far, whole = plan.far, plan.whole
        flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
        operands = far.rows(flat_q), flat_k[far.keys], flat_v[far.keys]
        near_out, near_lse = plan.near.forward(q, k, v)
        far_out, far_lse = far.op.forward(*operands)
        if far.has_keys is not None:
            far_lse = far_lse.masked_fill(~far.has_keys, -torch.inf)
        near = near_out.flatten(0, 1), packed_lse(near_lse)
        out, lse = merge_rows(near, (far_out, far_lse), far.queries, far.has_fewer_keys)
        whole_saved: tuple[Tensor, ...] = ()
        if whole is not None:
            whole_q = flat_q[whole.tokens]
            whole_saved = (whole_q, *whole.op.forward(whole_q, flat_k, flat_v))
            out[whole.tokens] = whole_saved[1]
            lse.index_fill_(1, whole.tokens, EXCLUDED_LSE)
        ctx.save_for_backward(q, k, v, out, lse, *operands, *whole_saved)
        ctx.plan = plan
        return torch.unflatten(out, 0, q.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        plan: MergePlan = ctx.plan
        q, k, v, out, lse, far_q, far_k, far_v, *whole_saved = ctx.saved_tensors
        far, whole, flat_dout = plan.far, plan.whole, dout.flatten(0, 1)
        near = plan.near.backward(
            dout, q, k, v, torch.unflatten(out, 0, q.shape[:2]), batched_lse(lse, len(q))
        )
        dq, dk, dv = (t.flatten(0, 1) for t in near)
        rows_lse = lse if far.queries is None else lse[:, far.queries]
        far_dq, far_dk, far_dv = far.op.backward(
            far.rows(flat_dout), far_q, far_k, far_v, far.rows(out), rows_lse
        )
        add_rows(dq, far.queries, far_dq)
        dk.index_add_(0, far.keys, far_dk)
        dv.index_add_(0, far.keys, far_dv)
        if whole is not None:
            whole_q, *results = whole_saved
            flat_keys = k.flatten(0, 1), v.flatten(0, 1)
            whole_dq, whole_dk, whole_dv = whole.op.backward(
                flat_dout[whole.tokens], whole_q, *flat_keys, *results
            )
            dq[whole.tokens] = whole_dq
            dk += whole_dk
            dv += whole_dv
        return dq.view_as(q), dk.view_as(k), dv.view_as(v), None


def merge_rows(
    first: ForwardResult, second: ForwardResult, rows: Tensor | None, second_has_fewer_keys: bool
) -> ForwardResult:
    """Merge two results over disjoint keys. `second` is for the queries `rows` alone, if given.

    The outputs are [tokens, heads, head_dim], the log-sum-exps [heads, tokens]. The tensors of
    `first` are overwritten if `rows` are given. `second_has_fewer_keys` is whether each query has
    at most as many keys in `second` as in `first`.
    """
    (first_out, first_lse), (second_out, second_lse) = first, second
    if rows is not None:
        first_out, first_lse = first_out[rows], first_lse[:, rows]

    def weight(difference: Tensor) -> Tensor:
        share = torch.sigmoid(difference).T
        return share.to(first_out.dtype, memory_format=torch.contiguous_format)[..., None]

    second_weight = weight(second_lse - first_lse)
    if second_has_fewer_keys:
        # One kernel, which reads and writes less. It uses 1 - weight as the other weight, which is
        # inexact where that is small. For normally distributed values that matters little, because
        # the average over more keys is smaller. It matters for keys that take nearly all the
        # weight and have small values, such as the attention sinks of a trained model: they need
        # the two weights below.
        out = torch.lerp(first_out, second_out, second_weight)
    else:
        first_weight = weight(first_lse - second_lse)
        out = torch.addcmul(first_out * first_weight, second_out, second_weight)
    lse = torch.logaddexp(first_lse, second_lse)
    if rows is None:
        return out, lse
    first[0][rows], first[1][:, rows] = out, lse
    return first


def add_rows(total: Tensor, rows: Tensor | None, part: Tensor) -> None:
    """Add `part` to the rows of `total` in place. No row occurs twice; None means all rows."""
    if rows is None:
        total += part
    else:
        total[rows] += part
