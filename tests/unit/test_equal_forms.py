"""A mask and its simpler form allow the same pairs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskbench.masks import (
    BlockCausal,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LastQueries,
    LocalAttention2D,
    Padded,
    PrefixLM,
    PrefixTree,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from maskbench.masks.equal_forms import simplify

N = 9
FULL, CAUSAL = Full(seq_len=N), Causal(seq_len=N)
NONE = torch.zeros(2, N, dtype=torch.bool)


@pytest.mark.parametrize(
    ("mask", "simple"),
    [
        (SlidingWindow(8, 8, seq_len=N), FULL),
        (SlidingWindow(8, 0, seq_len=N), CAUSAL),
        (PrefixLM(1, seq_len=N), CAUSAL),
        (PrefixLM(N, seq_len=N), FULL),
        (DilatedSlidingWindow(3, 1, seq_len=N), SlidingWindow(3, 3, seq_len=N)),
        (DilatedSlidingWindow(2, 3, seq_len=N), SlidingWindow(0, 0, seq_len=N)),
        (GlobalLocalSlidingWindow(8, (3,), seq_len=N), FULL),
        (GlobalLocalSlidingWindow(2, (), seq_len=N), SlidingWindow(2, 2, seq_len=N)),
        (LocalAttention2D(N, 2, seq_len=N), SlidingWindow(2, 2, seq_len=N)),
        (LocalAttention2D(1, N, seq_len=N), FULL),
        (Documents((N,), CAUSAL), CAUSAL),
        (Documents((5, 4), SlidingWindow(4, 0, seq_len=N)), Documents((5, 4), CAUSAL)),
        (BlockCausal(1, seq_len=N), CAUSAL),
        (BlockCausal(N, seq_len=N), FULL),
        (SinkSlidingWindow(4, 4, seq_len=N), CAUSAL),
        (SinkSlidingWindow(4, 0, seq_len=N), SlidingWindow(4, 0, seq_len=N)),
        (ImageInCausal(((3, 1),), seq_len=N), CAUSAL),
        (ImageInCausal(((0, 4), (5, 1)), seq_len=N), PrefixLM(4, seq_len=N)),
        (SharedPrefix(3, (6,)), PrefixLM(3, seq_len=N)),
        (SharedPrefix(N, ()), FULL),
        (SharedPrefix(0, (5, 4)), Documents((5, 4), CAUSAL)),
        (PrefixTree((-1, 0, 1), (2, 3, 4)), CAUSAL),
        (PrefixTree((-1, -1), (5, 4)), Documents((5, 4), CAUSAL)),
        (LastQueries(BlockCausal(4, seq_len=N), 1), LastQueries(FULL, 1)),
        (LastQueries(ImageInCausal(((2, 4),), seq_len=N), 4), LastQueries(CAUSAL, 4)),
        (Padded(PrefixLM(0, seq_len=N), NONE), CAUSAL),
        (LastQueries(CAUSAL, N), CAUSAL),
        (LastQueries(CAUSAL, 1), LastQueries(FULL, 1)),
        (LastQueries(PrefixLM(6, seq_len=N), 4), LastQueries(CAUSAL, 4)),
        (LastQueries(SlidingWindow(8, 3, seq_len=N), 4), LastQueries(FULL, 4)),
        (
            LastQueries(SlidingWindow(3, 3, seq_len=N), 1),
            LastQueries(SlidingWindow(3, 0, seq_len=N), 1),
        ),
    ],
    ids=repr,
)
def test_simple_form(mask, simple):
    assert simplify(mask) == simple


@st.composite
def masks(draw):
    n = draw(st.integers(1, 12))
    number = st.integers(0, n + 1)
    cuts = sorted({0, n, *draw(st.lists(st.integers(1, n), max_size=3))})
    with_range = [
        Full(seq_len=n),
        Causal(seq_len=n),
        PrefixLM(draw(number), seq_len=n),
        SlidingWindow(draw(number), draw(number), seq_len=n),
    ]
    lengths = tuple(b - a for a, b in pairwise(cuts))
    spans = tuple(zip(cuts, lengths, strict=False))
    others = range(1, len(lengths))
    parents = [[span - 1 for span in others], [-1 for _ in others], [0 for _ in others]]
    tokens = tuple(draw(st.lists(st.integers(0, n - 1), max_size=n)))
    inner = draw(
        st.sampled_from(
            [
                *with_range,
                *(Documents(lengths, m) for m in with_range),
                DilatedSlidingWindow(draw(number), draw(st.integers(1, 4)), seq_len=n),
                GlobalLocalSlidingWindow(draw(number), tokens, seq_len=n),
                BlockCausal(draw(st.integers(1, n)), seq_len=n),
                SinkSlidingWindow(draw(number), draw(number), seq_len=n),
                ImageInCausal(spans[draw(st.integers(0, 1)) :: draw(st.integers(1, 2))], seq_len=n),
                SharedPrefix(lengths[0], lengths[1:]),
                PrefixTree((-1, *draw(st.sampled_from(parents))), lengths),
                LocalAttention2D(draw(st.integers(1, n)), draw(number), seq_len=n),
            ]
        )
    )
    padding = torch.tensor([[draw(st.booleans()) for _ in range(n)]])
    q_len = draw(st.integers(1, n))
    return draw(st.sampled_from([inner, Padded(inner, padding), LastQueries(inner, q_len)]))


@settings(max_examples=400, deadline=None)
@given(masks())
def test_simple_form_allows_the_same_pairs(mask):
    simple = simplify(mask)
    assert (simple.q_len, simple.seq_len) == (mask.q_len, mask.seq_len)
    assert torch.equal(simple.dense("cpu"), mask.dense("cpu"))
