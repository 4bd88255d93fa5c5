"""Masks that are the same for all tokens of a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.evaluation import count_shared_keys
from maskbench.masks.parameters import EXTENT, POSITIVE

NEVER = 2**30  # above the number of any block

WORD_BITS = 64


def _block_of(tokens: Tensor, block: int) -> Tensor:
    """Return the block of each token."""
    if block & (block - 1) == 0:  # a power of two: no division
        return tokens >> (block.bit_length() - 1)
    return tokens // block


@dataclass(frozen=True)
class BlockCausal(Mask):
    """Causal between blocks, bidirectional within one: q // block >= k // block.

    Autoregressive video, where a block is a frame or a chunk of frames: CausVid,
    https://arxiv.org/abs/2412.07772. The last block may be shorter.
    """

    block: int = field(metadata=EXTENT)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        block, low_bits = self.block, self.block - 1
        if block & low_bits == 0:  # a power of two: no division
            return lambda b, h, q, k: k <= (q | low_bits)
        return lambda b, h, q, k: k < (q // block + 1) * block

    def key_range(self, q: Tensor) -> TokenRange:
        return q * 0, (_block_of(q, self.block) + 1) * self.block - 1


class BlockRange(NamedTuple):
    """The blocks of the tokens of one half, first and last inclusive, if it `exists`."""

    first: Tensor
    last: Tensor
    exists: Tensor


@dataclass(frozen=True)
class BlockDiffusion(Mask):
    """Training of block diffusion: a noised copy of the tokens, then a clean one.

    Each half has n = seq_len / 2 tokens, in blocks of `block`; the last may be shorter. Query q
    sees key k when

    - both are noised and in the same block, or
    - q is noised, k is clean, and the block of q is after the block of k, or
    - both are clean, and the block of q is not before the block of k.

    BD3-LM, https://arxiv.org/abs/2503.09573, section 3.1.
    """

    block: int = field(metadata=EXTENT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seq_len % 2:
            raise ValueError(
                f"seq_len is {self.seq_len}, must be even: a noised half and a clean half"
            )

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        half, block = self.seq_len // 2, self.block
        blocks = -(-half // block)
        gap = blocks * block - half  # moves the clean half to the start of a block

        def number(tokens: Tensor) -> Tensor:
            """The block of each token. Those of the clean half are `blocks` and above."""
            aligned = torch.where(tokens < half, tokens, tokens + gap) if gap else tokens
            return _block_of(aligned, block)

        # Only three operations are done for each pair. The others are for each query or key.
        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            q_block, k_block = number(q), number(k)
            clean_block = torch.where(k_block >= blocks, k_block, NEVER)
            end = torch.where(q_block < blocks, q_block + blocks, q_block)
            return (k_block == q_block) | (clean_block < end)

        return mod

    @property
    def attends_to_itself(self) -> bool:
        return True

    def _halves(self, tokens: TokenRange) -> tuple[BlockRange, BlockRange]:
        """Return the blocks of the noised part and of the clean part of each token range."""
        half, (first, last) = self.seq_len // 2, tokens
        noised = first.clamp(max=half - 1), last.clamp(max=half - 1)
        clean = first.clamp(min=half) - half, last.clamp(min=half) - half
        (noised_first, noised_last), (clean_first, clean_last) = (
            (_block_of(part[0], self.block), _block_of(part[1], self.block))
            for part in (noised, clean)
        )
        return (
            BlockRange(noised_first, noised_last, first < half),
            BlockRange(clean_first, clean_last, last >= half),
        )

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        (q_noised, q_clean), (k_noised, k_clean) = self._halves(q), self._halves(k)
        both_noised = q_noised.exists & k_noised.exists
        noised_to_clean = q_noised.exists & k_clean.exists
        both_clean = q_clean.exists & k_clean.exists
        any_attend = both_noised & (q_noised.first <= k_noised.last)
        any_attend &= k_noised.first <= q_noised.last
        any_attend |= noised_to_clean & (q_noised.last > k_clean.first)
        any_attend |= both_clean & (q_clean.last >= k_clean.first)
        same_block = (q_noised.first == k_noised.last) & (q_noised.last == k_noised.first)
        all_attend = ~both_noised | same_block
        all_attend &= ~noised_to_clean | (q_noised.first > k_clean.last)
        all_attend &= ~both_clean | (q_clean.first >= k_clean.last)
        all_attend &= ~(q_clean.exists & k_noised.exists)
        return any_attend, all_attend

    def area(self, batch: int = 1) -> int:
        half = self.seq_len // 2
        blocks, rest = divmod(half, self.block)
        # A clean key that a noised query does not see, for its block, is seen by the clean query
        # and vice versa. So the clean keys have half * half pairs.
        return batch * (half**2 + blocks * self.block**2 + rest**2)


@dataclass(frozen=True, eq=False)
class BlockSparse(Mask):
    """Each query block sees some key blocks: blocks[b, h, q // block, k // block].

    Native Sparse Attention, https://arxiv.org/abs/2502.11089; MoBA,
    https://arxiv.org/abs/2502.13189.

    Parameters
    ----------
    blocks
        bool [B, H, n, n], n = ceil(S / block), True = may attend. Do not modify it afterwards.
    block
        Tokens of a block. The last block may be shorter.
    """

    blocks: Tensor
    block: int = field(metadata=POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks.dtype != torch.bool:
            raise ValueError(f"blocks are {self.blocks.dtype}, must be torch.bool")
        shape, count = list(self.blocks.shape), -(-self.seq_len // self.block)
        if len(shape) != 4 or 0 in shape or shape[2:] != [count, count]:
            raise ValueError(f"blocks are {shape}, must be [batch, heads, {count}, {count}]")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockSparse):
            return False
        same_sizes = (self.seq_len, self.block) == (other.seq_len, other.block)
        return same_sizes and torch.equal(self.blocks.cpu(), other.blocks.cpu())

    def __hash__(self) -> int:
        return hash((self.seq_len, self.block, self.blocks.cpu().numpy().tobytes()))

    @property
    def batch(self) -> int:
        return self.blocks.shape[0]

    @property
    def heads(self) -> int:
        return self.blocks.shape[1]

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        # A lookup by query and key would be a tile of loads, which Triton pipelines: it needed
        # 245 KB of shared memory, more than an H100 has. A word has the bits of 64 key blocks, and
        # is looked up by the query alone. Each word of a row has a tensor of its own: an integer
        # among the indices ends the trace of the compiled create_block_mask (torch 2.13).
        words, block = self._words(device), self.block
        of_columns = [words[..., i].contiguous() for i in range(words.shape[-1])]

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            row, column = _block_of(q, block), _block_of(k, block)
            word = of_columns[0][b, h, row]
            for i, later in enumerate(of_columns[1:], start=1):
                word = torch.where(column >= i * WORD_BITS, later[b, h, row], word)
            return (word >> (column % WORD_BITS)) & 1 != 0

        return mod

    def _words(self, device: DeviceLike) -> Tensor:
        """Return int64 [B, H, n, ceil(n / 64)]: bit i of word j is key block 64 j + i."""
        blocks = to_device_async(self.blocks, device)
        bits = pad(blocks, (0, -blocks.shape[-1] % WORD_BITS))
        bits = torch.unflatten(bits, -1, (-1, WORD_BITS))
        shifts = torch.arange(WORD_BITS, device=blocks.device)
        return (bits.long() << shifts).sum(-1)

    @property
    def attends_to_itself(self) -> bool:
        return bool(self.blocks.diagonal(dim1=2, dim2=3).all())

    def fully_masked_rows(self, device: DeviceLike) -> Tensor | None:
        empty = ~self.blocks.any(-1)
        if not bool(empty.any()):
            return None
        return to_device_async(self._of_tokens(empty)[..., None], device)

    def attended_keys(self, batch: int = 1, kv_heads: int | None = None) -> int:
        self._require_batch(batch)
        return count_shared_keys(self._of_tokens(self.blocks.any(2)), kv_heads or self.heads)

    def _of_tokens(self, of_blocks: Tensor) -> Tensor:
        """Return [B, H, S], the value of each token's block, from [B, H, n]."""
        return of_blocks.repeat_interleave(self.block, -1)[..., : self.seq_len]

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        # the number of blocks above and to the left of each, so that four of them count a rectangle
        counts = to_device_async(self.blocks, q[0].device).cumsum(2, dtype=torch.int32).cumsum_(3)
        before = pad(counts, (1, 0, 1, 0))
        top, bottom = _block_of(q[0], self.block), _block_of(q[1], self.block) + 1
        left, right = _block_of(k[0], self.block), _block_of(k[1], self.block) + 1
        attended = before[:, :, bottom, right] - before[:, :, top, right]
        attended += before[:, :, top, left] - before[:, :, bottom, left]
        return attended > 0, attended == (bottom - top) * (right - left)

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        if size != (self.block, self.block):
            return super().partial_and_full_blocks(device, size)
        attended = to_device_async(self.blocks, device)
        complete = torch.arange(attended.shape[-1], device=device) < self.seq_len // self.block
        full = attended & complete[:, None] & complete
        return attended & ~full, full

    def area(self, batch: int = 1) -> int:
        self._require_batch(batch)
        last = self.seq_len - (self.blocks.shape[-1] - 1) * self.block
        keys = self.blocks[..., :-1].sum(-1) * self.block + self.blocks[..., -1] * last
        return int(keys[..., :-1].sum()) * self.block + int(keys[..., -1].sum()) * last
