"""Neighborhood attention over the pixels of images and videos: `Neighborhood`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from math import prod
from operator import and_
from typing import NamedTuple

import torch
from torch import Tensor

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.tuples import whole_numbers


class Box(NamedTuple):
    """The pixels with first[d] <= x[d] <= last[d] on each axis d, if it `exists`."""

    exists: Tensor
    first: list[Tensor]
    last: list[Tensor]


@dataclass(frozen=True)
class Neighborhood(Mask):
    """Each pixel sees the pixels around it; at a border, its window is shifted inward.

    On each axis d, with a size of n and a radius of r, abs(k_d - clamp(q_d, r, n - 1 - r)) <= r. So
    every pixel sees the same number of pixels. Tokens are the pixels in row-major order, and
    `seq_len` is their number.
    Neighborhood Attention Transformer, https://arxiv.org/abs/2204.07143; NATTEN,
    https://github.com/SHI-Labs/NATTEN.

    Parameters
    ----------
    shape
        Pixels on each axis: (height, width), (frames, height, width), or any number of axes.
    radius
        The radius of the window on each axis: the window has 2 * radius + 1 pixels.
    """

    shape: tuple[int, ...]
    radius: tuple[int, ...]
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = whole_numbers("shape", self.shape, 1)
        radius = whole_numbers("radius", self.radius, 0)
        if not shape or len(shape) != len(radius):
            raise ValueError(f"shape {shape} and radius {radius} must have the same number of axes")
        if any(2 * r + 1 > n for n, r in zip(shape, radius, strict=True)):
            raise ValueError(
                f"radius is {radius}, a window of 2 * radius + 1 must fit into the shape {shape}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "seq_len", prod(shape))

    def _coordinates(self, tokens: Tensor) -> list[Tensor]:
        """Return the position of each token on each axis."""
        coordinates = []
        for n in reversed(self.shape[1:]):
            if n & (n - 1) == 0:  # a power of two: no division
                coordinates.append(tokens & (n - 1))
                tokens = tokens >> (n.bit_length() - 1)
            else:
                coordinates.append(tokens % n)
                tokens = tokens // n
        return [tokens, *reversed(coordinates)]

    def _window_start(self, axis: int, position: Tensor) -> Tensor:
        """Return the first position that is seen from `position` on an axis."""
        n, r = self.shape[axis], self.radius[axis]
        return (position - r).clamp(0, n - 1 - 2 * r)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        # a window as wide as the image needs no comparison
        axes = [d for d, (n, r) in enumerate(self._sizes()) if 2 * r + 1 < n]
        if not axes:
            return lambda b, h, q, k: k >= 0

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            q_position, k_position, sees = self._coordinates(q), self._coordinates(k), []
            for d in axes:
                # The window without a clamp, which FlexAttention's FLASH backend cannot compile.
                (x, y), (n, r) = (q_position[d], k_position[d]), self._sizes()[d]
                sees.append((y >= x - r) | (y >= n - 1 - 2 * r))
                sees.append((y <= x + r) | (y <= 2 * r))
            return reduce(and_, sees)

        return mod

    def _sizes(self) -> list[tuple[int, int]]:
        """The size and the radius of each axis."""
        return list(zip(self.shape, self.radius, strict=True))

    @property
    def attends_to_itself(self) -> bool:
        return True

    def _split_into_boxes(self, tokens: TokenRange, ndim: int) -> list[Box]:
        """Return the boxes that make up each range of tokens, at most 2 * axes - 1.

        They are, for an image, the end of the first row, the complete rows, and the start of the
        last row. The tensors have `ndim` dimensions.
        """
        first, last = (self._coordinates(t[(None,) * (ndim - t.ndim)]) for t in tokens)
        zeros = [torch.zeros_like(position) for position in first]
        ends = [zero + n - 1 for zero, n in zip(zeros, self.shape, strict=True)]
        same = torch.ones_like(first[0], dtype=torch.bool)  # first and last on the axes before
        boxes = []
        for d in range(len(self.shape)):
            inward = 0 if d == len(self.shape) - 1 else 1  # both ends are split on the next axis
            # of the positions between first and last or, if they have parted, after first
            start = first[d] + inward
            end = torch.where(same, last[d] - inward, ends[d])
            low, high = [*first[:d], start, *zeros[d + 1 :]], [*first[:d], end, *ends[d + 1 :]]
            boxes.append(Box(start <= end, low, high))
            if d > 0:  # before last, if they have parted
                end = last[d] - inward
                low, high = [*last[:d], *zeros[d:]], [*last[:d], end, *ends[d + 1 :]]
                boxes.append(Box(~same & (end >= 0), low, high))
            same = same & (first[d] == last[d])
        return boxes

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        ndim = max(q[0].ndim, k[0].ndim)
        k_exists, k_first, k_last = _stack(self._split_into_boxes(k, ndim))
        any_attend, all_attend = [], []
        for box in self._split_into_boxes(q, ndim):
            exist = k_exists & box.exists
            any_near, all_near = exist.clone(), torch.ones_like(exist)
            for d, (low, high) in enumerate(zip(box.first, box.last, strict=True)):
                start_of_first, start_of_last = (self._window_start(d, x) for x in (low, high))
                extent = 2 * self.radius[d]
                any_near &= start_of_first <= k_last[d]
                any_near &= start_of_last + extent >= k_first[d]
                all_near &= start_of_last <= k_first[d]
                all_near &= start_of_first + extent >= k_last[d]
            any_attend.append(any_near.any(0))
            all_attend.append((all_near | ~exist).all(0))
        return torch.stack(any_attend).any(0), torch.stack(all_attend).all(0)

    def area(self, batch: int = 1) -> int:
        return batch * self.seq_len * prod(2 * r + 1 for r in self.radius)


def _stack(boxes: list[Box]) -> Box:
    """Return one box whose tensors have the boxes as their first dimension."""
    exists, first, last = zip(*boxes, strict=True)
    return Box(
        torch.stack(exists),
        [torch.stack(axis) for axis in zip(*first, strict=True)],
        [torch.stack(axis) for axis in zip(*last, strict=True)],
    )
