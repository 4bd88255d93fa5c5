"""A FlashLibrary in plain torch, and `difference`, which checks a `bind` in float64."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch

from maskbench.attention import Formulation
from maskbench.reference import gather_heads
from maskbench.suite.workload import Shape, make_inputs_with_reference
from maskbench.varlen.ops import AttentionOp, FlashLibrary, batched_lse, packed_lse, window_id

EXACT = 1e-10


def scores(q, k, window):
    """[heads, queries, keys] for q [queries, heads, D], k [keys, kv_heads, D]; -inf outside."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    left, right = (math.inf if bound is None else bound for bound in window)
    distance = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    inside = (distance <= left) & (distance >= -right)
    product = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return product.masked_fill(~inside, -torch.inf)


def sequence_forward(q, k, v, window):
    """(out, lse) of one sequence."""
    s, v = scores(q, k, window), v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    lse = s.logsumexp(-1)
    return torch.einsum("hqk,khd->qhd", (s - lse[..., None]).exp().nan_to_num(0), v), lse


def sequence_backward(dout, q, k, v, out, lse, window):
    """(dq, dk, dv) of one sequence, from the given output and log-sum-exp, as FlashAttention."""
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = (t.repeat_interleave(group, 1) for t in (k, v))
    p = (scores(q, k, window) - lse[..., None]).exp().nan_to_num(0)
    delta = (dout * out).sum(-1).T[..., None]
    ds = p * (torch.einsum("qhd,khd->hqk", dout, wide_v) - delta) / math.sqrt(q.shape[-1])
    dk, dv = torch.einsum("hqk,qhd->khd", ds, q), torch.einsum("hqk,qhd->khd", p, dout)
    dk, dv = (t.unflatten(1, (-1, group)).sum(2) for t in (dk, dv))
    return torch.einsum("hqk,khd->qhd", ds, wide_k), dk, dv


def plain_op(formulation, q_lengths, k_lengths, window, batched):
    """An AttentionOp that runs one sequence after another."""

    def flat(*tensors):
        return [t.flatten(0, 1) if batched else t for t in tensors]

    def sequences(q, k):
        """(query slice, key slice) of each sequence."""
        lengths = (q_lengths, k_lengths)
        if batched:
            assert lengths == (q.shape[1], k.shape[1])
            lengths = [[n] * len(q) for n in lengths]
        edges = [[0, *accumulate(n)] for n in lengths]
        pairs = zip(*(pairwise(e) for e in edges), strict=True)
        return [tuple(slice(*edge) for edge in pair) for pair in pairs]

    def forward(q, k, v):
        results = []
        (flat_q, flat_k, flat_v), slices = flat(q, k, v), sequences(q, k)
        for rows, keys in slices:
            results.append(sequence_forward(flat_q[rows], flat_k[keys], flat_v[keys], window))
        out, lse = torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results], 1)
        if batched:
            lse = batched_lse(lse, len(q))
        return out.view(*q.shape[:-1], v.shape[-1]), lse

    def backward(dout, q, k, v, out, lse):
        if batched:
            lse = packed_lse(lse)
        grads = [
            torch.zeros_like(t).flatten(0, 1) if batched else torch.zeros_like(t) for t in (q, k, v)
        ]
        dout, flat_q, flat_k, flat_v, out = flat(dout, q, k, v, out)
        for rows, keys in sequences(q, k):
            operands = dout[rows], flat_q[rows], flat_k[keys], flat_v[keys], out[rows], lse[:, rows]
            for grad, where, part in zip(
                grads, (rows, keys, keys), sequence_backward(*operands, window), strict=True
            ):
                grad[where] = part
        return tuple(g.view_as(t) for g, t in zip(grads, (q, k, v), strict=True))

    return AttentionOp(formulation, lambda q, k, v: forward(q, k, v)[0], forward, backward)


PLAIN = FlashLibrary(
    lambda q, k, window: plain_op(
        Formulation(window_id(window), f"window {window}"), q, k, window, batched=True
    ),
    lambda q, k, window: plain_op(
        Formulation(f"varlen:{window_id(window)}", f"packed, window {window}"),
        *(q, k, window),
        batched=False,
    ),
)


def difference(bind, mask, heads=4, kv_heads=2, backward=True):
    """(formulation, largest absolute error of out, dq, dk, dv against the formula), in float64."""
    tensors = make_inputs_with_reference(
        mask, Shape(mask.batch or 2, heads, kv_heads, 16), "float32", "cpu", backward
    )
    q, k, v = (t.detach().double() for t in (tensors.inputs.q, tensors.inputs.k, tensors.inputs.v))
    call = bind(mask, *(t.requires_grad_(backward) for t in (q, k, v)))
    out = call.forward(*call.inputs)
    got = {"out": out}
    if backward:
        grads = torch.autograd.grad(out, call.inputs, call.pack(tensors.inputs.dout.double()))
        got |= dict(zip(("dq", "dk", "dv"), grads, strict=True))
    errors = []
    for name, expected in tensors.reference.exact.items():
        result = gather_heads(call.unpack(got[name]), tensors.reference.pairs, kv_heads)
        errors.append(float((result - expected).abs().max()))
    return call.formulation, max(errors)


def formula(mask, q, k, v):
    """Attention by its formula: q [B, heads, Q, D], k and v [B, kv_heads, S, ...]."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    allowed = mask.dense("cpu").expand(len(q), q.shape[1], -1, -1)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -1e9)
    return (torch.softmax(scores, -1) * allowed) @ v


def formula_difference(bind, mask, heads=4, kv_heads=2, v_dim=16, backward=True):
    """`difference` for any number of queries and any head dimension of v."""
    generator = torch.Generator().manual_seed(0)
    batch = mask.batch or 2

    def normal(*shape):
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    q = normal(heads, mask.q_len, 16).requires_grad_(backward)
    k, v = (normal(kv_heads, mask.seq_len, n).requires_grad_(backward) for n in (16, v_dim))
    dout, call = normal(heads, mask.q_len, v_dim), bind(mask, q, k, v)
    out, expected = call.forward(*call.inputs), formula(mask, q, k, v)
    pairs = [(call.unpack(out), expected)]
    if backward:
        grads = torch.autograd.grad(out, call.inputs, call.pack(dout))
        exact = torch.autograd.grad(expected, (q, k, v), dout)
        pairs += zip(map(call.unpack, grads), exact, strict=True)
    assert all(got.shape == right.shape for got, right in pairs)
    return call.formulation, max(float((got - right).detach().abs().max()) for got, right in pairs)


class Attention(torch.autograd.Function):
    """(out, lse) of a plain AttentionOp; lse has no gradient, as in FlashAttention-2."""

    @staticmethod
    def forward(ctx, q, k, v, op):
        out, lse = op.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.op = op
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx, dout, _):
        return *ctx.op.backward(dout, *ctx.saved_tensors), None
