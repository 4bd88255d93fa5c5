"""Masks with arbitrary parameters against their definition, one pair at a time."""

import itertools
from math import prod

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    BlockSparse,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
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
from tests.unit.mask_definitions import pairs_of
from tests.unit.mask_oracles import assert_blocks_equal_torch


def with_padding(inner, batch):
    """Padded masks with arbitrary padding; drawn as the bits of one integer, as that is fast."""
    n = inner.seq_len
    return st.integers(0, 2 ** (n * batch) - 1).map(
        lambda bits: Padded(
            inner, torch.tensor([bits >> i & 1 for i in range(n * batch)]).view(batch, n) == 1
        )
    )


def parts(n):
    """Tuples of lengths that add up to n."""
    cuts = st.sets(st.integers(1, n - 1), max_size=8) if n > 1 else st.just(set())
    return cuts.map(
        lambda found: tuple(b - a for a, b in itertools.pairwise([0, *sorted(found), n]))
    )


@st.composite
def images(draw, n):
    """Some of the parts of n tokens are images."""
    lengths = draw(parts(n))
    spans = zip(itertools.accumulate((0, *lengths)), lengths, strict=False)
    return ImageInCausal(tuple(s for s in spans if draw(st.booleans())), seq_len=n)


@st.composite
def trees(draw, n):
    """Each span continues one of the path to the span before it, or is a root."""
    lengths, parents, path = draw(parts(n)), [], [-1]
    for span in range(len(lengths)):
        parents.append(draw(st.sampled_from(path)))
        path = [*path[: path.index(parents[-1]) + 1], span]
    return PrefixTree(tuple(parents), lengths)


@st.composite
def shared_prefixes(draw, n):
    prefix = draw(st.integers(0, n))
    return SharedPrefix(prefix, draw(parts(n - prefix)) if prefix < n else ())


@st.composite
def neighborhoods(draw):
    shape = draw(
        st.lists(st.integers(1, 9), min_size=1, max_size=3).filter(lambda s: prod(s) <= 90)
    )
    radius = tuple(draw(st.integers(0, (n - 1) // 2)) for n in shape)
    return Neighborhood(tuple(shape), radius)


@st.composite
def block_sparse(draw, n):
    """Blocks are drawn as the bits of one integer."""
    block, batch, heads = (draw(st.integers(1, most)) for most in (n + 2, 2, 3))
    shape = batch, heads, -(-n // block), -(-n // block)
    bits = draw(st.integers(0, 2 ** prod(shape) - 1))
    blocks = torch.tensor([bits >> i & 1 for i in range(prod(shape))]).view(shape) == 1
    return BlockSparse(blocks, block, seq_len=n)


def masks_of_models(n):
    reach = st.integers(0, n + 2)
    block = st.integers(1, n + 2)
    return st.one_of(
        st.builds(SinkSlidingWindow, reach, reach, seq_len=st.just(n)),
        images(n),
        trees(n),
        shared_prefixes(n),
        st.builds(BlockCausal, block, seq_len=st.just(n)),
        st.builds(BlockDiffusion, block, seq_len=st.just(n + n % 2)),
        neighborhoods(),
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
            masks_of_models(n),
        )
    )


@st.composite
def masks(draw):
    mask = draw(plain_masks(draw(st.integers(1, 70))))
    n = mask.seq_len
    if mask.key_range(torch.zeros(1, dtype=torch.int32)) is not None and draw(st.booleans()):
        mask = Documents(draw(parts(n)), mask)
        if draw(st.booleans()):  # documents may be nested
            mask = Documents((n,), mask)
    if draw(st.booleans()):
        mask = draw(with_padding(mask, draw(st.integers(1, 3))))
    return mask


every_mask = st.one_of(masks(), st.integers(1, 40).flatmap(block_sparse))


@settings(deadline=None, max_examples=250)
@given(every_mask)
def test_dense_area_and_fully_masked_rows(mask):
    expected = pairs_of(mask)
    dense = mask.dense("cpu")
    assert torch.equal(dense, expected)
    assert mask.area(mask.batch or 1) == int(expected.sum())
    empty = mask.fully_masked_rows("cpu")
    empty = torch.zeros_like(dense[..., :1]) if empty is None else empty
    assert torch.equal(empty, ~dense.any(-1, keepdim=True))


@settings(deadline=None, max_examples=250)
@given(every_mask, st.sampled_from([1, 4, 16, 128, (8, 16), (16, 4)]))
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
