"""Several calls as one: over disjoint query rows, or over disjoint keys.

The softmax is by row, so disjoint query rows can be computed apart. And a row's keys can be
split: with o1, o2 over disjoint keys and their log-sum-exp l1, l2, the whole is
(e^l1 o1 + e^l2 o2) / (e^l1 + e^l2) (https://arxiv.org/abs/2402.05099). Either way the gradient
is the sum of each call's own, computed with the output and the log-sum-exp of the whole row
(https://arxiv.org/abs/2310.01889).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from backends import Unsupported
from backends.kernel import CAUSAL, FULL, Kernel, Library, batched_lse, packed_lse
from masks import GlobalLocalSlidingWindow

# Stands for the log-sum-exp of a query that is to have no part in a gradient: each of its
# probabilities is then exp(score - NOBODY) = 0.
NOBODY = 1e30


# --- disjoint query rows ---


@dataclass(frozen=True)
class Part:
    """A call on some rows: a slice of a batch's sequences, or indices into a pack; None: all."""

    kernel: Kernel
    queries: slice | Tensor
    keys: slice | Tensor | None


def prefix_calls(library: Library, seq_len: int, prefix: int) -> tuple[Part, Part]:
    """Prefix LM: rows before `prefix` see it whole, the rest are causal.

    The first rows see keys before the prefix's end, all of them. Row q of the rest sees keys
    up to q: a causal mask that ends at the last key, aligned at the bottom right.
    """
    rest = library.batched(seq_len - prefix, seq_len, CAUSAL)
    whole = library.batched(prefix, prefix, FULL)
    first = slice(0, prefix)
    return Part(rest, slice(prefix, None), None), Part(whole, first, first)


def document_prefix_calls(library, lengths, prefix: int, device) -> tuple[Part, Part]:
    """The same for each document of a pack: all prefixes in one call, all rests in another."""
    ends = torch.tensor(lengths).cumsum(0)
    place = torch.arange(int(ends[-1])) - (ends - torch.tensor(lengths)).repeat_interleave(
        torch.tensor(lengths)
    )
    of_prefix = [min(n, prefix) for n in lengths]
    of_rest = [n - p for n, p in zip(lengths, of_prefix, strict=True)]
    first = (place < prefix).nonzero()[:, 0].to(device)
    later = (place >= prefix).nonzero()[:, 0].to(device)
    whole = Part(library.packed(of_prefix, of_prefix, FULL), first, first)
    if not len(later):
        raise Unsupported("the prefix is longer than each document: nothing is causal")
    return Part(library.packed(of_rest, lengths, CAUSAL), later, None), whole


def take(tensor: Tensor, rows: slice | Tensor | None) -> Tensor:
    if rows is None:
        return tensor
    return tensor[:, rows] if isinstance(rows, slice) else tensor.index_select(0, rows)


def put(into: Tensor, rows: slice | Tensor, values: Tensor) -> None:
    if isinstance(rows, slice):
        into[:, rows] = values
    else:
        into.index_copy_(0, rows, values)


def add(into: Tensor, rows: slice | Tensor, values: Tensor) -> None:
    """Add to rows that are all different: a copy is faster than index_add_'s atomics."""
    put(into, rows, take(into, rows) + values)


class DisjointQueries(torch.autograd.Function):
    """Each call has its own query rows; the first has all keys, later ones may have some."""

    @staticmethod
    def forward(ctx, q, k, v, parts):
        out, kept = torch.empty_like(q), []
        for part in parts:
            own = take(q, part.queries), take(k, part.keys), take(v, part.keys)
            result, lse = part.kernel.forward(*own)
            put(out, part.queries, result)
            kept += [*own, result, lse]
        ctx.save_for_backward(q, *kept)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx, dout):
        q, *kept = ctx.saved_tensors
        dq, totals = torch.empty_like(q), None
        for i, part in enumerate(ctx.parts):
            own = kept[5 * i : 5 * i + 5]
            mine, *others = part.kernel.backward(take(dout, part.queries), *own)
            put(dq, part.queries, mine)
            if totals is None:
                totals = others
            else:
                for total, other in zip(totals, others, strict=True):
                    add(total, part.keys, other)
        return dq, *totals, None


def disjoint_queries(parts):
    return lambda q, k, v: DisjointQueries.apply(q, k, v, parts)


# --- disjoint keys ---


@dataclass(frozen=True)
class GlobalLocal:
    """The calls of global+local attention, on [B, S, heads, head_dim]."""

    near: Kernel  # a batch: every query, the keys in its window
    far: Kernel  # a pack: every query, the global keys that are not in its window
    whole: Kernel  # a batch: the global queries, every key
    tokens: Tensor  # [global tokens]
    far_keys: Tensor  # of the B * S tokens, the keys of `far`
    has_far: Tensor  # bool [S]


def far_segments(mask: GlobalLocalSlidingWindow) -> list[tuple[int, list[int]]]:
    """Runs of queries that have the same global tokens outside of their window."""
    n, w = mask.seq_len, mask.window
    cuts = {0, n, *(t - w for t in mask.tokens), *(t + w + 1 for t in mask.tokens)}
    cuts = sorted(c for c in cuts if 0 <= c <= n)
    return [
        (stop - start, [t for t in mask.tokens if abs(start - t) > w])
        for start, stop in pairwise(cuts)
    ]


def global_local(library: Library, mask: GlobalLocalSlidingWindow, batch: int, device):
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
    keys = torch.tensor([t for _, tokens in segments for t in tokens], device=device)
    starts = torch.arange(batch, device=device)[:, None] * mask.seq_len
    plan = GlobalLocal(
        library.batched(mask.seq_len, mask.seq_len, (mask.window, mask.window)),
        library.packed(lengths, far * batch, FULL),
        library.batched(len(mask.tokens), mask.seq_len, FULL),
        torch.tensor(mask.tokens, device=device),
        (starts + keys).flatten(),
        torch.tensor(far, device=device).repeat_interleave(
            torch.tensor(lengths[: len(far)], device=device)
        )
        > 0,
    )
    return lambda q, k, v: MergedKeys.apply(q, k, v, plan)


class MergedKeys(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, plan):
        far = q.flatten(0, 1), *(t.flatten(0, 1).index_select(0, plan.far_keys) for t in (k, v))
        out, lse = plan.near.forward(q, k, v)
        far_out, far_lse = plan.far.forward(*far)
        far_lse = batched_lse(far_lse, len(q)).masked_fill(~plan.has_far, -torch.inf)
        weight = torch.sigmoid(far_lse - lse).transpose(1, 2)[..., None].to(q.dtype)
        out, lse = torch.lerp(out, far_out.view_as(out), weight), torch.logaddexp(lse, far_lse)
        queries = q.index_select(1, plan.tokens)
        whole = queries, k, v, *plan.whole.forward(queries, k, v)
        out.index_copy_(1, plan.tokens, whole[3])
        # in the backward of the first two calls these rows take no part
        lse.index_fill_(2, plan.tokens, NOBODY)
        ctx.save_for_backward(q, k, v, out, lse, *far[1:], queries, *whole[3:])
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx, dout):
        plan = ctx.plan
        q, k, v, out, lse, far_k, far_v, queries, whole_out, whole_lse = ctx.saved_tensors
        dq, dk, dv = plan.near.backward(dout, q, k, v, out, lse)
        flat, flat_q, flat_out = (t.flatten(0, 1) for t in (dout, q, out))
        far = plan.far.backward(flat, flat_q, far_k, far_v, flat_out, packed_lse(lse))
        dq += far[0].view_as(dq)
        own = dout.index_select(1, plan.tokens)
        whole = plan.whole.backward(own, queries, k, v, whole_out, whole_lse)
        dq.index_copy_(1, plan.tokens, whole[0])
        for total, of_far, of_whole in ((dk, far[1], whole[1]), (dv, far[2], whole[2])):
            total += of_whole
            total.flatten(0, 1).index_add_(0, plan.far_keys, of_far)
        return dq, dk, dv, None
