"""Several calls as one, over disjoint queries.

The softmax is by row, so the rows of a mask can be computed by separate calls. The gradients of
the keys are the sums of those of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskbench.attention import Unsupported
from maskbench.masks import BlockCausal
from maskbench.varlen.ops import (
    CAUSAL,
    EXCLUDED_LSE,
    FULL,
    Attend,
    AttentionOp,
    FlashLibrary,
)

MAX_CALLS = 16  # of one merged form

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


def block_queries(library: FlashLibrary, mask: BlockCausal, queries: int) -> Attend:
    """Block causal for the last `queries`: one call for each block, over the keys up to its end."""
    n, block = mask.seq_len, mask.block
    first_query = n - queries
    starts = range(first_query // block * block, n, block)
    if len(starts) > MAX_CALLS:
        raise Unsupported(
            f"{len(starts)} blocks of queries take as many calls: at most {MAX_CALLS}"
        )
    parts = []
    for block_start in starts:
        start, end = max(block_start, first_query), min(block_start + block, n)
        op = library.batched(end - start, end, FULL)
        rows = slice(start - first_query, end - first_query)
        parts.append(QuerySlice(op, rows, slice(0, end)))
    apply: Callable[..., Tensor] = DisjointQueries.apply
    return lambda q, k, v: apply(q, k, v, tuple(parts))


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
