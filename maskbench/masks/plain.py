"""The masks that stand on their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from maskbench.masks.base import Mask, TokenRange, require

INT32_SENTINEL = 2**29  # further than any pixel, and in int32 as much can be added


def _pairs_within(n: int, reach: int) -> int:
    """Pairs (a, b) of n tokens with abs(a - b) <= reach."""
    m = max(0, min(reach, n - 1))
    return n + m * (2 * n - m - 1)


@dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key."""

    def mask_mod(self, device):
        return lambda b, h, q, k: k >= 0

    def key_range(self, q):
        return q * 0, q * 0 + self.seq_len - 1


@dataclass(frozen=True)
class Causal(Mask):
    """q >= k."""

    def mask_mod(self, device):
        return lambda b, h, q, k: q >= k

    def key_range(self, q):
        return q * 0, q


@dataclass(frozen=True)
class SlidingWindow(Mask):
    """-right <= q - k <= left (Longformer, https://arxiv.org/abs/2004.05150)."""

    left: int
    right: int

    def mask_mod(self, device):
        left, right = self.left, self.right
        return lambda b, h, q, k: (k >= q - left) & (k <= q + right)

    def key_range(self, q):
        return q - self.left, q + self.right


@dataclass(frozen=True)
class DilatedSlidingWindow(Mask):
    """abs(q - k) <= window and q - k a multiple of dilation (Longformer, section 3.1)."""

    window: int
    dilation: int

    def mask_mod(self, device):
        window, dilation, low_bits = self.window, self.dilation, self.dilation - 1

        def mod(b, h, q, k):
            if dilation & low_bits == 0:  # a power of two: no division
                in_step = ((q - k) & low_bits) == 0
            else:
                in_step = q % dilation == k % dilation
            return ((q - k).abs() <= window) & in_step

        return mod

    def any_all_attend(self, q, k):
        least, most = q[0] - k[1], q[1] - k[0]  # of q - k, which takes every value between
        inside = (least >= -self.window) & (most <= self.window)
        steps = torch.div(most.clamp(max=self.window), self.dilation, rounding_mode="floor")
        some = steps * self.dilation >= least.clamp(min=-self.window)
        return some, inside & some & ((least == most) | (self.dilation == 1))

    def area(self, batch=1):
        n, steps = self.seq_len, min(self.window, self.seq_len - 1) // self.dilation
        return batch * (n + 2 * steps * n - self.dilation * steps * (steps + 1))


@dataclass(frozen=True)
class GlobalLocalSlidingWindow(Mask):
    """abs(q - k) <= window, or q or k is one of `tokens` (Longformer, section 3.1)."""

    window: int
    tokens: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "tokens", tuple(sorted(set(self.tokens))))
        for t in self.tokens:
            inside = isinstance(t, int) and 0 <= t < self.seq_len
            require(inside, f"token {t} is not among the {self.seq_len} tokens")

    @property
    def global_stride(self) -> int | None:
        """What the tokens are the first multiples of, where that is a power of two."""
        step = self.tokens[1] if len(self.tokens) > 1 else 1
        evenly = self.tokens == tuple(range(0, step * len(self.tokens), step))
        return step if evenly and step & (step - 1) == 0 else None

    def mask_mod(self, device):
        window, tokens, step = self.window, self.tokens, self.global_stride

        # Comparisons, as a lookup in a bool table took 20 times longer on an H100.
        def is_global(x):
            if step:  # two operations for all of them
                return ((x & (step - 1)) == 0) & (x <= tokens[-1])
            return reduce(or_, [x == t for t in tokens])

        def mod(b, h, q, k):
            near = (q - k).abs() <= window
            return (near | is_global(q) | is_global(k)) if tokens else near

        return mod

    def any_all_attend(self, q, k):
        some = (q[0] - k[1] <= self.window) & (k[0] - q[1] <= self.window)
        for t in self.tokens:
            some = some | ((q[0] <= t) & (t <= q[1])) | ((k[0] <= t) & (t <= k[1]))
        # what is left of a span without the global tokens at its ends must be near
        (q_low, q_high), (k_low, k_high) = q, k
        for t, u in zip(self.tokens, reversed(self.tokens), strict=True):
            q_low, q_high = q_low + (q_low == t).int(), q_high - (q_high == u).int()
            k_low, k_high = k_low + (k_low == t).int(), k_high - (k_high == u).int()
        near = (q_high - k_low <= self.window) & (k_high - q_low <= self.window)
        return some, near | (q_low > q_high) | (k_low > k_high)

    def area(self, batch=1):
        n, w = self.seq_len, self.window
        seen = sum(min(n - 1, t + w) - max(0, t - w) + 1 for t in self.tokens)
        both_global = sum(abs(a - b) <= w for a in self.tokens for b in self.tokens)
        local_and_global = 2 * seen - both_global
        return batch * (
            _pairs_within(n, w) + n * n - (n - len(self.tokens)) ** 2 - local_and_global
        )


@dataclass(frozen=True)
class PrefixLM(Mask):
    """q >= k or k < prefix (T5, https://arxiv.org/abs/1910.10683, figure 4)."""

    prefix: int

    def mask_mod(self, device):
        prefix = self.prefix
        return lambda b, h, q, k: (q >= k) | (k < prefix)

    def key_range(self, q):
        return q * 0, q.clamp(min=min(self.prefix, self.seq_len) - 1)


@dataclass(frozen=True)
class LocalAttention2D(Mask):
    """Tokens are pixels, row by row; rows and columns at most `radius` apart attend.

    Stand-Alone Self-Attention in Vision Models, https://arxiv.org/abs/1906.05909
    """

    width: int
    radius: int

    def mask_mod(self, device):
        width, radius = self.width, self.radius
        shift, low_bits = width.bit_length() - 1, width - 1

        def mod(b, h, q, k):
            if width & low_bits == 0:  # a power of two: no division
                row, column, k_row, k_column = q >> shift, q & low_bits, k >> shift, k & low_bits
            else:
                row, column, k_row, k_column = q // width, q % width, k // width, k % width
            near = (k_row >= row - radius) & (k_row <= row + radius)
            return near & (k_column >= column - radius) & (k_column <= column + radius)

        return mod

    def _rectangles(self, span: TokenRange, axes: int) -> list[Tensor]:
        """A run of pixels as three rectangles: top, bottom, left and right, each [3, ...].

        One that does not exist is inside out: none is near it, and none too far from it.
        """
        span = [t[(None,) * (axes - t.ndim)] for t in span]
        top, bottom = (torch.div(t, self.width, rounding_mode="floor") for t in span)
        left, right = (t % self.width for t in span)
        start, edge, one_row = left * 0, left * 0 + self.width - 1, top == bottom
        exists = torch.stack([top >= 0, bottom - top > 1, ~one_row])
        sides = (
            ((top, top + 1, bottom), INT32_SENTINEL),
            ((top, bottom - 1, bottom), -INT32_SENTINEL),
            ((left, start, start), INT32_SENTINEL),
            ((torch.where(one_row, right, edge), edge, right), -INT32_SENTINEL),
        )
        return [torch.where(exists, torch.stack(side), far) for side, far in sides]

    def any_all_attend(self, q, k):
        # All pairs of rectangles at once: one by one they took the host longer than the device.
        axes, r = max(q[0].ndim, k[0].ndim), min(self.radius, self.seq_len)
        top, bottom, left, right = (t[:, None] for t in self._rectangles(q, axes))
        k_top, k_bottom, k_left, k_right = self._rectangles(k, axes)
        near = top - r <= k_bottom
        near &= k_top <= bottom + r
        near &= left - r <= k_right
        near &= k_left <= right + r
        some = near.any(0).any(0)
        close = bottom - r <= k_top
        close &= k_bottom <= top + r
        close &= right - r <= k_left
        close &= k_right <= left + r
        return some, close.all(0).all(0)

    def area(self, batch=1):
        (rows, rest), r = divmod(self.seq_len, self.width), self.radius
        across = sum(min(self.width - 1, c + r) - max(0, c - r) + 1 for c in range(rest))
        last_row = 2 * min(rows, r) * across + _pairs_within(rest, r)  # where it is not full
        return batch * (_pairs_within(rows, r) * _pairs_within(self.width, r) + last_row)
