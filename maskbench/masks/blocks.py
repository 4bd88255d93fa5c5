"""Blocks of tokens, and lists of them as FlexAttention's BlockMask holds them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

TokenRange = tuple[Tensor, Tensor]
AnyAllAttend = Callable[[TokenRange, TokenRange], tuple[Tensor, Tensor]]


def block_ranges(seq_len: int, size: int, device: torch.device | str) -> TokenRange:
    """Return the first and last token of each block: two int32 tensors [blocks]."""
    first = torch.arange(0, seq_len, size, dtype=torch.int32, device=device)
    return first, (first + size).clamp(max=seq_len) - 1


def blocks_from_bounds(
    any_all_attend: AnyAllAttend, seq_len: int, size: tuple[int, int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the partial and the full blocks, by whether any and all pairs of a block attend.

    Both are bool [..., query blocks, key blocks], with the leading dimensions of `any_all_attend`.
    """
    q_first, q_last = (t[:, None] for t in block_ranges(seq_len, size[0], device))
    k_first, k_last = block_ranges(seq_len, size[1], device)
    any_attend, all_attend = any_all_attend((q_first, q_last), (k_first, k_last))
    # torch pads an incomplete block at the end with False, so it is never full
    complete = (q_last - q_first + 1 == size[0]) & (k_last - k_first + 1 == size[1])
    full = all_attend & complete
    return any_attend & ~full, full


def list_blocks(
    partial: Tensor,
    full: Tensor,
    lengths: tuple[int, int],
    size: tuple[int, int],
    mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> BlockMask:
    """Return the BlockMask that lists `partial` and `full`, for `lengths` queries and keys."""
    return BlockMask(
        lengths,
        *(*dense_to_block_indices(partial), *dense_to_block_indices(full)),
        *(*dense_to_block_indices(partial.mT), *dense_to_block_indices(full.mT)),
        BLOCK_SIZE=size,
        mask_mod=mask_mod,
    )


def to_device_async(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to `device`. A copy from CPU to GPU uses pinned memory and does not block the host."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def dense_to_block_indices(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a dense block map to the counts and indices of a BlockMask.

    Parameters
    ----------
    blocks
        bool [..., rows, columns], True for a block that is listed.

    Returns
    -------
    counts, indices
        int32 [..., rows], the number of listed columns of each row, and int32
        [..., rows, columns], the listed columns followed by the others, both in ascending order,
        as torch orders them.
    """
    # A stable sort gives the same, but takes 8 bytes of index for each block.
    columns = blocks.shape[-1]
    listed = blocks.cumsum(-1, dtype=torch.int32)  # up to and including each column
    # A copy, because `contiguous` keeps the strides of a dimension of size 1, which CuTe reads.
    counts = listed[..., -1].clone(memory_format=torch.contiguous_format)
    column = torch.arange(columns, dtype=torch.int32, device=blocks.device)
    position = torch.where(blocks, listed - 1, counts[..., None] + column - listed)
    indices = torch.empty(position.shape, dtype=torch.int32, device=blocks.device)
    return counts, indices.scatter_(-1, position.long(), column.expand_as(position))
