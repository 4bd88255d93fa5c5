"""Masks that contain another mask: padding, and the last queries of a mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.parameters import POSITIVE
from maskbench.masks.plain import Causal


class ValidRange(NamedTuple):
    """First and last valid token of each batch element: int32 [B], on the padding's device.

    An element without valid tokens has first > last.
    """

    first: Tensor
    last: Tensor
    is_contiguous: bool  # no padding between them, in any element
    starts_at_zero: bool  # token 0 is valid, in every element


@dataclass(frozen=True, eq=False)
class Padded(Mask):
    """What `inner` allows between tokens that are not padding.

    Parameters
    ----------
    inner
        A mask that is the same for all batch elements.
    padding
        bool [B, S], True for a padding token. Padding may be anywhere in the sequence. Do not
        modify the tensor afterwards: properties derived from it are cached.
    """

    inner: Mask
    padding: Tensor
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seq_len", self.inner.seq_len)
        dtype, shape = self.padding.dtype, list(self.padding.shape)
        if dtype != torch.bool:
            raise ValueError(f"padding is {dtype}, must be torch.bool")
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.seq_len:
            raise ValueError(f"padding is {shape}, must be [batch, {self.seq_len}]")
        if self.inner.batch is not None:
            raise ValueError("inner differs by batch element: combine it with & instead")
        if self.inner.q_len != self.seq_len:
            raise ValueError("inner has fewer queries than keys: take the LastQueries of this mask")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Padded):
            return False
        return self.inner == other.inner and torch.equal(self.padding.cpu(), other.padding.cpu())

    def __hash__(self) -> int:
        return hash((self.inner, self.padding.shape, self.padding.cpu().numpy().tobytes()))

    @property
    def batch(self) -> int:
        return self.padding.shape[0]

    @property
    def heads(self) -> int | None:
        return self.inner.heads

    @property
    def evaluation_device(self) -> DeviceLike:
        return self.inner.evaluation_device

    @property
    def attends_to_itself(self) -> bool:
        return False  # padding does not

    def fully_masked_rows(self, device: DeviceLike) -> Tensor | None:
        if self.inner.attends_to_itself:
            return self.padding.to(device)[:, None, :, None]
        return super().fully_masked_rows(device)

    def attended_keys(self, batch: int = 1, kv_heads: int | None = None) -> int:
        if not self.inner.attends_to_itself:
            return super().attended_keys(batch, kv_heads)
        self._require_batch(batch)
        return int((~self.padding).sum()) * ((kv_heads or self.heads or 1) if self.heads else 1)

    @property
    def knows_blocks(self) -> bool:
        return self.inner.knows_blocks

    @cached_property
    def valid_range(self) -> ValidRange:
        """The first and last valid token of each batch element. Computed once."""
        valid = ~self.padding
        tokens = torch.arange(self.seq_len, dtype=torch.int32, device=valid.device)
        first = torch.where(valid, tokens, self.seq_len).amin(1)
        last = torch.where(valid, tokens, -1).amax(1)
        contiguous = valid.sum(1) == (last - first + 1).clamp(min=0)
        flags = torch.stack([contiguous.all(), (first == 0).all()])
        return ValidRange(first, last, *flags.tolist())  # one transfer to the host for both flags

    def valid_bounds(self, device: DeviceLike) -> TokenRange:
        """Return the first and last valid token of each batch element: int32 [B] on `device`."""
        first, last = self.valid_range[:2]
        return to_device_async(first, device), to_device_async(last, device)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        inner = self.inner.mask_mod(device)
        if not self.valid_range.is_contiguous:
            valid = (~self.padding).to(device, torch.int32)  # a bool table was measured to be slow
            return lambda b, h, q, k: inner(b, h, q, k) & ((valid[b, q] & valid[b, k]) != 0)
        first, last = self.valid_bounds(device)
        if self.valid_range.starts_at_zero and isinstance(self.inner, Causal):
            return lambda b, h, q, k: (q >= k) & (q <= last[b])
        return lambda b, h, q, k: (
            inner(b, h, q, k)
            & ((q >= first[b]) & (q <= last[b]) & (k >= first[b]) & (k <= last[b]))
        )

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        """Return whether any pair of a query range and a key range attends, and whether all do.

        `any` is exact if the valid tokens of every batch element are contiguous. Otherwise it may
        be True for ranges in which no pair attends. `all` is always exact.
        """
        clip = self._clip_contiguous if self.valid_range.is_contiguous else self._clip_scattered
        (q_clipped, q_all_valid), (k_clipped, k_all_valid) = clip(q, k)
        non_empty = (q_clipped[0] <= q_clipped[1]) & (k_clipped[0] <= k_clipped[1])
        # Clamped, so that an empty range has valid indices; `non_empty` excludes it.
        any_attend, _ = self.inner.any_all_attend(self._clamp(q_clipped), self._clamp(k_clipped))
        _, all_attend = self.inner.any_all_attend(q, k)
        return any_attend & non_empty, all_attend & q_all_valid & k_all_valid

    def _clamp(self, tokens: TokenRange) -> TokenRange:
        return tokens[0].clamp(0, self.seq_len - 1), tokens[1].clamp(0, self.seq_len - 1)

    def _clip_contiguous(self, *ranges: TokenRange) -> list[tuple[TokenRange, Tensor]]:
        """Return the valid part of each range, and whether all of the range is valid.

        The valid tokens of each batch element must be contiguous. Results are [B, 1, ...].
        """
        first, last = (t[:, None, None, None] for t in self.valid_bounds(ranges[0][0].device))
        results = []
        for start, end in ranges:
            clipped = torch.maximum(start, first), torch.minimum(end, last)
            results.append((clipped, (clipped[0] == start) & (clipped[1] == end)))
        return results

    def _clip_scattered(self, *ranges: TokenRange) -> list[tuple[TokenRange, Tensor]]:
        """Return each range clipped to its first and last valid token, and whether all are valid.

        There may be padding between the two. Results are [B, 1, ...].
        """
        padding = self.padding.to(ranges[0][0].device)
        index = torch.arange(self.seq_len, device=padding.device)
        b = torch.arange(self.batch, device=padding.device)[:, None, None, None]
        padding_before = pad(padding.cumsum(1), (1, 0))
        next_valid = torch.where(padding, self.seq_len, index).flip(1).cummin(1).values.flip(1)
        previous_valid = torch.where(padding, -1, index).cummax(1).values
        return [
            (
                (next_valid[b, start], previous_valid[b, end]),
                padding_before[b, end + 1] == padding_before[b, start],
            )
            for start, end in ranges
        ]

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        partial, full = super().partial_and_full_blocks(device, size)
        if self.knows_blocks and not self.valid_range.is_contiguous:
            partial = self._drop_empty_blocks(partial, size)
        return partial, full

    def _drop_empty_blocks(self, partial: Tensor, size: tuple[int, int]) -> Tensor:
        """Evaluate every pair of the partial blocks, and drop the blocks where none attends."""
        partial, mod = partial.clone(), self.mask_mod(partial.device)
        q_offset = torch.arange(size[0], device=partial.device)[:, None]
        k_offset = torch.arange(size[1], device=partial.device)
        last = self.seq_len - 1
        for blocks in torch.split(partial.nonzero(), 1024):
            b, h, row, column = blocks.T[..., None, None]
            q, k = row * size[0] + q_offset, column * size[1] + k_offset
            attends = mod(b, h, q.clamp(max=last), k.clamp(max=last)) & (q <= last) & (k <= last)
            partial[b, h, row, column] = attends.any(-1, keepdim=True).any(-2, keepdim=True)
        return partial

    def area(self, batch: int | None = None) -> int:
        """Return the exact number of attended (query, key) pairs of one head over the batch.

        Raises
        ------
        ValueError
            If `batch` is given and is not the batch size of the padding.
        """
        if batch not in (None, self.batch):
            raise ValueError(f"batch is {batch}, the padding is for {self.batch}")
        key_range = self.inner.key_range(torch.arange(self.seq_len))
        if key_range is None:
            return super().area(self.batch)
        valid = ~self.padding.cpu()
        valid_before = pad(valid.cumsum(1), (1, 0))
        first, last = self._clamp(key_range)
        return int(((valid_before[:, last + 1] - valid_before[:, first]) * valid).sum())


@dataclass(frozen=True)
class LastQueries(Mask):
    """The last queries of `inner`, over all its keys: decode and chunked prefill.

    Query i is query S - `queries` + i of `inner`: both end at the same token, so that one new
    token with a causal mask sees every key.

    Parameters
    ----------
    inner
        A mask with as many queries as keys.
    queries
        The number of queries, `q_len`: 1 to S.
    """

    inner: Mask
    queries: int = field(metadata=POSITIVE)
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seq_len", self.inner.seq_len)
        super().__post_init__()
        if self.inner.q_len != self.seq_len:
            raise ValueError("inner has fewer queries than keys already")
        if self.queries > self.seq_len:
            raise ValueError(f"queries is {self.queries}, must be at most seq_len {self.seq_len}")

    @property
    def q_len(self) -> int:
        return self.queries

    @property
    def offset(self) -> int:
        """The position of the first query."""
        return self.seq_len - self.queries

    @property
    def batch(self) -> int | None:
        return self.inner.batch

    @property
    def heads(self) -> int | None:
        return self.inner.heads

    @property
    def evaluation_device(self) -> DeviceLike:
        return self.inner.evaluation_device

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        inner, offset = self.inner.mask_mod(device), self.offset
        return lambda b, h, q, k: inner(b, h, q + offset, k)

    def fully_masked_rows(self, device: DeviceLike) -> Tensor | None:
        rows = self.inner.fully_masked_rows(device)
        return None if rows is None else rows[:, :, self.offset :]

    def area(self, batch: int = 1) -> int:
        found = self.inner.key_range(torch.arange(self.offset, self.seq_len))
        if found is None:
            return super().area(batch)
        first, last = found
        return batch * int((last.clamp(max=self.seq_len - 1) - first.clamp(min=0) + 1).sum())
