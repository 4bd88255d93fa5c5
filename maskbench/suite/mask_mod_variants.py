"""One mask, its mask_mod written in several ways; FlexAttention computes each.

How a mask_mod is written changes its speed: on an H100 the forward of global+local took 17.6 ms
with its tokens looked up in a bool table, 0.69 ms with them written as multiples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from maskbench.attention import Bind, BoundAttention
from maskbench.backends import flex
from maskbench.masks import Causal, Documents, GlobalLocalSlidingWindow, LocalAttention2D, Mask
from maskbench.masks.base import DeviceLike, MaskMod
from maskbench.suite.block_masks import blocks_by_brute_force

M = TypeVar("M", bound=Mask)
MakeMaskMod: TypeAlias = Callable[[Mask, DeviceLike], MaskMod]

TILE = (3, 4)  # bits of a tile's rows and columns: 8 x 16 pixels are 128 tokens, one block


@dataclass(frozen=True)
class WithMaskMod(Mask):
    """`mask` with another mask_mod, which `make_mask_mod(mask, device)` returns."""

    mask: Mask
    make_mask_mod: MakeMaskMod

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        return self.make_mask_mod(self.mask, device)

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        return self.mask.partial_and_full_blocks(device, size)

    def area(self, batch: int = 1) -> int:
        return self.mask.area(batch)


def require(mask: Mask, kind: type[M]) -> M:
    """`mask`, whose variant is written for masks of `kind` only. Raises TypeError for others."""
    if not isinstance(mask, kind):
        raise TypeError(f"this mask_mod is for {kind.__name__}, not for {type(mask).__name__}")
    return mask


def by_lookup(dtype: torch.dtype, mask: Mask, device: DeviceLike) -> MaskMod:
    """The global tokens looked up in a table of `dtype`, bool or integer."""
    mask = require(mask, GlobalLocalSlidingWindow)
    window, table = mask.window, torch.zeros(mask.seq_len, dtype=dtype)
    table[list(mask.tokens)] = 1
    table = table.to(device)
    if dtype == torch.bool:
        return lambda b, h, q, k: ((q - k).abs() <= window) | table[q] | table[k]
    return lambda b, h, q, k: ((q - k).abs() <= window) | ((table[q] | table[k]) != 0)


def by_comparisons(mask: Mask, device: DeviceLike) -> MaskMod:
    """Query and key compared with each global token."""
    mask = require(mask, GlobalLocalSlidingWindow)
    window, tokens = mask.window, mask.tokens

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = (q - k).abs() <= window
        return near | reduce(or_, [(q == t) | (k == t) for t in tokens])

    return mask_mod


def by_document(mask: Mask, device: DeviceLike) -> MaskMod:
    """The documents of query and key looked up and compared."""
    documents = require(mask, Documents)
    require(documents.inner, Causal)
    lengths = torch.tensor(documents.lengths)
    document = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths).to(device)
    return lambda b, h, q, k: (document[q] == document[k]) & (q >= k)


def default_mask_mod(mask: Mask, device: DeviceLike) -> MaskMod:
    """The mask's own mask_mod."""
    return mask.mask_mod(device)


def with_mask_mod(
    make_mask_mod: MakeMaskMod, mask: Mask, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """FlexAttention on `mask` with the mask_mod that `make_mask_mod` returns."""
    return flex.bind(WithMaskMod(mask, make_mask_mod, seq_len=mask.seq_len), q, k, v)


@dataclass(frozen=True)
class Tiled(LocalAttention2D):
    """The 2-D mask with its pixels in tiles, so that a block of tokens is near in both directions.

    The width must be a power of two of 16 or more.
    """

    def pixel(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """(row, column) of a token."""
        rows, columns = TILE
        across = self.width.bit_length() - 1 - columns  # bits of a tile's place in its row
        tile, inside = token >> rows + columns, token & (1 << rows + columns) - 1
        row = (tile >> across << rows) + (inside >> columns)
        return row, ((tile & (1 << across) - 1) << columns) + (inside & (1 << columns) - 1)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        radius = self.radius

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            (row, column), (k_row, k_column) = self.pixel(q), self.pixel(k)
            return ((row - k_row).abs() <= radius) & ((column - k_column).abs() <= radius)

        return mask_mod

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """In blocks of 128 x 128, whatever `size` is."""
        return blocks_by_brute_force(self, str(device))


def tiled(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """FlexAttention on the tiled mask.

    The tokens are reordered before and after the call, like a change of layout. This is not timed.
    """
    mask = require(mask, LocalAttention2D)
    tiles = Tiled(mask.width, mask.radius, seq_len=mask.seq_len)
    row, column = tiles.pixel(torch.arange(mask.seq_len))
    order = (row * mask.width + column).to(q.device)

    def pack(tensor: Tensor) -> Tensor:
        return tensor.detach()[:, :, order].contiguous().requires_grad_(tensor.requires_grad)

    def unpack(tensor: Tensor) -> Tensor:
        return tensor[:, :, order.argsort()]

    call = flex.bind(tiles, pack(q), pack(k), pack(v))
    return BoundAttention(call.formulation, call.inputs, call.forward, pack, unpack)


VARIANTS: dict[str, dict[str, Bind]] = {
    "global_local_sliding_window": {
        "bool_lookup": partial(with_mask_mod, partial(by_lookup, torch.bool)),
        "int_lookup": partial(with_mask_mod, partial(by_lookup, torch.int32)),
        "comparisons": partial(with_mask_mod, by_comparisons),
        # The tokens are multiples of 512, found by their bits: two operations for all of them.
        "multiples": partial(with_mask_mod, default_mask_mod),
    },
    "multi_document_causal": {
        "document_id": partial(with_mask_mod, by_document),
        # The document's first token is looked up by the query alone.
        "document_start": partial(with_mask_mod, default_mask_mod),
    },
    "standalone_self_attention": {
        "row_by_row": partial(with_mask_mod, default_mask_mod),
        "tiles": tiled,
    },
}
