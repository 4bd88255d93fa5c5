"""Boundary canaries: keys just inside and just outside of each edge, in every backend.

A canary is one query and one key that agree, alone in a head: if the key takes part, its score
beats all others together, and the query's output is the key's value; else it is none of it.
"""

import pytest
import torch

from maskbench.backends import registry
from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from maskbench.suite.workload import CheckedInputs, Inputs
from masks import PATTERNS
from tests.unit.test_correctness import HALF_ON_CPU, bound

SEQ_LEN = {"cuda": 2048, "cpu": 512}
WIDE = ("bidirectional_dilated_sliding_window", "global_local_sliding_window")  # 1024 on a CPU
BATCH, HEADS, HEAD_DIM = 2, 16, 64
LOUD = 12.0  # a score of 12 * 12 / 8: e^18 is far more than there are keys


def rows_at_edges(mask) -> list[int]:
    """Queries at both sides of each place where the rule for a row changes."""
    n = mask.seq_len
    firsts = {1, n // 2, n - 1}  # of the rows from which on something differs
    match mask:
        case SlidingWindow(left, right):
            firsts |= {left + 1, n - right, n - 1 - right}
        case DilatedSlidingWindow(window):
            firsts |= {window + 1, window + 2, n - window, n - 1 - window}
        case GlobalLocalSlidingWindow(window, tokens):  # there a global key is near, then far
            firsts |= {edge for t in tokens for edge in (t - window, t, t + 1, t + window + 1)}
        case PrefixLM(prefix):
            firsts |= {prefix}
        case Documents(lengths, inner):
            starts = [sum(lengths[:i]) for i in range(len(lengths))]
            inside = rows_at_edges(inner) if isinstance(inner, PrefixLM) else []
            firsts |= {start + row for start in starts for row in (0, *inside) if row < lengths[0]}
        case Padded():
            firsts |= {int(row.sum()) for row in ~mask.padding}
        case LocalAttention2D(width, radius):
            firsts |= {radius + 1, width, width * radius + width, n // 2 + radius + 1}
    return sorted({row for f in firsts for row in (f - 1, f) if 0 <= row < n})


def edges(mask) -> list[tuple[int, int, int, bool]]:
    """(batch element, query, key, whether it attends) at both sides of each change in a row.

    Of a mask that is the same in all elements, one edge is tried in one and the next in another.
    """
    dense, found = mask.dense("cpu"), {}
    for b in range(len(dense)):
        for q in rows_at_edges(mask):
            row = dense[b, 0, q]
            last_inside = (row[1:] != row[:-1]).nonzero()[:, 0].tolist()
            at = {*last_inside[:4], *last_inside[-4:]}  # a dilated row changes at every key
            for k in {0, mask.seq_len - 1, *at, *(k + 1 for k in at)}:
                found[b, q, k] = bool(row[k])
    spread = 1 if mask.batch else BATCH
    return [(b + i % spread, q, k, attends) for i, ((b, q, k), attends) in enumerate(found.items())]


def heard(call, canaries, shape, backward) -> dict[tuple, bool]:
    """Whether each canary's key took part, by the query's output (and by the key's dv)."""
    like, results = {"device": call.inputs[0].device, "dtype": call.inputs[0].dtype}, {}
    of_element = [[c for c in canaries if c[0] == b] for b in range(BATCH)]
    while any(of_element):
        now = [(element.pop(), h) for h in range(HEADS) for element in of_element if element]
        b, query, key, head = torch.tensor([(*c[:3], h) for c, h in now]).T
        q, k, v, dout = torch.zeros(4, *shape, **like)
        q[b, head, query, 0] = k[b, head, key, 0] = LOUD
        v[b, head, key, 1] = dout[b, head, query, 1] = 1
        inputs = [call.pack(t).requires_grad_(backward) for t in (q, k, v)]
        out = call.forward(*inputs)
        took_part = call.unpack(out)[b, head, query, 1] > 0.5
        if backward:
            dv = call.unpack(torch.autograd.grad(out, inputs, call.pack(dout))[2])
            assert torch.equal(dv[b, head, key, 1] > 0.5, took_part)
        results |= dict(zip((c for c, _ in now), took_part.tolist(), strict=True))
    return results


def prepared(backend, mask, device, backward):
    """The backend's call on tensors of the canaries' shape, or a skip with its reason."""
    shape, dtype = (BATCH, HEADS, mask.seq_len, HEAD_DIM), torch.float32
    dtype = torch.float16 if device == "cuda" else dtype
    probes = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(3)]
    probes = [t.requires_grad_(backward) for t in probes]
    return bound(backend, mask, CheckedInputs(Inputs(*probes, None), None)), shape


def wrong_ones(results: dict[tuple, bool]) -> list[tuple]:
    return [canary for canary, took_part in results.items() if took_part != canary[3]]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_keys_at_the_edges(name, backend, backward, device):
    if device == "cpu" and backend == "flex" and name not in HALF_ON_CPU:
        pytest.skip("4 s of C++ compiler each: the edges are tried on three masks on a CPU")
    seq_len = max(SEQ_LEN[device], 1024 if name in WIDE else 0)
    mask = PATTERNS[name](seq_len=seq_len, batch=BATCH)
    canaries = edges(mask)
    assert {attends for *_, attends in canaries} == ({True} if name == "full" else {True, False})
    call, shape = prepared(backend, mask, device, backward)
    assert not wrong_ones(heard(call, canaries, shape, backward))


OFF_BY_ONE = {
    "left edge too wide": (SlidingWindow(64, 32, seq_len=512), SlidingWindow(65, 32, seq_len=512)),
    "left edge too near": (SlidingWindow(64, 32, seq_len=512), SlidingWindow(63, 32, seq_len=512)),
    "right edge too wide": (SlidingWindow(64, 32, seq_len=512), SlidingWindow(64, 33, seq_len=512)),
    "right edge too near": (SlidingWindow(64, 32, seq_len=512), SlidingWindow(64, 31, seq_len=512)),
    "dilated": (
        DilatedSlidingWindow(64, 2, seq_len=512),
        DilatedSlidingWindow(66, 2, seq_len=512),
    ),
    "prefix": (PrefixLM(256, seq_len=512), PrefixLM(255, seq_len=512)),
    "documents' prefix": (
        Documents((256, 256), PrefixLM(100, seq_len=512)),
        Documents((256, 256), PrefixLM(101, seq_len=512)),
    ),
    "window beside global tokens": (
        GlobalLocalSlidingWindow(64, (0, 256), seq_len=512),
        GlobalLocalSlidingWindow(63, (0, 256), seq_len=512),
    ),
    "global token": (
        GlobalLocalSlidingWindow(64, (0, 256), seq_len=512),
        GlobalLocalSlidingWindow(64, (0, 257), seq_len=512),
    ),
    "2-D radius": (LocalAttention2D(32, 4, seq_len=512), LocalAttention2D(32, 5, seq_len=512)),
}


@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("what", OFF_BY_ONE)
def test_off_by_one_is_heard(what, backend, device):
    if device == "cpu" and backend == "flex" and what != "left edge too wide":
        pytest.skip("4 s of C++ compiler each: one edge is tried on a CPU")
    right, wrong = OFF_BY_ONE[what]
    canaries = edges(right)
    call, shape = prepared(backend, wrong, device, False)
    assert wrong_ones(heard(call, canaries, shape, False))


@pytest.mark.parametrize("what", ["document", "valid length"])
@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_moved_borders_are_heard(what, backend, device):
    if device == "cpu" and backend == "flex":
        pytest.skip("4 s of C++ compiler each: not tried on a CPU")
    causal, at = Causal(seq_len=512), torch.arange(512)
    pairs = {
        "document": [Documents((n, 512 - n), causal) for n in (200, 201)],
        "valid length": [Padded(causal, at >= torch.tensor([[n], [n]])) for n in (300, 301)],
    }
    right, wrong = pairs[what]
    call, shape = prepared(backend, wrong, device, False)
    assert wrong_ones(heard(call, edges(right), shape, False))
