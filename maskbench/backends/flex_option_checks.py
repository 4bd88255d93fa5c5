"""Whether a mask allows the kernel options ROWS_GUARANTEED_SAFE and BLOCKS_ARE_CONTIGUOUS.

FlexAttention does not check this. With an option that the mask does not allow, the result is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

ROWS_GUARANTEED_SAFE = "ROWS_GUARANTEED_SAFE"
BLOCKS_ARE_CONTIGUOUS = "BLOCKS_ARE_CONTIGUOUS"
SMALLEST_TILE = 16  # of FlexAttention's kernels
CHUNK_PAIRS = 2**25  # that are evaluated at a time


def rows_are_safe(block_mask: BlockMask | None, tile: int = SMALLEST_TILE) -> bool:
    """Whether every query sees a key in the first tile of keys that the kernel visits.

    The kernel visits the partial blocks first, in tiles of `tile` keys (BLOCK_N). It keeps the
    largest score of each row. With ROWS_GUARANTEED_SAFE it does not test for a row without one, so
    a row whose first tile is masked becomes NaN. So a visible key in every row, the condition in
    torch's documentation, is not enough. None stands for no mask.
    """
    if block_mask is None:
        return True
    counts, indices = block_mask.kv_num_blocks, block_mask.kv_indices  # [B, H, rows (, columns)]
    q_size, k_size = block_mask.BLOCK_SIZE
    q_len, kv_len = block_mask.seq_lengths
    batch, heads, rows = counts.shape
    b, h = (
        torch.arange(n, dtype=torch.int32, device=counts.device).view(n, *[1] * dims)
        for n, dims in ((batch, 3), (heads, 2))
    )
    step = max(1, CHUNK_PAIRS // (batch * heads * tile * q_size))  # blocks of queries
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        q = torch.arange(
            start * q_size, min(stop * q_size, q_len), dtype=torch.int32, device=counts.device
        )
        block = q // q_size
        first = indices[:, :, block, :1] * k_size  # [B, H, queries, 1]
        k = first + torch.arange(tile, dtype=torch.int32, device=counts.device)
        inside = k < kv_len
        sees = block_mask.mask_mod(b, h, q.view(-1, 1), k.clamp(max=kv_len - 1)) & inside
        has_partial = counts[:, :, block] > 0  # a full block has no masked pair
        if bool((has_partial & ~sees.any(-1)).any()):
            return False
    return True


def blocks_are_contiguous(block_mask: BlockMask | None, backward: bool) -> bool:
    """Whether the listed blocks of each row follow one another without a gap.

    The backward also visits the blocks of queries of each column. None stands for no mask.
    """
    if block_mask is None:
        return True
    lists = [
        (block_mask.kv_num_blocks, block_mask.kv_indices),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
    ]
    if backward:
        lists += [
            (block_mask.q_num_blocks, block_mask.q_indices),
            (block_mask.full_q_num_blocks, block_mask.full_q_indices),
        ]
    return all(_all_consecutive(counts, indices) for counts, indices in lists)


def _all_consecutive(counts: Tensor | None, indices: Tensor | None) -> bool:
    if counts is None or indices is None:  # there is no such list
        return True
    position = torch.arange(1, indices.shape[-1], device=indices.device)
    is_step = position < counts[..., None]
    return not bool(((indices.diff(dim=-1) != 1) & is_step).any())


def disallowed_option(
    kernel_options: Mapping[str, object], block_mask: BlockMask | None, backward: bool
) -> str | None:
    """The first option that the mask does not allow; None if it allows all."""
    for prefix in ("", "fwd_", "bwd_"):
        if kernel_options.get(f"{prefix}{ROWS_GUARANTEED_SAFE}"):
            tile = kernel_options.get("fwd_BLOCK_N", kernel_options.get("BLOCK_N", SMALLEST_TILE))
            if not isinstance(tile, int) or not rows_are_safe(block_mask, tile):
                return f"{prefix}{ROWS_GUARANTEED_SAFE}"
        if kernel_options.get(f"{prefix}{BLOCKS_ARE_CONTIGUOUS}") and not blocks_are_contiguous(
            block_mask, backward
        ):
            return f"{prefix}{BLOCKS_ARE_CONTIGUOUS}"
    return None
