"""Independent oracles for masks: one pair at a time, and torch's own search for blocks."""

import torch
from torch.nn.attention.flex_attention import create_block_mask

BLOCK_MASK_PARTS = (
    *("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"),
    *("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"),
)


def evaluate_pairs(mask):
    """[batch][head][q][k] of bool: mask_mod of 0-d tensors, in a loop over all pairs."""
    batch, heads, queries, keys = mask.dense_shape
    index = [torch.tensor(i, dtype=torch.int32) for i in range(max(mask.dense_shape))]
    mod = mask.mask_mod("cpu")
    return [
        [
            [[bool(mod(b, h, q, k)) for k in index[:keys]] for q in index[:queries]]
            for h in index[:heads]
        ]
        for b in index[:batch]
    ]


def classify_blocks(pairs, size):
    """[query block][key block] of (is partial, is full), from the pairs [q][k] of one head."""
    n = len(pairs)
    return [
        [
            classify_block([row[k : k + size[1]] for row in pairs[q : q + size[0]]], size)
            for k in range(0, n, size[1])
        ]
        for q in range(0, n, size[0])
    ]


def classify_block(block, size):
    attended = sum(map(sum, block))
    full = attended == size[0] * size[1]  # an incomplete block at the end is never full
    return attended > 0 and not full, full


def assert_blocks_equal_torch(mask, block_size):
    """`mask.block_mask` is what `create_block_mask` finds, with contiguous tensors."""
    ours = mask.block_mask("cpu", block_size)
    sizes = mask.batch, mask.heads, mask.q_len, mask.seq_len
    expected = create_block_mask(mask.mask_mod("cpu"), *sizes, device="cpu", BLOCK_SIZE=block_size)
    assert ours.shape == expected.shape
    assert ours.BLOCK_SIZE == expected.BLOCK_SIZE
    for part in BLOCK_MASK_PARTS:
        our_part, expected_part = getattr(ours, part), getattr(expected, part)
        assert our_part.dtype == expected_part.dtype, part
        assert torch.equal(our_part, expected_part), part
        assert our_part.is_contiguous(), f"{part}: CuTe kernels require it"
