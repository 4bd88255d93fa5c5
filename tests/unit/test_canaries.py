"""Boundary canaries: keys just inside and just outside each edge of a mask, in every backend.

A canary is one query and one key that match, alone in a head. If the query attends to the key, the
key's score exceeds all others together and the query's output is the key's value. If not, the
output has nothing of that value.
"""

from collections import defaultdict
from functools import lru_cache
from itertools import accumulate, product

import pytest
import torch

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    Causal,
    DilatedSlidingWindow,
    Documents,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LocalAttention2D,
    Neighborhood,
    Padded,
    PrefixLM,
    PrefixTree,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from maskbench.suite.workload import Inputs
from masks import PATTERNS
from tests.unit.conformance import (
    PHASES,
    bind_or_skip,
    for_each_backend,
    pytest_generate_tests,  # noqa: F401
    skipped_if_unsupported,
)

SEQ_LENS = {"cuda": (2048,), "cpu": (512, 1024)}  # the first at which some pair does not attend
BATCH, HEADS, HEAD_DIM = 2, 16, 64
AMPLITUDE = 12.0  # a score of 12 * 12 / 8 = 18, and e^18 is far more than there are keys


def rows_at_edges(mask) -> list[int]:
    """Queries on both sides of each row from which the rule for a row changes.

    A mask without a case here has its canaries in the first, middle and last rows.
    """
    n = mask.seq_len
    firsts = {1, n // 2, n - 1}
    match mask:
        case SlidingWindow(left, right):
            firsts |= {left + 1, n - right, n - 1 - right}
        case DilatedSlidingWindow(window):
            firsts |= {window + 1, window + 2, n - window, n - 1 - window}
        case GlobalLocalSlidingWindow(window, tokens):  # a global key enters or leaves the window
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
        case SinkSlidingWindow(left, sinks):
            firsts |= {sinks, left + 1, left + 1 + sinks}
        case ImageInCausal(images):
            firsts |= {edge for first, length in images for edge in (first, first + length)}
        case SharedPrefix(prefix, responses):
            firsts |= {*accumulate(responses, initial=prefix)}
        case PrefixTree(_, lengths):
            firsts |= {*accumulate(lengths)}
        case BlockDiffusion(block):
            firsts |= {block, n // 2 + block, n - block}
        case BlockCausal(block):
            firsts |= {*range(0, n, block)}
        case Neighborhood(shape, radius):
            firsts |= {radius[-1] + 1, shape[-1], shape[-1] * (radius[-2] + 1), n - shape[-1]}
    return sorted({row for f in firsts for row in (f - 1, f) if 0 <= row < n})


def edges(mask) -> list[tuple[int, int, int, int, bool]]:
    """(batch element, head, query, key, whether it attends) on both sides of each change in a row.

    If the mask is the same in all batch elements or heads, the edges alternate between them. If it
    differs by head, each head has one of the rows.
    """
    dense, found, rows = mask.dense("cpu"), {}, rows_at_edges(mask)
    for b, h in product(*map(range, dense.shape[:2])):
        for q in rows if mask.heads is None else [rows[h % len(rows)]]:
            row = dense[b, h, q]
            last_inside = (row[1:] != row[:-1]).nonzero()[:, 0].tolist()
            at = {*last_inside[:4], *last_inside[-4:]}  # a dilated row changes at every key
            for k in {0, mask.seq_len - 1, *at, *(k + 1 for k in at)}:
                found[b, h, q, k] = bool(row[k])
    elements, heads = 1 if mask.batch else BATCH, 1 if mask.heads else HEADS
    return [
        (b + i % elements, h + i // elements % heads, q, k, attends)
        for i, ((b, h, q, k), attends) in enumerate(found.items())
    ]


def observe(call, canaries, shape, backward) -> dict[tuple, bool]:
    """Whether each canary's key took part, according to the output (and to dv)."""
    options, results = {"device": call.inputs[0].device, "dtype": call.inputs[0].dtype}, {}
    of_head = defaultdict(list)
    for canary in canaries:
        of_head[canary[:2]].append(canary)
    while any(of_head.values()):
        now = [waiting.pop() for waiting in of_head.values() if waiting]
        b, head, query, key = torch.tensor([canary[:4] for canary in now]).T
        q, k, v, dout = torch.zeros(4, *shape, **options)
        q[b, head, query, 0] = k[b, head, key, 0] = AMPLITUDE
        v[b, head, key, 1] = dout[b, head, query, 1] = 1
        inputs = [call.pack(t).requires_grad_(backward) for t in (q, k, v)]
        with skipped_if_unsupported():
            out = call.forward(*inputs)
        took_part = call.unpack(out)[b, head, query, 1] > 0.5
        if backward:
            dv = call.unpack(torch.autograd.grad(out, inputs, call.pack(dout))[2])
            assert torch.equal(dv[b, head, key, 1] > 0.5, took_part)
        results |= dict(zip(now, took_part.tolist(), strict=True))
    return results


def bind_for_canaries(backend, mask, device, backward=False):
    """The backend's call and the shape of q; skips the test with the backend's reason."""
    shape = (BATCH, HEADS, mask.seq_len, HEAD_DIM)
    dtype = torch.float16 if device == "cuda" else torch.float32
    probes = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(3)]
    probes = [t.requires_grad_(backward) for t in probes]
    return bind_or_skip(backend, mask, Inputs(*probes, None)), shape


def mistakes(results: dict[tuple, bool]) -> list[tuple]:
    return [canary for canary, took_part in results.items() if took_part != canary[4]]


@lru_cache(maxsize=2)  # the backends of one mask run one after the other
def mask_with_edges(name, device):
    for seq_len in SEQ_LENS[device]:
        mask = PATTERNS[name](seq_len=seq_len, batch=BATCH, heads=HEADS)
        canaries = edges(mask)
        if len({attends for *_, attends in canaries}) == 2:
            break
    return mask, canaries


@pytest.mark.parametrize("name", PATTERNS)
def test_masks_have_keys_on_both_sides_of_an_edge(name, device):
    _, canaries = mask_with_edges(name, device)
    assert {attends for *_, attends in canaries} == ({True} if name == "full" else {True, False})


# A backend that compiles has the same code in test_correctness, where a wrong key is an error far
# over the bound: test_forward_agrees and, in float32, test_last_queries_agree have every mask.
KINDS = ("causal", "causal_padding", "block_sparse", "global_local_sliding_window")
COMPILED = ["-".join(case) for case in product(KINDS, PHASES)]


@for_each_backend(
    {"name": PATTERNS, "phase": PHASES},
    fast=("causal-forward",),
    compiled=COMPILED,
)
def test_keys_at_the_edges(name, phase, backend, device):
    mask, canaries = mask_with_edges(name, device)
    call, shape = bind_for_canaries(backend, mask, device, PHASES[phase])
    assert not mistakes(observe(call, canaries, shape, PHASES[phase]))


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
    "document": tuple(Documents((n, 512 - n), Causal(seq_len=512)) for n in (200, 201)),
    "valid length": tuple(
        Padded(Causal(seq_len=512), torch.arange(512) >= torch.tensor([[n], [n]]))
        for n in (300, 301)
    ),
    "2-D radius": (LocalAttention2D(32, 4, seq_len=512), LocalAttention2D(32, 5, seq_len=512)),
    "sinks": (SinkSlidingWindow(64, 4, seq_len=512), SinkSlidingWindow(64, 5, seq_len=512)),
    "image": tuple(ImageInCausal(((100, n),), seq_len=512) for n in (50, 51)),
    "response": tuple(SharedPrefix(128, (n, 384 - n)) for n in (100, 101)),
    "branch of a tree": tuple(PrefixTree((-1, 0, 0), (100, n, 412 - n)) for n in (90, 91)),
    "block of diffusion": (BlockDiffusion(32, seq_len=512), BlockDiffusion(31, seq_len=512)),
    "block of frames": (BlockCausal(64, seq_len=512), BlockCausal(63, seq_len=512)),
    "neighborhood": (Neighborhood((16, 32), (4, 4)), Neighborhood((16, 32), (4, 5))),
}


# This tests the canaries. They find a mistake in any kernel, if test_keys_at_the_edges passes.
@for_each_backend(
    {"what": OFF_BY_ONE}, fast=("left edge too wide",), compiled=("left edge too wide",)
)
def test_off_by_one_is_found(what, backend, device):
    right, wrong = OFF_BY_ONE[what]
    call, shape = bind_for_canaries(backend, wrong, device)
    assert mistakes(observe(call, edges(right), shape, backward=False))
