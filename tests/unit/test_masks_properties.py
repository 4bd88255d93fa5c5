"""Masks with arbitrary parameters against their definition, one pair at a time."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskbench.masks import (
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
from tests.unit.mask_definitions import attends
from tests.unit.mask_oracles import assert_blocks_equal_torch


def with_padding(inner, batch):
    """Padded masks with arbitrary padding; drawn as the bits of one integer, as that is fast."""
    n = inner.seq_len
    return st.integers(0, 2 ** (n * batch) - 1).map(
        lambda bits: Padded(
            inner, torch.tensor([bits >> i & 1 for i in range(n * batch)]).view(batch, n) == 1
        )
    )


@st.composite
def plain_masks(draw, n):
    reach = st.integers(0, n + 2)
    tokens = st.lists(st.integers(0, n - 1), max_size=4)
    return draw(
        st.one_of(
            st.just(Full(seq_len=n)),
            st.just(Causal(seq_len=n)),
            st.builds(SlidingWindow, reach, reach, seq_len=st.just(n)),
            st.builds(PrefixLM, reach, seq_len=st.just(n)),
            st.builds(DilatedSlidingWindow, reach, st.integers(1, 9), seq_len=st.just(n)),
            st.builds(GlobalLocalSlidingWindow, reach, tokens.map(tuple), seq_len=st.just(n)),
            st.builds(LocalAttention2D, st.integers(1, 12), st.integers(0, 5), seq_len=st.just(n)),
        )
    )


@st.composite
def masks(draw):
    mask = draw(plain_masks(draw(st.integers(1, 70))))
    n = mask.seq_len
    if mask.key_range(torch.zeros(1)) is not None and draw(st.booleans()):
        cuts = sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=8))})
        mask = Documents(tuple(b - a for a, b in itertools.pairwise(cuts)), mask)
        if draw(st.booleans()):  # documents may be nested
            mask = Documents((n,), mask)
    if draw(st.booleans()):
        mask = draw(with_padding(mask, draw(st.integers(1, 3))))
    return mask


@settings(deadline=None, max_examples=150)
@given(masks())
def test_dense_area_and_fully_masked_rows(mask):
    n, batch = mask.seq_len, mask.batch or 1
    expected = torch.tensor(
        [[[bool(attends(mask, q, k, b)) for k in range(n)] for q in range(n)] for b in range(batch)]
    )
    dense = mask.dense("cpu")
    assert dense.shape == (batch, 1, n, n)
    assert torch.equal(dense[:, 0], expected)
    assert mask.area(batch) == int(expected.sum())
    empty = mask.fully_masked_rows("cpu")
    empty = torch.zeros(batch, 1, n, 1, dtype=torch.bool) if empty is None else empty
    assert torch.equal(empty, ~dense.any(-1, keepdim=True))


@settings(deadline=None, max_examples=150)
@given(masks(), st.sampled_from([1, 4, 16, 128, (8, 16), (16, 4)]))
def test_block_mask_equals_torch(mask, block_size):
    assert_blocks_equal_torch(mask, block_size)


def test_radius_beyond_the_image_attends_everywhere():
    wide = LocalAttention2D(width=16, radius=2**40, seq_len=1024)
    for found, expected in zip(
        wide.partial_and_full_blocks("cpu", (128, 128)),
        Full(seq_len=1024).partial_and_full_blocks("cpu", (128, 128)),
        strict=True,
    ):
        assert torch.equal(found, expected)
