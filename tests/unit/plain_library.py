"""A library with windows and packed sequences in plain torch, and the proof by it."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch

from maskbench.reference import gather_heads
from maskbench.suite.workload import Shape, make_inputs_with_reference
from maskbench.varlen.ops import AttentionOp, FlashLibrary, batched_lse, packed_lse

EXACT = 1e-10


def scores(q, k, window):
    """[heads, queries, keys] of [queries, heads, D] and [keys, kv_heads, D], outside: -inf."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    left, right = (math.inf if bound is None else bound for bound in window)
    apart = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    inside = (apart <= left) & (apart >= -right)
    product = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return product.masked_fill(~inside, -torch.inf)


def one_forward(q, k, v, window):
    s, v = scores(q, k, window), v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    lse = s.logsumexp(-1)
    return torch.einsum("hqk,khd->qhd", (s - lse[..., None]).exp().nan_to_num(0), v), lse


def one_backward(dout, q, k, v, out, lse, window):
    """By the output and the log-sum-exp that it is given, as FlashAttention does."""
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = (t.repeat_interleave(group, 1) for t in (k, v))
    p = (scores(q, k, window) - lse[..., None]).exp().nan_to_num(0)
    delta = (dout * out).sum(-1).T[..., None]
    ds = p * (torch.einsum("qhd,khd->hqk", dout, wide_v) - delta) / math.sqrt(q.shape[-1])
    dk, dv = torch.einsum("hqk,qhd->khd", ds, q), torch.einsum("hqk,qhd->khd", p, dout)
    dk, dv = (t.unflatten(1, (-1, group)).sum(2) for t in (dk, dv))
    return torch.einsum("hqk,khd->qhd", ds, wide_k), dk, dv


def plain_kernel(form, q_lengths, k_lengths, window, batched):
    """A kernel in plain torch that runs sequence by sequence."""

    def flat(*tensors):
        return [t.flatten(0, 1) if batched else t for t in tensors]

    def runs(q, k):
        lengths = (q_lengths, k_lengths)
        if batched:
            assert lengths == (q.shape[1], k.shape[1])
            lengths = [[n] * len(q) for n in lengths]
        edges = [[0, *accumulate(n)] for n in lengths]
        pairs = zip(*(pairwise(e) for e in edges), strict=True)
        return [tuple(slice(*edge) for edge in pair) for pair in pairs]

    def forward(q, k, v):
        results = []
        (flat_q, flat_k, flat_v), cut = flat(q, k, v), runs(q, k)
        for rows, keys in cut:
            results.append(one_forward(flat_q[rows], flat_k[keys], flat_v[keys], window))
        out, lse = torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results], 1)
        if batched:
            lse = batched_lse(lse, len(q))
        return out.view_as(q), lse

    def backward(dout, q, k, v, out, lse):
        if batched:
            lse = packed_lse(lse)
        cut = runs(q, k)
        grads = [
            torch.zeros_like(t).flatten(0, 1) if batched else torch.zeros_like(t) for t in (q, k, v)
        ]
        dout, flat_q, flat_k, flat_v, out = flat(dout, q, k, v, out)
        for rows, keys in cut:
            own = dout[rows], flat_q[rows], flat_k[keys], flat_v[keys], out[rows], lse[:, rows]
            for grad, where, part in zip(
                grads, (rows, keys, keys), one_backward(*own, window), strict=True
            ):
                grad[where] = part
        return tuple(g.view_as(t) for g, t in zip(grads, (q, k, v), strict=True))

    return AttentionOp(form, lambda q, k, v: forward(q, k, v)[0], forward, backward)


PLAIN = FlashLibrary(
    lambda q, k, window: plain_kernel(f"window {window}", q, k, window, True),
    lambda q, k, window: plain_kernel(f"packed, window {window}", q, k, window, False),
)


def difference(bind, mask, heads=4, kv_heads=2, backward=True):
    """The form, and how far out (and dq, dk, dv) are from the formula's, all in float64."""
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
    apart = []
    for name, wanted in tensors.reference.exact.items():
        mine = gather_heads(call.unpack(got[name]), tensors.reference.pairs, kv_heads)
        apart.append(float((mine - wanted).abs().max()))
    return call.form, max(apart)
