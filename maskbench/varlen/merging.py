"""Several calls as one: over disjoint query rows, or over disjoint keys.

The softmax is by row, so disjoint query rows can be computed apart. And a row's keys can be
split: with o1, o2 over disjoint keys and their log-sum-exp l1, l2, the whole is
(e^l1 o1 + e^l2 o2) / (e^l1 + e^l2) (https://arxiv.org/abs/2402.05099). Either way the gradient
is the sum of each call's own, computed with the output and the log-sum-exp of the whole row
(https://arxiv.org/abs/2310.01889).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

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

# Stands for the log-sum-exp of a query that is to have no part in a gradient: each of its
# probabilities is then exp(score - NOBODY) = 0.
EXCLUDED_LSE = 1e30


# --- disjoint query rows of a batch ---


@dataclass(frozen=True)
class QuerySlice:
    """A call on some queries and keys of each sequence."""

    kernel: AttentionOp
    queries: slice
    keys: slice


def prefix_queries(library: FlashLibrary, seq_len: int, prefix: int) -> Attend:
    """Prefix LM: queries before `prefix` see it whole, the rest are causal.

    The first queries see the keys before the prefix's end, all of them. Query q of the rest
    sees keys up to q: a causal mask that ends at the last key, aligned at the bottom right.
    """
    first, rest = slice(0, prefix), slice(prefix, seq_len)
    parts = (
        QuerySlice(library.batched(prefix, prefix, FULL), first, first),
        QuerySlice(library.batched(seq_len - prefix, seq_len, CAUSAL), rest, slice(0, seq_len)),
    )
    return lambda q, k, v: DisjointQueries.apply(q, k, v, parts)


class DisjointQueries(torch.autograd.Function):
    """Parts in the order of their queries; the last has all keys, the others have some."""

    @staticmethod
    def forward(ctx, q, k, v, parts):
        kept = []
        for part in parts:
            own = q[:, part.queries], k[:, part.keys], v[:, part.keys]
            kept.append((*own, *part.kernel.forward(*own)))
        ctx.save_for_backward(*chain(*kept))
        ctx.parts = parts
        return torch.cat([out for *_, out, _ in kept], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        grads = []
        for i, part in enumerate(ctx.parts):
            own = ctx.saved_tensors[5 * i : 5 * i + 5]
            grads.append(part.kernel.backward(dout[:, part.queries], *own))
        *_, (_, dk, dv) = grads
        for part, (_, some_dk, some_dv) in zip(ctx.parts[:-1], grads[:-1], strict=True):
            dk[:, part.keys] += some_dk
            dv[:, part.keys] += some_dv
        return torch.cat([dq for dq, _, _ in grads], 1), dk, dv, None


# --- query rows of a pack, computed again ---


def document_prefix(
    library: FlashLibrary, lengths: tuple[int, ...], prefix: int, device: torch.device
) -> Attend:
    """Documents with a prefix: all causal in one call, then all prefixes' queries in another.

    A prefix's queries see their prefix whole; the others see keys up to their own place, as
    the causal call has it. Its rows for the prefix's queries are put aside.
    """
    lengths = torch.tensor(lengths)
    starts = lengths.cumsum(0) - lengths
    place = torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
    rows = (place < prefix).nonzero()[:, 0].to(device)
    of_prefix = lengths.clamp(max=prefix).tolist()
    causal = library.packed(lengths.tolist(), lengths.tolist(), CAUSAL)
    whole = library.packed(of_prefix, of_prefix, FULL)
    return lambda q, k, v: ReplacedQueries.apply(q, k, v, causal, whole, rows)


class ReplacedQueries(torch.autograd.Function):
    """`first` on all tokens of a pack, `second` on `rows` alone, in their place."""

    @staticmethod
    def forward(ctx, q, k, v, first, second, rows):
        out, lse = first.forward(q, k, v)
        own = tuple(t[rows] for t in (q, k, v))
        result, own_lse = second.forward(*own)
        out[rows] = result
        if any(ctx.needs_input_grad):
            lse.index_fill_(1, rows, EXCLUDED_LSE)
        ctx.save_for_backward(q, k, v, out, lse, *own, result, own_lse, rows)
        ctx.calls = first, second
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        *whole, own_q, own_k, own_v, result, own_lse, rows = ctx.saved_tensors
        first, second = ctx.calls
        grads = first.backward(dout, *whole)
        own = second.backward(dout[rows], own_q, own_k, own_v, result, own_lse)
        grads[0][rows] = own[0]  # those of the first call are zeros
        for grad, part in zip(grads[1:], own[1:], strict=True):
            grad[rows] += part  # rows are all different
        return *grads, None, None, None


# --- disjoint keys ---


@dataclass(frozen=True)
class GlobalLocal:
    """The calls of global+local attention, on [B, S, heads, head_dim]."""

    near: AttentionOp  # a batch: every query, the keys in its window
    far: AttentionOp  # a pack: every query, the global keys that are not in its window
    whole: AttentionOp  # a pack: the global queries, every key
    tokens: Tensor  # of the B * S tokens, the global ones
    far_keys: Tensor  # of the B * S tokens, the keys of `far`
    has_far: Tensor  # bool [B * S], whether `far` has keys for a query


def far_segments(mask: GlobalLocalSlidingWindow) -> list[tuple[int, list[int]]]:
    """Runs of queries that have the same global tokens outside of their window."""
    n, w = mask.seq_len, mask.window
    cuts = {0, n, *(t - w for t in mask.tokens), *(t + w + 1 for t in mask.tokens)}
    cuts = sorted(c for c in cuts if 0 <= c <= n)
    return [
        (stop - start, [t for t in mask.tokens if abs(start - t) > w])
        for start, stop in pairwise(cuts)
    ]


def global_local(
    library: FlashLibrary, mask: GlobalLocalSlidingWindow, batch: int, device: torch.device
) -> Attend:
    """Global+local: a window, the global keys outside of it, and the global queries' own rows.

    A query that is not global sees the keys in its window and, disjoint from them, the global
    tokens elsewhere: two calls, merged by log-sum-exp. Global queries see all keys: a call of
    their own, that replaces their rows.
    """
    segments = far_segments(mask)
    lengths = [length for length, _ in segments] * batch
    far = [len(tokens) for _, tokens in segments]
    if not sum(far):
        raise Unsupported("every global token lies in every query's window")
    starts = torch.arange(batch, device=device)[:, None] * mask.seq_len

    def in_each(tokens: Sequence[int]) -> Tensor:
        return (starts + torch.tensor(tokens, device=device)).flatten()

    queries = in_each(mask.tokens)
    whole = library.packed([len(mask.tokens)] * batch, [mask.seq_len] * batch, FULL)
    plan = GlobalLocal(
        library.batched(mask.seq_len, mask.seq_len, (mask.window, mask.window)),
        library.packed(lengths, far * batch, FULL),
        whole,
        queries,
        in_each([t for _, tokens in segments for t in tokens]),
        torch.tensor(far * batch).repeat_interleave(torch.tensor(lengths)).to(device) > 0,
    )
    return lambda q, k, v: MergedKeys.apply(q, k, v, plan)


class MergedKeys(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, plan):
        flat = tuple(t.flatten(0, 1) for t in (q, k, v))
        far = flat[0], *(t[plan.far_keys] for t in flat[1:])
        near_out, near_lse = plan.near.forward(q, k, v)
        far_out, far_lse = plan.far.forward(*far)
        far_lse = far_lse.masked_fill(~plan.has_far, -torch.inf)
        lse = packed_lse(near_lse)
        weight = torch.sigmoid(far_lse - lse).T.to(q.dtype, memory_format=torch.contiguous_format)
        out = torch.lerp(near_out.flatten(0, 1), far_out, weight[..., None])
        whole = flat[0][plan.tokens], *flat[1:]
        whole_out, whole_lse = plan.whole.forward(*whole)
        out[plan.tokens] = whole_out
        if any(ctx.needs_input_grad):
            lse = torch.logaddexp(lse, far_lse).index_fill_(1, plan.tokens, EXCLUDED_LSE)
        ctx.save_for_backward(q, k, v, out, lse, *far[1:], whole[0], whole_out, whole_lse)
        ctx.plan = plan
        return out.view_as(q)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        plan = ctx.plan
        q, k, v, out, lse, far_k, far_v, queries, whole_out, whole_lse = ctx.saved_tensors
        flat_q, flat_k, flat_v, flat_dout = (t.flatten(0, 1) for t in (q, k, v, dout))
        near = plan.near.backward(dout, q, k, v, out.view_as(q), batched_lse(lse, len(q)))
        far = plan.far.backward(flat_dout, flat_q, far_k, far_v, out, lse)
        whole = plan.whole.backward(
            flat_dout[plan.tokens], queries, flat_k, flat_v, whole_out, whole_lse
        )
        dq, dk, dv = (t.flatten(0, 1) for t in near)
        dq += far[0]
        dq[plan.tokens] = whole[0]
        for total, of_far, of_whole in ((dk, far[1], whole[1]), (dv, far[2], whole[2])):
            total += of_whole
            total.index_add_(0, plan.far_keys, of_far)
        return dq.view_as(q), dk.view_as(k), dv.view_as(v), None
