"""Several calls as one: over disjoint query rows, or over disjoint keys.

The softmax is by row, so disjoint query rows can be computed separately. The keys of a row can
be split too: with outputs o1, o2 over disjoint keys and their log-sum-exps l1, l2, the result is
(e^l1 o1 + e^l2 o2) / (e^l1 + e^l2) (https://arxiv.org/abs/2402.05099). In both cases the gradient
is the sum of the gradients of the calls, each computed with the output and the log-sum-exp of
the whole row (https://arxiv.org/abs/2310.01889).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskbench.attention import Unsupported
from maskbench.masks import GlobalLocalSlidingWindow
from maskbench.varlen.ops import (
    CAUSAL,
    FULL,
    Attend,
    AttentionOp,
    FlashLibrary,
    batched_lse,
    packed_lse,
)

# The log-sum-exp of a query that must not contribute to a gradient: its probabilities are
# exp(score - EXCLUDED_LSE) = 0.
EXCLUDED_LSE = 1e30


# --- disjoint query rows of a batch ---


@dataclass(frozen=True)
class QuerySlice:
    """A call on some queries and keys of each sequence."""

    op: AttentionOp
    queries: slice
    keys: slice


def prefix_queries(library: FlashLibrary, seq_len: int, prefix: int, queries: int) -> Attend:
    """Prefix LM for the last `queries`: those in the prefix see all of it, the rest are causal.

    A query in the prefix sees the first `prefix` keys, all of them. Query q of the rest sees
    the keys up to q: a causal mask aligned at the bottom right.
    """
    rest = seq_len - prefix  # queries
    in_prefix = queries - rest
    whole, causal = library.batched(in_prefix, prefix, FULL), library.batched(rest, seq_len, CAUSAL)
    parts = (
        QuerySlice(whole, slice(0, in_prefix), slice(0, prefix)),
        QuerySlice(causal, slice(in_prefix, queries), slice(0, seq_len)),
    )
    apply: Callable[..., Tensor] = DisjointQueries.apply
    return lambda q, k, v: apply(q, k, v, parts)


class DisjointQueries(torch.autograd.Function):
    """Calls on consecutive queries. The last call sees all keys, the others a part of them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: tuple[QuerySlice, ...]) -> Tensor:
        saved = []  # q, k, v, out, lse of each part
        for part in parts:
            operands = q[:, part.queries], k[:, part.keys], v[:, part.keys]
            saved.append((*operands, *part.op.forward(*operands)))
        ctx.save_for_backward(*chain(*saved))
        ctx.parts = parts
        return torch.cat([out for _, _, _, out, _ in saved], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grads = []
        for i, part in enumerate(ctx.parts):
            saved = ctx.saved_tensors[5 * i : 5 * i + 5]
            grads.append(part.op.backward(dout[:, part.queries], *saved))
        *_, (_, dk, dv) = grads
        for part, (_, part_dk, part_dv) in zip(ctx.parts[:-1], grads[:-1], strict=True):
            dk[:, part.keys] += part_dk
            dv[:, part.keys] += part_dv
        return torch.cat([dq for dq, _, _ in grads], 1), dk, dv, None


# --- query rows of packed sequences, computed again ---


def document_prefix(
    library: FlashLibrary, lengths: Sequence[int], prefix: int, device: torch.device
) -> Attend:
    """Documents with a prefix: all causal in one call, then the prefixes' queries in another.

    A query in a prefix sees the whole prefix, the others see the keys up to their own position,
    as in the causal call. The second call overwrites the causal call's rows for the prefixes.
    """
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    position = torch.arange(int(sizes.sum())) - starts.repeat_interleave(sizes)  # in its document
    rows = (position < prefix).nonzero()[:, 0].to(device)
    prefixes = sizes.clamp(max=prefix).tolist()
    causal = library.packed(sizes.tolist(), sizes.tolist(), CAUSAL)
    whole = library.packed(prefixes, prefixes, FULL)
    apply: Callable[..., Tensor] = ReplacedQueries.apply
    return lambda q, k, v: apply(q, k, v, causal, whole, rows)


class ReplacedQueries(torch.autograd.Function):
    """`first` on all tokens; then `second` on the tokens `rows`, whose rows it replaces."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        first: AttentionOp,
        second: AttentionOp,
        rows: Tensor,
    ) -> Tensor:
        out, lse = first.forward(q, k, v)
        operands = q[rows], k[rows], v[rows]
        second_out, second_lse = second.forward(*operands)
        out[rows] = second_out
        if any(ctx.needs_input_grad):
            lse.index_fill_(1, rows, EXCLUDED_LSE)
        ctx.save_for_backward(q, k, v, out, lse, *operands, second_out, second_lse, rows)
        ctx.ops = first, second
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        *first_saved, rows = ctx.saved_tensors
        first_saved, second_saved = first_saved[:5], first_saved[5:]
        first, second = ctx.ops
        dq, dk, dv = first.backward(dout, *first_saved)
        second_dq, second_dk, second_dv = second.backward(dout[rows], *second_saved)
        dq[rows] = second_dq  # the first call's gradients of these rows are zeros
        dk[rows] += second_dk  # no row occurs twice
        dv[rows] += second_dv
        return dq, dk, dv, None, None, None


# --- disjoint keys ---


@dataclass(frozen=True)
class GlobalLocalPlan:
    """The calls of global+local attention on [B, S, heads, head_dim].

    Parameters
    ----------
    near
        A batch: every query, the keys in its window.
    far
        Packed: every query, the global keys outside its window.
    whole
        Packed: the global queries, every key.
    tokens
        int64: which of the B * S tokens are global.
    far_keys
        int64: which of the B * S tokens are the keys of `far`; a token occurs several times.
    has_far
        bool [B * S]: whether `far` has keys for a query.
    """

    near: AttentionOp
    far: AttentionOp
    whole: AttentionOp
    tokens: Tensor
    far_keys: Tensor
    has_far: Tensor


def far_segments(mask: GlobalLocalSlidingWindow) -> list[tuple[int, list[int]]]:
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
    segments = far_segments(mask)
    lengths = [length for length, _ in segments] * batch
    far_counts = [len(tokens) for _, tokens in segments]
    if not sum(far_counts):
        raise Unsupported("every global token lies in every query's window")
    starts = torch.arange(batch, device=device)[:, None] * mask.seq_len

    def in_each_element(tokens: Sequence[int]) -> Tensor:
        return (starts + torch.tensor(tokens, device=device)).flatten()

    has_far = torch.tensor(far_counts * batch).repeat_interleave(torch.tensor(lengths)) > 0
    plan = GlobalLocalPlan(
        near=library.batched(mask.seq_len, mask.seq_len, (mask.window, mask.window)),
        far=library.packed(lengths, far_counts * batch, FULL),
        whole=library.packed([len(mask.tokens)] * batch, [mask.seq_len] * batch, FULL),
        tokens=in_each_element(mask.tokens),
        far_keys=in_each_element([t for _, tokens in segments for t in tokens]),
        has_far=has_far.to(device),
    )
    apply: Callable[..., Tensor] = MergedKeys.apply
    return lambda q, k, v: apply(q, k, v, plan)


class MergedKeys(torch.autograd.Function):
    """Runs a GlobalLocalPlan."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: GlobalLocalPlan) -> Tensor:
        flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
        far_k, far_v = flat_k[plan.far_keys], flat_v[plan.far_keys]
        near_out, near_lse = plan.near.forward(q, k, v)
        far_out, far_lse = plan.far.forward(flat_q, far_k, far_v)
        far_lse = far_lse.masked_fill(~plan.has_far, -torch.inf)
        lse = packed_lse(near_lse)
        weight = torch.sigmoid(far_lse - lse).T.to(q.dtype, memory_format=torch.contiguous_format)
        out = torch.lerp(near_out.flatten(0, 1), far_out, weight[..., None])
        whole_q = flat_q[plan.tokens]
        whole_out, whole_lse = plan.whole.forward(whole_q, flat_k, flat_v)
        out[plan.tokens] = whole_out
        if any(ctx.needs_input_grad):
            lse = torch.logaddexp(lse, far_lse).index_fill_(1, plan.tokens, EXCLUDED_LSE)
        ctx.save_for_backward(q, k, v, out, lse, far_k, far_v, whole_q, whole_out, whole_lse)
        ctx.plan = plan
        return out.view_as(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        plan = ctx.plan
        q, k, v, out, lse, far_k, far_v, whole_q, whole_out, whole_lse = ctx.saved_tensors
        flat_q, flat_k, flat_v, flat_dout = (t.flatten(0, 1) for t in (q, k, v, dout))
        near = plan.near.backward(dout, q, k, v, out.view_as(q), batched_lse(lse, len(q)))
        far = plan.far.backward(flat_dout, flat_q, far_k, far_v, out, lse)
        whole = plan.whole.backward(
            flat_dout[plan.tokens], whole_q, flat_k, flat_v, whole_out, whole_lse
        )
        dq, dk, dv = (t.flatten(0, 1) for t in near)
        dq += far[0]
        dq[plan.tokens] = whole[0]
        for total, far_part, whole_part in ((dk, far[1], whole[1]), (dv, far[2], whole[2])):
            total += whole_part
            total.index_add_(0, plan.far_keys, far_part)
        return dq.view_as(q), dk.view_as(k), dv.view_as(v), None
