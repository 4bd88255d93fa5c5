"""The catalogue: the attention masks that the suite measures, by name.

A mask says which keys each query may attend to. To add one, add a line to `PATTERNS`. If no class
fits, write one first: `maskbench/masks/base.py` says which methods it must define.

    mask = PATTERNS["causal"](seq_len=4096, batch=8)
    mask.mask_mod("cuda")    # FlexAttention's (b, h, q_idx, kv_idx) -> bool
    mask.dense("cuda")       # bool [1 or B, 1, S, S], True = may attend
    mask.block_mask("cuda")  # FlexAttention's BlockMask
    mask.area(8)             # number of attended pairs of one head over 8 batch elements
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Mask,
    Padded,
    PrefixLM,
    SlidingWindow,
)

__all__ = [
    "PATTERNS",
    "Causal",
    "DilatedSlidingWindow",
    "Documents",
    "Full",
    "GlobalLocalSlidingWindow",
    "LocalAttention2D",
    "Mask",
    "MaskFamily",
    "Padded",
    "PrefixLM",
    "SlidingWindow",
]


@dataclass(frozen=True)
class MaskFamily:
    """A mask for every sequence length, and a small example of it for plots and tests.

    Parameters
    ----------
    build
        Called as build(seq_len, batch). Returns the mask. Only masks that differ by batch element,
        such as padding, need `batch`.
    example
        A mask of the same kind with 32 to 64 tokens.
    """

    build: Callable[[int, int], Mask]
    example: Mask

    @property
    def parameters(self) -> dict[str, object]:
        return {}

    def __call__(self, *, seq_len: int, batch: int = 1, heads: int = 1, **given: object) -> Mask:
        """Return the mask for `seq_len` tokens.

        Raises
        ------
        ValueError
            If `seq_len` is not a power of two from 256.
        """
        if seq_len < 256 or seq_len & (seq_len - 1):
            raise ValueError(f"seq_len is {seq_len}, patterns take powers of two from 256")
        return self.build(seq_len, batch)


def _documents(inner: Mask) -> Documents:
    """Five documents of S/8, S/8, S/4, S/4 and S/4 tokens."""
    n = inner.seq_len // 8
    return Documents((n, n, 2 * n, 2 * n, 2 * n), inner)


def _local_2d(n: int, radius: int) -> LocalAttention2D:
    """An image of n pixels, about as wide as high."""
    width = 1 << (n.bit_length() // 2)  # the power of two at or just above sqrt(n)
    return LocalAttention2D(width, radius, seq_len=n)


def _right_padded_causal(n: int, batch: int) -> Padded:
    """Causal with padding at the end; valid lengths are drawn from [n/2, n] with a fixed seed."""
    generator = random.Random(0)
    lengths = torch.tensor([generator.randint(n // 2, n) for _ in range(batch)])
    return Padded(Causal(seq_len=n), torch.arange(n) >= lengths[:, None])


def _global_tokens(n: int) -> tuple[int, ...]:
    """Tokens 0, 512 and 1024, as far as the sequence has them."""
    return tuple(t for t in (0, 512, 1024) if t < n)


# Window sizes count the tokens on one side: query q itself is always included.
PATTERNS: dict[str, MaskFamily] = {
    "full": MaskFamily(lambda n, b: Full(seq_len=n), Full(seq_len=32)),
    "causal": MaskFamily(lambda n, b: Causal(seq_len=n), Causal(seq_len=32)),
    "causal_sliding_window": MaskFamily(
        lambda n, b: SlidingWindow(256, 0, seq_len=n), SlidingWindow(4, 0, seq_len=32)
    ),
    "bidirectional_sliding_window": MaskFamily(
        lambda n, b: SlidingWindow(256, 256, seq_len=n), SlidingWindow(4, 4, seq_len=32)
    ),
    "bidirectional_dilated_sliding_window": MaskFamily(
        lambda n, b: DilatedSlidingWindow(512, 2, seq_len=n),
        DilatedSlidingWindow(8, 2, seq_len=32),
    ),
    "global_local_sliding_window": MaskFamily(
        lambda n, b: GlobalLocalSlidingWindow(256, _global_tokens(n), seq_len=n),
        GlobalLocalSlidingWindow(4, (0, 8, 16), seq_len=32),
    ),
    "prefix_lm": MaskFamily(lambda n, b: PrefixLM(n // 2, seq_len=n), PrefixLM(16, seq_len=32)),
    "multi_document_bidirectional": MaskFamily(
        lambda n, b: _documents(Full(seq_len=n)), _documents(Full(seq_len=32))
    ),
    "multi_document_causal": MaskFamily(
        lambda n, b: _documents(Causal(seq_len=n)), _documents(Causal(seq_len=32))
    ),
    "multi_document_prefix_lm": MaskFamily(
        lambda n, b: _documents(PrefixLM(n // 16, seq_len=n)),
        _documents(PrefixLM(2, seq_len=32)),
    ),
    "standalone_self_attention": MaskFamily(lambda n, b: _local_2d(n, 8), _local_2d(64, 2)),
    "causal_padding": MaskFamily(_right_padded_causal, _right_padded_causal(32, 1)),
}
