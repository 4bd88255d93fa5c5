"""The forms in windows and packed sequences, proved with a library in plain torch on any device.

What the real libraries do with the same forms is tests/test_correctness.py's matter.
"""

import math
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from backends import Unsupported
from backends.composed import bind
from backends.kernel import CAUSAL, FULL, Kernel, Library, batched_lse, packed_lse
from backends.reference import take
from masks import (
    PATTERNS,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from tests.cells import Shape, drawn

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

    return Kernel(form, lambda q, k, v: forward(q, k, v)[0], forward, backward)


PLAIN = Library(
    lambda q, k, window: plain_kernel(f"window {window}", q, k, window, True),
    lambda q, k, window: plain_kernel(f"packed, window {window}", q, k, window, False),
)


def difference(library, mask, heads=4, kv_heads=2):
    """The form, and how far out, dq, dk and dv are from the formula's, all in float64."""
    tensors = drawn(mask, Shape(mask.batch or 2, heads, kv_heads, 16), "float32", "cpu", True)
    q, k, v = (t.detach().double().requires_grad_() for t in (tensors.q, tensors.k, tensors.v))
    call = bind(library, mask, q, k, v)
    out = call.forward(*call.inputs)
    grads = torch.autograd.grad(out, call.inputs, call.pack(tensors.dout.double()))
    exact, pairs = tensors.reference.exact, tensors.reference.pairs
    got = [take(call.unpack(t), pairs, kv_heads) for t in (out, *grads)]
    wanted = [exact[name] for name in ("out", "dq", "dk", "dv")]
    return call.form, max(float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True))


def assert_exact(mask, kv_heads=2):
    form, apart = difference(PLAIN, mask, kv_heads=kv_heads)
    assert apart < EXACT, form
    return form


@pytest.mark.parametrize("name", [n for n in PATTERNS if n != "standalone_self_attention"])
def test_each_pattern_has_an_exact_form(name):
    assert_exact(PATTERNS[name](seq_len=1024, batch=2), kv_heads=1)
    assert_exact(PATTERNS[name].picture)


def test_what_has_no_form_says_so():
    probe = torch.zeros(1, 1, 12, 16)
    for mask, reason in {
        LocalAttention2D(4, 1, seq_len=12): "no form of LocalAttention2D in windows and packed",
        DilatedSlidingWindow(4, 5, seq_len=12): "12 is no multiple of 5",
        GlobalLocalSlidingWindow(6, (6,), seq_len=12): "every global token lies in every query",
        Padded(SlidingWindow(2, 0, seq_len=12), torch.arange(12)[None] == 4): "at the ends alone",
    }.items():
        with pytest.raises(Unsupported, match=reason):
            bind(PLAIN, mask, probe, probe, probe)


N = 60


@st.composite
def masks(draw):
    number = st.integers(0, N)
    cuts = sorted({0, N, *draw(st.lists(st.integers(1, N - 1), max_size=4))})
    lengths = tuple(b - a for a, b in pairwise(cuts))
    plain = [Full(seq_len=N), Causal(seq_len=N), PrefixLM(draw(number), seq_len=N)]
    inner = draw(st.sampled_from([*plain, SlidingWindow(draw(number), draw(number), seq_len=N)]))
    holes = torch.rand(2, N, generator=torch.Generator().manual_seed(draw(number))) < 0.4
    ends = torch.tensor([[draw(number), draw(number)] for _ in range(2)]).sort().values
    at = torch.arange(N)
    one_run = (at < ends[:, :1]) | (at >= ends[:, 1:])
    padding = draw(st.sampled_from([holes, one_run]))
    return draw(
        st.sampled_from(
            [
                inner,
                Documents(lengths, inner),
                Padded(inner, padding),
                DilatedSlidingWindow(draw(number), draw(st.sampled_from([1, 2, 3, 5])), seq_len=N),
                GlobalLocalSlidingWindow(
                    draw(number),
                    tuple(draw(st.lists(st.integers(0, N - 1), max_size=4))),
                    seq_len=N,
                ),
            ]
        )
    )


@settings(max_examples=150, deadline=None)
@given(masks())
def test_forms_are_exact_for_any_parameters(mask):
    try:
        assert_exact(mask)
    except Unsupported:
        reject()


def test_a_split_that_loses_the_merge_is_wrong():
    """The proof can fail: backward with each call's own log-sum-exp is not the gradient."""
    mask = PATTERNS["global_local_sliding_window"](seq_len=1024)
    right = PLAIN.packed

    def own_lse(q_lengths, k_lengths, window):
        kernel = right(q_lengths, k_lengths, window)

        def backward(dout, q, k, v, out, lse):
            return kernel.backward(dout, q, k, v, *kernel.forward(q, k, v))

        return Kernel(kernel.form, kernel.attend, kernel.forward, backward)

    _, apart = difference(Library(PLAIN.batched, own_lse), mask, heads=1, kv_heads=1)
    assert apart > 0.01


def test_forms_say_how():
    forms = {
        name: assert_exact(PATTERNS[name].picture)
        for name in (
            "bidirectional_dilated_sliding_window",
            "prefix_lm",
            "multi_document_causal",
            "global_local_sliding_window",
            "causal_padding",
            "causal_sliding_window",
        )
    }
    assert forms["bidirectional_dilated_sliding_window"] == (
        "2 residue streams as heads, window (4, 4)"
    )
    assert forms["prefix_lm"] == "2 calls: the prefix's queries full, the rest causal"
    assert forms["multi_document_causal"] == f"packed, window {CAUSAL}"
    assert "merged by log-sum-exp" in forms["global_local_sliding_window"]
    assert forms["causal_padding"] == f"valid tokens alone, packed, window {CAUSAL}"
    assert bind(PLAIN, Full(seq_len=8), *[torch.zeros(1, 1, 8, 16)] * 3).form == f"window {FULL}"
