"""Masks that do not contain another mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.parameters import DISTANCE, EXTENT
from maskbench.masks.tuples import whole_numbers

MAX_COMPARISONS = 4  # scattered tokens; for more, a table is looked up
INT32_SENTINEL = 2**29  # beyond any pixel; adding a radius to it does not overflow int32


def _count_pairs_within(n: int, distance: int) -> int:
    """Return the number of pairs (a, b) of n tokens with abs(a - b) <= distance."""
    d = max(0, min(distance, n - 1))
    return n + d * (2 * n - d - 1)


@dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key."""

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        return lambda b, h, q, k: k >= 0

    def key_range(self, q: Tensor) -> TokenRange:
        return q * 0, q * 0 + self.seq_len - 1


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and the keys before it: q >= k."""

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        return lambda b, h, q, k: q >= k

    def key_range(self, q: Tensor) -> TokenRange:
        return q * 0, q


@dataclass(frozen=True)
class SlidingWindow(Mask):
    """-right <= q - k <= left, both bounds inclusive.

    Longformer, https://arxiv.org/abs/2004.05150, section 3.1.
    """

    left: int = field(metadata=DISTANCE)
    right: int = field(metadata=DISTANCE)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        left, right = self.left, self.right
        return lambda b, h, q, k: (k >= q - left) & (k <= q + right)

    def key_range(self, q: Tensor) -> TokenRange:
        return q - self.left, q + self.right


@dataclass(frozen=True)
class DilatedSlidingWindow(Mask):
    """abs(q - k) <= window, and q - k is a multiple of dilation.

    Longformer, https://arxiv.org/abs/2004.05150, section 3.1.

    `mask_mod` compares q - k twice. FlexAttention's cycles with two other ways to write it were, on
    an H100 with torch 2.11 at S = 4096: with abs(q - k), 2 % fewer forward and 6 % more backward;
    with k >= q - window and k <= q + window, 7 % fewer forward and 22 % more backward. Triton 3.8
    also compiles abs to more instructions than earlier versions do.
    """

    window: int = field(metadata=DISTANCE)
    dilation: int = field(metadata=EXTENT)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        window, dilation, low_bits = self.window, self.dilation, self.dilation - 1

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if dilation & low_bits == 0:  # a power of two: no division
                in_step = ((q - k) & low_bits) == 0
            else:
                in_step = q % dilation == k % dilation
            return (q - k <= window) & (q - k >= -window) & in_step

        return mod

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        # q - k takes every value from `minimum` to `maximum`
        minimum, maximum = q[0] - k[1], q[1] - k[0]
        all_near = (minimum >= -self.window) & (maximum <= self.window)
        # the greatest multiple of the dilation in the window decides whether there is one
        steps = torch.div(maximum.clamp(max=self.window), self.dilation, rounding_mode="floor")
        any_attend = steps * self.dilation >= minimum.clamp(min=-self.window)
        all_in_step = (minimum == maximum) | (self.dilation == 1)
        return any_attend, any_attend & all_near & all_in_step

    def area(self, batch: int = 1) -> int:
        n, steps = self.seq_len, min(self.window, self.seq_len - 1) // self.dilation
        return batch * (n + 2 * steps * n - self.dilation * steps * (steps + 1))


@dataclass(frozen=True)
class GlobalLocalSlidingWindow(Mask):
    """abs(q - k) <= window, or q or k is one of the global `tokens`.

    Longformer, https://arxiv.org/abs/2004.05150, section 3.1. `tokens` is stored sorted and
    without duplicates. `mask_mod` compares q - k twice, as that of `DilatedSlidingWindow` does: abs
    took 4 % more cycles forward and 1 % fewer backward.
    """

    window: int = field(metadata=DISTANCE)
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        tokens = sorted(set(whole_numbers("tokens", self.tokens, 0)))
        if tokens and tokens[-1] >= self.seq_len:
            raise ValueError(f"token {tokens[-1]} is not among the {self.seq_len} tokens")
        object.__setattr__(self, "tokens", tuple(tokens))

    @property
    def global_stride(self) -> int | None:
        """The power of two whose first multiples, from 0, are the global tokens; else None."""
        stride = self.tokens[1] if len(self.tokens) > 1 else 1
        is_strided = self.tokens == tuple(range(0, stride * len(self.tokens), stride))
        return stride if is_strided and stride & (stride - 1) == 0 else None

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        window, tokens, stride = self.window, self.tokens, self.global_stride

        # Comparisons are the fastest, but each is compiled: 300 took over a minute. A lookup in a
        # bool table took 20 times longer than one in a table of integers, on an H100.
        if not stride and len(tokens) > MAX_COMPARISONS:
            table = torch.zeros(self.seq_len, dtype=torch.int32)
            table[list(tokens)] = 1
            table = to_device_async(table, device)

        def is_global(x: Tensor) -> Tensor:
            if stride:  # two operations, whatever the number of tokens
                return ((x & (stride - 1)) == 0) & (x <= tokens[-1])
            if len(tokens) > MAX_COMPARISONS:
                return table[x] != 0
            return reduce(or_, [x == t for t in tokens])

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            near = (q - k <= window) & (q - k >= -window)
            return (near | is_global(q) | is_global(k)) if tokens else near

        return mod

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        any_attend = (q[0] - k[1] <= self.window) & (k[0] - q[1] <= self.window)
        for t in self.tokens:
            any_attend |= ((q[0] <= t) & (t <= q[1])) | ((k[0] <= t) & (t <= k[1]))
        # All pairs attend if all are near after the global tokens at both ends are removed.
        (q_first, q_last), (k_first, k_last) = q, k
        for low, high in zip(self.tokens, reversed(self.tokens), strict=True):
            q_first, q_last = q_first + (q_first == low).int(), q_last - (q_last == high).int()
            k_first, k_last = k_first + (k_first == low).int(), k_last - (k_last == high).int()
        all_near = (q_last - k_first <= self.window) & (k_last - q_first <= self.window)
        return any_attend, all_near | (q_first > q_last) | (k_first > k_last)

    def area(self, batch: int = 1) -> int:
        n, w = self.seq_len, self.window
        local = _count_pairs_within(n, w)
        either_global = n * n - (n - len(self.tokens)) ** 2
        near_tokens = sum(min(n - 1, t + w) - max(0, t - w) + 1 for t in self.tokens)
        both_global_and_local = sum(abs(a - b) <= w for a in self.tokens for b in self.tokens)
        global_and_local = 2 * near_tokens - both_global_and_local
        return batch * (local + either_global - global_and_local)


@dataclass(frozen=True)
class PrefixLM(Mask):
    """Causal, and every query sees the prefix: q >= k or k < prefix.

    T5, https://arxiv.org/abs/1910.10683, figure 4.
    """

    prefix: int = field(metadata=DISTANCE)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        prefix = self.prefix
        return lambda b, h, q, k: (q >= k) | (k < prefix)

    def key_range(self, q: Tensor) -> TokenRange:
        return q * 0, q.clamp(min=min(self.prefix, self.seq_len) - 1)


@dataclass(frozen=True)
class LocalAttention2D(Mask):
    """Tokens are pixels in row-major order; rows and columns are each at most `radius` apart.

    Stand-Alone Self-Attention in Vision Models, https://arxiv.org/abs/1906.05909. `width` is the
    number of pixels in a row. The last row may be incomplete.
    """

    width: int = field(metadata=EXTENT)
    radius: int = field(metadata=DISTANCE)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        width, radius = self.width, self.radius
        shift, low_bits = width.bit_length() - 1, width - 1

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if width & low_bits == 0:  # a power of two: no division
                row, column, k_row, k_column = q >> shift, q & low_bits, k >> shift, k & low_bits
            else:
                row, column, k_row, k_column = q // width, q % width, k // width, k % width
            near = (k_row >= row - radius) & (k_row <= row + radius)
            return near & (k_column >= column - radius) & (k_column <= column + radius)

        return mod

    def _split_into_rectangles(self, tokens: TokenRange, ndim: int) -> list[Tensor]:
        """Return the top, bottom, left and right of three rectangles that make up each range.

        They are the range's first row, its complete rows and its last row. Each tensor is
        [3, ...], with `ndim` dimensions after the first. A rectangle that does not exist is
        inverted (top > bottom), so that it is near to nothing and too far from nothing.
        """
        first, last = (t[(None,) * (ndim - t.ndim)] for t in tokens)
        top, bottom = (torch.div(t, self.width, rounding_mode="floor") for t in (first, last))
        left, right = first % self.width, last % self.width
        row_start, row_end = torch.zeros_like(left), torch.full_like(left, self.width - 1)
        one_row = top == bottom
        exists = torch.stack([top >= 0, bottom - top > 1, ~one_row])
        sides = (
            ((top, top + 1, bottom), INT32_SENTINEL),
            ((top, bottom - 1, bottom), -INT32_SENTINEL),
            ((left, row_start, row_start), INT32_SENTINEL),
            ((torch.where(one_row, right, row_end), row_end, right), -INT32_SENTINEL),
        )
        return [torch.where(exists, torch.stack(side), missing) for side, missing in sides]

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        # All pairs of rectangles at once: a loop over them was limited by the host.
        ndim, r = max(q[0].ndim, k[0].ndim), min(self.radius, self.seq_len)
        top, bottom, left, right = (t[:, None] for t in self._split_into_rectangles(q, ndim))
        k_top, k_bottom, k_left, k_right = self._split_into_rectangles(k, ndim)
        any_near = top - r <= k_bottom
        any_near &= k_top <= bottom + r
        any_near &= left - r <= k_right
        any_near &= k_left <= right + r
        all_near = bottom - r <= k_top
        all_near &= k_bottom <= top + r
        all_near &= right - r <= k_left
        all_near &= k_right <= left + r
        return any_near.any(0).any(0), all_near.all(0).all(0)

    def area(self, batch: int = 1) -> int:
        (full_rows, rest), r = divmod(self.seq_len, self.width), self.radius
        complete = _count_pairs_within(full_rows, r) * _count_pairs_within(self.width, r)
        columns = sum(min(self.width - 1, c + r) - max(0, c - r) + 1 for c in range(rest))
        # the incomplete last row with the rows above it, in both directions, and with itself
        last_row = 2 * min(full_rows, r) * columns + _count_pairs_within(rest, r)
        return batch * (complete + last_row)
