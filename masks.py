"""Attention masks as values: which keys each query may attend to.

A mask is a small frozen dataclass, so a backend finds its native kernel by matching:

    match mask:
        case Causal(): ...
        case SlidingWindow(left, right): ...
        case Documents(lengths, inner=Causal()): ...

Each gives `mask_mod(device)`, `dense(device)`, `block_mask(device)` and `area(batch)`;
patterns/base.py says what they are. All bounds are inclusive. `PATTERNS` names the
masks that the suite measures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from patterns.base import Mask, require
from patterns.composed import Documents, Padded
from patterns.plain import (
    Causal,
    DilatedSlidingWindow,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
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
    "Padded",
    "Pattern",
    "PrefixLM",
    "SlidingWindow",
]


@dataclass(frozen=True)
class Pattern:
    """A mask that the suite measures at any power of two from 256, and a small one to draw."""

    build: Callable[[int, int], Mask]  # (seq_len, batch)
    picture: Mask

    def __call__(self, *, seq_len: int, batch: int = 1) -> Mask:
        """The mask at seq_len; ValueError unless that is a power of two, 256 or more."""
        fits = seq_len >= 256 and seq_len & (seq_len - 1) == 0
        require(fits, f"seq_len is {seq_len}, patterns take powers of two from 256")
        return self.build(seq_len, batch)


def _documents(inner: Mask) -> Documents:
    n = inner.seq_len // 8
    return Documents((n, n, 2 * n, 2 * n, 2 * n), inner)


def _image(n: int, radius: int) -> LocalAttention2D:
    width = 1 << (n.bit_length() // 2)  # the power of two at or just above sqrt(n)
    return LocalAttention2D(width, radius, seq_len=n)


def _padded_end(n: int, batch: int) -> Padded:
    """Valid lengths from n / 2 to n, drawn with a fixed seed, padding at the end."""
    draw = random.Random(0)
    lengths = torch.tensor([draw.randint(n // 2, n) for _ in range(batch)])
    return Padded(Causal(seq_len=n), torch.arange(n) >= lengths[:, None])


def _global_tokens(n: int) -> tuple[int, ...]:
    return tuple(t for t in (0, 512, 1024) if t < n)


PATTERNS: dict[str, Pattern] = {
    "full": Pattern(lambda n, b: Full(seq_len=n), Full(seq_len=32)),
    "causal": Pattern(lambda n, b: Causal(seq_len=n), Causal(seq_len=32)),
    "causal_sliding_window": Pattern(
        lambda n, b: SlidingWindow(256, 0, seq_len=n), SlidingWindow(4, 0, seq_len=32)
    ),
    "bidirectional_sliding_window": Pattern(
        lambda n, b: SlidingWindow(256, 256, seq_len=n), SlidingWindow(4, 4, seq_len=32)
    ),
    "bidirectional_dilated_sliding_window": Pattern(
        lambda n, b: DilatedSlidingWindow(512, 2, seq_len=n),
        DilatedSlidingWindow(8, 2, seq_len=32),
    ),
    "global_local_sliding_window": Pattern(
        lambda n, b: GlobalLocalSlidingWindow(256, _global_tokens(n), seq_len=n),
        GlobalLocalSlidingWindow(4, (0, 8, 16), seq_len=32),
    ),
    "prefix_lm": Pattern(lambda n, b: PrefixLM(n // 2, seq_len=n), PrefixLM(16, seq_len=32)),
    "multi_document_bidirectional": Pattern(
        lambda n, b: _documents(Full(seq_len=n)), _documents(Full(seq_len=32))
    ),
    "multi_document_causal": Pattern(
        lambda n, b: _documents(Causal(seq_len=n)), _documents(Causal(seq_len=32))
    ),
    "multi_document_prefix_lm": Pattern(
        lambda n, b: _documents(PrefixLM(n // 16, seq_len=n)),
        _documents(PrefixLM(2, seq_len=32)),
    ),
    "standalone_self_attention": Pattern(lambda n, b: _image(n, 8), _image(64, 2)),
    "causal_padding": Pattern(_padded_end, _padded_end(32, 1)),
}
