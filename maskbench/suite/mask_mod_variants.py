"""One mask, its mask_mod written in several ways; FlexAttention computes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_

import torch
from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.backends import flex
from maskbench.masks import LocalAttention2D, Mask
from maskbench.suite.block_masks import blocks_by_brute_force

TILE = (3, 4)  # bits of a tile's rows and columns: 8 x 16 pixels are 128 tokens, one block


@dataclass(frozen=True)
class WithMaskMod(Mask):
    """`mask` with another mask_mod, which `spell` makes of it and a device."""

    mask: Mask
    spell: Callable

    def mask_mod(self, device):
        return self.spell(self.mask, device)

    def partial_and_full_blocks(self, device, size):
        return self.mask.partial_and_full_blocks(device, size)

    def area(self, batch=1):
        return self.mask.area(batch)


def by_lookup(dtype, mask, device):
    window, table = mask.window, torch.zeros(mask.seq_len, dtype=dtype)
    table[list(mask.tokens)] = 1
    table = table.to(device)
    if dtype == torch.bool:
        return lambda b, h, q, k: ((q - k).abs() <= window) | table[q] | table[k]
    return lambda b, h, q, k: ((q - k).abs() <= window) | ((table[q] | table[k]) != 0)


def by_comparisons(mask, device):
    window, tokens = mask.window, mask.tokens

    def mod(b, h, q, k):
        near = (q - k).abs() <= window
        return near | reduce(or_, [(q == t) | (k == t) for t in tokens])

    return mod


def by_document(mask, device):
    lengths = torch.tensor(mask.lengths)
    document = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths).to(device)
    return lambda b, h, q, k: (document[q] == document[k]) & (q >= k)


def default_mask_mod(mask, device):
    return mask.mask_mod(device)


def with_mask_mod(spell, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    return flex.bind(WithMaskMod(mask, spell, seq_len=mask.seq_len), q, k, v)


@dataclass(frozen=True)
class Tiled(LocalAttention2D):
    """The 2-D mask of pixels tile by tile, so that a block of tokens is near in both directions.

    For widths that are a power of two, 16 or more.
    """

    def pixel(self, token):
        """(row, column) of a token."""
        rows, columns = TILE
        across = self.width.bit_length() - 1 - columns  # bits of a tile's place in its row
        tile, inside = token >> rows + columns, token & (1 << rows + columns) - 1
        row = (tile >> across << rows) + (inside >> columns)
        return row, ((tile & (1 << across) - 1) << columns) + (inside & (1 << columns) - 1)

    def mask_mod(self, device):
        radius = self.radius

        def mod(b, h, q, k):
            (row, column), (k_row, k_column) = self.pixel(q), self.pixel(k)
            return ((row - k_row).abs() <= radius) & ((column - k_column).abs() <= radius)

        return mod

    def partial_and_full_blocks(self, device, size):
        return blocks_by_brute_force(self, device)


def tiled(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """The tokens are reordered before and after, as layouts are: not in the time."""
    tiles = Tiled(mask.width, mask.radius, seq_len=mask.seq_len)
    row, column = tiles.pixel(torch.arange(mask.seq_len))
    order = (row * mask.width + column).to(q.device)

    def pack(tensor):
        return tensor.detach()[:, :, order].contiguous().requires_grad_(tensor.requires_grad)

    call = flex.bind(tiles, *map(pack, (q, k, v)))
    return BoundAttention(
        call.formulation, call.inputs, call.forward, pack, lambda t: t[:, :, order.argsort()]
    )


VARIANTS = {
    "global_local_sliding_window": {
        "bool_lookup": partial(with_mask_mod, partial(by_lookup, torch.bool)),
        "int_lookup": partial(with_mask_mod, partial(by_lookup, torch.int32)),
        "comparisons": partial(with_mask_mod, by_comparisons),
        "multiples": partial(
            with_mask_mod, default_mask_mod
        ),  # of 512, as bits: two operations a token
    },
    "multi_document_causal": {
        "document_id": partial(with_mask_mod, by_document),
        "document_start": partial(with_mask_mod, default_mask_mod),  # looked up by the query alone
    },
    "standalone_self_attention": {
        "row_by_row": partial(with_mask_mod, default_mask_mod),
        "tiles": tiled,
    },
}
