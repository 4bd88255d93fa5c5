"""How a BlockMask can be built: from block bounds, by torch's search, by the compiled search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from maskbench.masks import Mask

BLOCK = 128


@dataclass(frozen=True)
class BlockMaskBuilder:
    """One way to build a BlockMask.

    Parameters
    ----------
    form
        How it is built, in a few words.
    formulation
        A stable identifier of `form`.
    prepare
        Called with (mask, device); returns the call that builds the BlockMask.
    compiles
        Whether the first call compiles kernels.
    """

    form: str
    formulation: str
    prepare: Callable[[Mask, str], Callable[[], BlockMask]]
    compiles: bool = False


def _from_bounds(mask: Mask, device: str) -> Callable[[], BlockMask]:
    return lambda: replace(mask).block_mask(device)  # a new mask, without cached properties


def _by_search(mask: Mask, device: str) -> Callable[[], BlockMask]:
    mask_mod, sizes = mask.mask_mod(device), (mask.batch, mask.heads, mask.q_len, mask.seq_len)
    return lambda: create_block_mask(mask_mod, *sizes, device=device)


def _by_compiled_search(mask: Mask, device: str) -> Callable[[], BlockMask]:
    mask_mod, sizes = mask.mask_mod(device), (mask.batch, mask.heads, mask.q_len, mask.seq_len)
    torch.compiler.reset()
    create = torch.compile(create_block_mask, fullgraph=True, dynamic=False)
    return lambda: create(mask_mod, *sizes, device=device)


BUILDERS = {
    "ours": BlockMaskBuilder("block bounds", "block_bounds", _from_bounds),
    "torch_eager": BlockMaskBuilder("create_block_mask", "create_block_mask", _by_search),
    "torch_compiled": BlockMaskBuilder(
        "torch.compile(create_block_mask)",
        "compiled_create_block_mask",
        _by_compiled_search,
        compiles=True,
    ),
}


@lru_cache(maxsize=1)  # the builders of one workload run one after the other
def blocks_by_brute_force(mask: Mask, device: str) -> tuple[Tensor, Tensor]:
    """(partial, full) blocks, bool [1 or B, 1 or H, query blocks, key blocks], from every pair.

    One row of blocks is evaluated at a time, so S x S values are never held.
    """
    found = []
    columns = -(-mask.seq_len // BLOCK)
    for start in range(0, mask.q_len, BLOCK):
        rows = mask.dense_rows(start, min(start + BLOCK, mask.q_len), device)
        padded = F.pad(rows, (0, columns * BLOCK - mask.seq_len, 0, BLOCK - rows.shape[2]))
        blocks = padded.view(*padded.shape[:-1], columns, BLOCK)
        found.append(blocks.sum((-3, -1)))
    pairs = torch.stack(found, 2)
    return (pairs > 0) & (pairs < BLOCK * BLOCK), pairs == BLOCK * BLOCK


def listed_blocks(block_mask: BlockMask) -> Iterator[Tensor]:
    """The partial blocks, then the full blocks, that a BlockMask lists.

    Both are bool [1 or B, 1 or H, query blocks, key blocks]. Raises ValueError if a list is
    missing.
    """
    for count, order in (
        (block_mask.kv_num_blocks, block_mask.kv_indices),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
    ):
        if count is None or order is None:
            raise ValueError("the BlockMask has no list of full blocks")
        listed = torch.arange(order.shape[-1], device=order.device) < count[..., None]
        yield torch.zeros_like(listed).scatter_(-1, order.long(), listed)
