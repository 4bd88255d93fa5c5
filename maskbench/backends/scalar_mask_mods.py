"""mask_mods that compute with comparisons and integers alone, where a mask's own does not.

FlashAttention-4 compiles them for CuTe's scalars, which have no `clamp` and no `torch.where`.
"""

from __future__ import annotations

from torch import Tensor

from maskbench.masks import BlockDiffusion, LastQueries, Mask, Neighborhood
from maskbench.masks.base import DeviceLike, MaskMod


def scalar_mask_mod(mask: Mask, device: DeviceLike) -> MaskMod:
    """The mask's mask_mod, written with scalar operators where that is known."""
    match mask:
        case LastQueries(inner):
            mod, offset = scalar_mask_mod(inner, device), mask.offset
            return lambda b, h, q, k: mod(b, h, q + offset, k)
        case BlockDiffusion(block):
            return block_diffusion(block, mask.seq_len // 2)
        case Neighborhood(shape, radius):
            return neighborhood(shape, radius)
    return mask.mask_mod(device)


def block_diffusion(block: int, half: int) -> MaskMod:
    """BlockDiffusion with `half` noised and as many clean tokens."""
    blocks = -(-half // block)
    gap = blocks * block - half  # moves the clean half to the start of a block

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q_block, k_block = q // block, k // block
        q_clean, k_clean = (q + gap) // block, (k + gap) // block  # `blocks` and above
        same_noised = (q < half) & (k < half) & (q_block == k_block)
        before_noised = (q < half) & (q_block + blocks > k_clean)
        until_clean = (q >= half) & (q_clean >= k_clean)
        return same_noised | ((k >= half) & (before_noised | until_clean))

    return mask_mod


def neighborhood(shape: tuple[int, ...], radius: tuple[int, ...]) -> MaskMod:
    """Neighborhood: on each axis, the window's bounds are near the query or at a border."""

    def coordinates(token: Tensor) -> list[Tensor]:
        found = []
        for n in reversed(shape[1:]):
            if n & (n - 1) == 0:  # a power of two: no division
                found.append(token & (n - 1))
                token = token >> (n.bit_length() - 1)
            else:
                found.append(token % n)
                token = token // n
        return [token, *reversed(found)]

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = k >= 0
        for x, y, n, r in zip(coordinates(q), coordinates(k), shape, radius, strict=True):
            after_start = (y >= x - r) | (y >= n - 1 - 2 * r)
            before_end = (y <= x + r) | (y <= 2 * r)
            seen = seen & after_start & before_end
        return seen

    return mask_mod
