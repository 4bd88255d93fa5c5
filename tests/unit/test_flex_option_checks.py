"""Kernel options are proved safe for a mask, and refused where they are not."""

import pytest
import torch

from maskbench.backends.flex_option_checks import (
    blocks_are_contiguous,
    disallowed_option,
    rows_are_safe,
)
from maskbench.masks import Causal, FromMaskMod, Full, LastQueries, Mask, SlidingWindow
from tests.unit.conformance import MASKS

TILES = (16, 64, 128)


def visits(mask: Mask, size: tuple[int, int], tile: int) -> list[list[bool]]:
    """For each row of blocks, whether all queries see a key in its first tile, by the dense mask.

    A row without a partial block has none that is masked.
    """
    block_mask, dense = mask.block_mask("cpu", size), mask.dense("cpu")
    found = []
    for b in range(block_mask.kv_num_blocks.shape[0]):
        for h in range(block_mask.kv_num_blocks.shape[1]):
            for row, count in enumerate(block_mask.kv_num_blocks[b, h].tolist()):
                if not count:
                    continue
                first = int(block_mask.kv_indices[b, h, row, 0]) * size[1]
                queries = dense[b, h, row * size[0] : (row + 1) * size[0]]
                found.append(bool(queries[:, first : first + tile].any(-1).all()))
    return found


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", MASKS)
def test_rows_are_safe_as_the_dense_mask_says(name, tile):
    mask = MASKS[name]
    expected = all(visits(mask, (128, 128), tile))
    assert rows_are_safe(mask.block_mask("cpu"), tile) == expected


def test_a_row_that_sees_a_key_is_not_enough():
    """Query 127 of the window sees keys 64 to 127, but none in the first 16 keys of its block."""
    mask = SlidingWindow(63, 0, seq_len=256)
    assert mask.dense("cpu").any(-1).all()
    assert not rows_are_safe(mask.block_mask("cpu"), 16)
    assert rows_are_safe(Causal(seq_len=256).block_mask("cpu"), 16)


def test_rows_are_evaluated_in_chunks(monkeypatch):
    mask = SlidingWindow(63, 0, seq_len=1024)
    monkeypatch.setattr("maskbench.backends.flex_option_checks.CHUNK_PAIRS", 1)
    assert not rows_are_safe(mask.block_mask("cpu"), 16)
    assert rows_are_safe(Causal(seq_len=1024).block_mask("cpu"), 16)


def bands(gap: int) -> Mask:
    """Blocks of 128: the diagonal, and the one `gap` blocks before it."""
    return FromMaskMod.of(
        lambda b, h, q, k: (q // 128 == k // 128) | (q // 128 == k // 128 + gap), seq_len=1024
    )


def test_a_gap_between_blocks_is_found():
    assert blocks_are_contiguous(bands(1).block_mask("cpu"), backward=True)
    assert not blocks_are_contiguous(bands(2).block_mask("cpu"), backward=False)


def test_the_backward_also_needs_columns_without_a_gap():
    """Each query sees one block; block 0 of keys is seen by the queries of blocks 0 and 2."""
    by_row = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    mask = FromMaskMod.of(lambda b, h, q, k: k // 128 == by_row[q // 128], seq_len=512)
    block_mask = mask.block_mask("cpu")
    assert blocks_are_contiguous(block_mask, backward=False)
    assert not blocks_are_contiguous(block_mask, backward=True)


@pytest.mark.parametrize(
    ("mask", "options", "expected"),
    [
        (Causal(seq_len=256), {"fwd_ROWS_GUARANTEED_SAFE": True}, None),
        (bands(2), {"fwd_BLOCKS_ARE_CONTIGUOUS": True}, "fwd_BLOCKS_ARE_CONTIGUOUS"),
        (bands(2), {"bwd_BLOCKS_ARE_CONTIGUOUS": True}, "bwd_BLOCKS_ARE_CONTIGUOUS"),
        (bands(2), {"fwd_BLOCKS_ARE_CONTIGUOUS": False}, None),
        (
            SlidingWindow(63, 0, seq_len=256),
            {"fwd_ROWS_GUARANTEED_SAFE": True, "fwd_BLOCK_N": 32},
            "fwd_ROWS_GUARANTEED_SAFE",
        ),
        (
            SlidingWindow(63, 0, seq_len=256),
            {"ROWS_GUARANTEED_SAFE": True},
            "ROWS_GUARANTEED_SAFE",
        ),
        (LastQueries(Causal(seq_len=256), 16), {"fwd_ROWS_GUARANTEED_SAFE": True}, None),
    ],
)
def test_an_option_that_the_mask_does_not_allow_is_named(mask, options, expected):
    assert disallowed_option(options, mask.block_mask("cpu"), backward=False) == expected


def test_no_block_mask_allows_all():
    assert (
        disallowed_option({"ROWS_GUARANTEED_SAFE": True, "BLOCKS_ARE_CONTIGUOUS": True}, None, True)
        is None
    )
    assert Full(seq_len=16).dense("cpu").all()
