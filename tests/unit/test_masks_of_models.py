"""The masks that today's models need, against their definition, one pair at a time."""

import pickle

import numpy as np
import pytest
import torch

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    BlockSparse,
    Documents,
    ImageInCausal,
    Neighborhood,
    PrefixTree,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from tests.unit.mask_definitions import pairs_of
from tests.unit.mask_oracles import assert_blocks_equal_torch


def random_blocks(*shape, attended=0.4):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < attended


MASKS = {
    "sinks": SinkSlidingWindow(20, 4, seq_len=100),
    "sinks, odd": SinkSlidingWindow(63, 9, seq_len=257),
    "sinks, without": SinkSlidingWindow(7, 0, seq_len=65),
    "sinks, more than the window": SinkSlidingWindow(3, 40, seq_len=100),
    "sinks, only": SinkSlidingWindow(0, 1, seq_len=33),
    "sinks, all": SinkSlidingWindow(2, 99, seq_len=50),
    "window in documents": Documents((60, 1, 196), SlidingWindow(30, 0, seq_len=257)),
    "images": ImageInCausal(((10, 30), (50, 17)), seq_len=100),
    "images, adjacent and at both ends": ImageInCausal(((0, 64), (64, 1), (65, 192)), seq_len=257),
    "images, not in order": ImageInCausal(((40, 24), (3, 5)), seq_len=64),
    "images, none": ImageInCausal((), seq_len=33),
    "shared prefix": SharedPrefix(25, (20, 1, 54)),
    "shared prefix, odd": SharedPrefix(129, (63, 64, 1)),
    "shared prefix, no prefix": SharedPrefix(0, (30, 35)),
    "shared prefix, only": SharedPrefix(40, ()),
    "tree": PrefixTree((-1, 0, 1, 1, 0, 4, 0), (20, 9, 11, 3, 40, 1, 16)),
    "tree, a chain": PrefixTree((-1, 0, 1, 2), (5, 20, 7, 33)),
    "tree, two roots": PrefixTree((-1, 0, 0, -1, 3, 4, 3), (30, 40, 50, 37, 10, 20, 70)),
    "tree, one span": PrefixTree((-1,), (50,)),
    "tree, one token each": PrefixTree((-1, *range(5), 2, 6, 1, 0, -1, 10), (1,) * 12),
    "block diffusion": BlockDiffusion(16, seq_len=128),
    "block diffusion, shorter last block": BlockDiffusion(16, seq_len=200),
    "block diffusion, no power of two": BlockDiffusion(7, seq_len=106),
    "block diffusion, one block": BlockDiffusion(99, seq_len=34),
    "block diffusion, one token": BlockDiffusion(1, seq_len=50),
    "block causal": BlockCausal(32, seq_len=128),
    "block causal, shorter last block": BlockCausal(32, seq_len=100),
    "block causal, no power of two": BlockCausal(25, seq_len=257),
    "block causal, one block": BlockCausal(2**40, seq_len=30),
    "neighborhood of a line": Neighborhood((57,), (4,)),
    "neighborhood of an image": Neighborhood((8, 16), (2, 3)),
    "neighborhood, odd": Neighborhood((10, 13), (3, 6)),
    "neighborhood, a window as wide as the image": Neighborhood((9, 11), (4, 2)),
    "neighborhood, everything": Neighborhood((5, 7), (2, 3)),
    "neighborhood, only itself": Neighborhood((6, 7), (0, 0)),
    "neighborhood of a video": Neighborhood((4, 5, 8), (1, 2, 1)),
    "neighborhood of four axes": Neighborhood((3, 2, 4, 5), (1, 0, 1, 2)),
    "block sparse": BlockSparse(random_blocks(2, 3, 4, 4), 16, seq_len=64),
    "block sparse, shorter last block": BlockSparse(random_blocks(1, 2, 5, 5), 32, seq_len=130),
    "block sparse, no power of two": BlockSparse(random_blocks(2, 1, 7, 7), 9, seq_len=60),
    "block sparse, all": BlockSparse(random_blocks(1, 1, 3, 3, attended=2), 16, seq_len=48),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@every_mask
def test_dense_form_area_and_fully_masked_rows(mask):
    expected = pairs_of(mask)
    assert torch.equal(mask.dense("cpu"), expected)
    assert mask.area(mask.batch or 1) == int(expected.sum())
    rows = mask.fully_masked_rows("cpu")
    rows = torch.zeros_like(expected[..., :1]) if rows is None else rows
    assert torch.equal(rows, ~expected.any(-1, keepdim=True))
    assert mask.attended_keys(mask.batch or 1) == int(expected.any(2).sum())
    assert mask.attends_to_itself == bool(expected.diagonal(dim1=2, dim2=3).all())


@pytest.mark.parametrize("block_size", [1, 16, 128, (8, 32), (32, 8), (24, 10)])
@every_mask
def test_block_mask_equals_torch(mask, block_size):
    assert mask.knows_blocks
    assert_blocks_equal_torch(mask, block_size)


@every_mask
def test_any_and_all_of_arbitrary_ranges(mask):
    """Also of ranges that are no blocks, as those of padding."""
    pairs, n = mask.dense("cpu"), mask.seq_len
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(n, (200, 2, 2), generator=generator, dtype=torch.int32).sort(-1).values
    q, k = (ends[:, 0, 0], ends[:, 0, 1]), (ends[:, 1, 0], ends[:, 1, 1])
    any_attend, all_attend = mask.any_all_attend(q, k)
    rectangles = [
        pairs[:, :, q_first : q_last + 1, k_first : k_last + 1].flatten(2)
        for (q_first, q_last), (k_first, k_last) in ends.tolist()
    ]
    leading = pairs.shape[:2]
    expected_any = torch.stack([rectangle.any(2) for rectangle in rectangles], 2)
    expected_all = torch.stack([rectangle.all(2) for rectangle in rectangles], 2)
    assert torch.equal(any_attend.expand(*leading, 200), expected_any)
    assert torch.equal(all_attend.expand(*leading, 200), expected_all)


@every_mask
def test_masks_are_values(mask):
    copy = pickle.loads(pickle.dumps(mask))
    assert copy == mask
    assert hash(copy) == hash(mask)
    others = [other for other in MASKS.values() if other is not mask]
    assert mask not in others


def test_numpy_integers_become_int():
    masks = [
        (
            ImageInCausal(np.array([[4, 3], [0, 2]]), seq_len=8),
            ImageInCausal(((0, 2), (4, 3)), seq_len=8),
        ),
        (SharedPrefix(np.int64(3), np.array([2, 3])), SharedPrefix(3, (2, 3))),
        (PrefixTree([np.int32(-1), 0], np.array([2, 3])), PrefixTree((-1, 0), (2, 3))),
        (Neighborhood([np.int64(4), 4], [1, np.int8(0)]), Neighborhood((4, 4), (1, 0))),
    ]
    for given, expected in masks:
        assert given == expected
        assert repr(given) == repr(expected)


BLOCKS = torch.ones(1, 1, 2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SinkSlidingWindow(-1, 0, seq_len=8), "left is -1"),
        (lambda: SinkSlidingWindow(1, True, seq_len=8), "sinks is True"),
        (lambda: ImageInCausal(((6, 3),), seq_len=8), r"image \(6, 3\) must be .* the 8 tokens"),
        (lambda: ImageInCausal(((1, 0),), seq_len=8), r"image \(1, 0\) must be"),
        (lambda: ImageInCausal((3, 4), seq_len=8), "image is 3, must be a tuple"),
        (lambda: ImageInCausal(((1, 2.0),), seq_len=8), "each must be a whole number"),
        (lambda: ImageInCausal(((4, 3), (0, 5)), seq_len=8), "at token 0 and at token 4 overlap"),
        (lambda: SharedPrefix(-1, (4,)), "prefix is -1, must be a whole number, 0 or more"),
        (lambda: SharedPrefix(4, (4, 0)), r"responses are \(4, 0\), each must be .* 1 or more"),
        (lambda: SharedPrefix(4, 4), "responses is 4, must be a tuple"),
        (lambda: SharedPrefix(0, ()), "the mask has no tokens"),
        (lambda: PrefixTree((-1, 0), (4,)), "2 parents and 1 lengths"),
        (lambda: PrefixTree((), ()), "0 parents and 0 lengths"),
        (lambda: PrefixTree((-1, 0, -1, 1), (1,) * 4), "the parent of span 3 is 1, must be"),
        (lambda: PrefixTree((0,), (4,)), "the parent of span 0 is 0"),
        (lambda: PrefixTree((-2,), (4,)), "parents are .* -1 or more"),
        (lambda: PrefixTree((-1,), (0,)), "lengths are .* 1 or more"),
        (lambda: BlockDiffusion(2, seq_len=9), "seq_len is 9, must be even"),
        (lambda: BlockDiffusion(0, seq_len=8), "block is 0"),
        (lambda: BlockCausal(0, seq_len=8), "block is 0"),
        (lambda: Neighborhood((4, 4), (1,)), "the same number of axes"),
        (lambda: Neighborhood((), ()), "the same number of axes"),
        (lambda: Neighborhood((4, 0), (1, 0)), "shape are .* 1 or more"),
        (lambda: Neighborhood((4, 6), (1, 3)), r"must fit into the shape \(4, 6\)"),
        (lambda: BlockSparse(BLOCKS.int(), 4, seq_len=8), "blocks are torch.int32"),
        (lambda: BlockSparse(BLOCKS, 4, seq_len=9), r"must be \[batch, heads, 3, 3\]"),
        (lambda: BlockSparse(BLOCKS[0], 4, seq_len=8), r"must be \[batch, heads, 2, 2\]"),
        (lambda: BlockSparse(BLOCKS, 4, seq_len=8).area(2), "batch is 2, the mask is for 1"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
