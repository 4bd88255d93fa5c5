"""mask_mods that compute with comparisons and integers alone, where a mask's own does not.

FlashAttention-4 compiles them for CuTe's scalars, which have no `torch.where`.
"""

from __future__ import annotations

from torch import Tensor

from maskbench.masks import BlockDiffusion, LastQueries, Mask
from maskbench.masks.base import DeviceLike, MaskMod


def scalar_mask_mod(mask: Mask, device: DeviceLike) -> MaskMod:
    """The mask's mask_mod, written with scalar operators where that is known."""
    match mask:
        case LastQueries(inner):
            mod, offset = scalar_mask_mod(inner, device), mask.offset
            return lambda b, h, q, k: mod(b, h, q + offset, k)
        case BlockDiffusion(block):
            return block_diffusion(block, mask.seq_len // 2)
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
