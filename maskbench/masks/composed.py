"""The masks that take another mask: packed documents and padding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from maskbench.masks.base import Device, Mask, TokenRange, require, to_device_async
from maskbench.masks.plain import Causal, Full


@dataclass(frozen=True)
class Documents(Mask):
    """Packed documents; `inner`, applied to places within a document, says what attends there.

    `inner` has the seq_len of the whole and must be a mask with `span`.
    """

    lengths: tuple[int, ...]
    inner: Mask
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self):
        lengths, total = tuple(self.lengths), self.inner.seq_len
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "seq_len", total)
        whole = all(isinstance(n, int) and n >= 1 for n in lengths)
        require(whole, f"lengths are {lengths}, each must be a whole number, 1 or more")
        require(sum(lengths) == total, f"lengths add up to {sum(lengths)}, not to seq_len {total}")
        has_span = self.inner.key_range(torch.zeros(1)) is not None
        require(has_span, f"inner {type(self.inner).__name__} has keys that are not one run")

    def cu_seqlens(self, q: Tensor) -> Tensor:
        """[documents + 1] where each begins and the last ends, of the kind of q and beside it."""
        return to_device_async(
            torch.tensor([0, *accumulate(self.lengths)], dtype=q.dtype), q.device
        )

    def mask_mod(self, device):
        tokens = torch.arange(self.seq_len, dtype=torch.int32, device=device)
        edges = self.cu_seqlens(tokens)
        first = edges[torch.bucketize(tokens, edges[1:], right=True)]  # of each token's document
        # On an H100 one table, looked up by query and by key, was faster than a first and a
        # last key by query (0.36 against 0.51 ms at S=4096); a single lookup is faster still.
        match self.inner:
            case Full():
                return lambda b, h, q, k: first[q] == first[k]
            case Causal():
                return lambda b, h, q, k: (q >= k) & (k >= first[q])
        inner = self.inner.mask_mod(device)

        def mod(b, h, q, k):
            start = first[k]
            return (first[q] == start) & inner(b, h, q - start, k - start)

        return mod

    def key_range(self, q):
        edges = self.cu_seqlens(q)
        document = torch.bucketize(q, edges[1:], right=True)
        first, last = edges[document], edges[document + 1] - 1
        low, high = self.inner.key_range(q - first)
        return first + low.clamp(min=0), torch.minimum(first + high, last)


class ValidRange(NamedTuple):
    """Of each batch element the first and last valid token; int32 [B], on the padding's device."""

    first: Tensor
    last: Tensor
    is_contiguous: bool  # whether all tokens between them are valid, in every element
    starts_at_zero: bool  # whether the first token is valid, in every element


@dataclass(frozen=True, eq=False)
class Padded(Mask):
    """What `inner` allows, of tokens that are no padding.

    `padding` is bool [B, S], True where a token is padding, anywhere in the sequence. It must not
    change afterwards: what was found in it is kept.
    """

    inner: Mask
    padding: Tensor
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "seq_len", self.inner.seq_len)
        kind, shape = self.padding.dtype, tuple(self.padding.shape)
        require(kind == torch.bool, f"padding is {kind}, must be torch.bool")
        fits = len(shape) == 2 and shape[0] >= 1 and shape[1] == self.seq_len
        require(fits, f"padding is {list(shape)}, must be [batch, {self.seq_len}]")
        require(self.inner.batch is None, "inner is padded: join the two paddings instead")

    def __eq__(self, other):
        same = isinstance(other, Padded) and self.inner == other.inner
        return same and torch.equal(self.padding.cpu(), other.padding.cpu())

    def __hash__(self):
        return hash((self.inner, self.padding.shape, self.padding.cpu().numpy().tobytes()))

    @property
    def batch(self):
        return self.padding.shape[0]

    def fully_masked_rows(self, device):
        return self.padding.to(device)[:, None, :, None]

    @cached_property
    def valid_range(self) -> ValidRange:
        """Where the valid tokens are, found where the padding is and kept."""
        valid = ~self.padding
        at = torch.arange(self.seq_len, dtype=torch.int32, device=valid.device)
        first = torch.where(valid, at, self.seq_len).amin(1)
        last = torch.where(valid, at, -1).amax(1)
        runs = valid.sum(1) == (last - first + 1).clamp(min=0)
        return ValidRange(first, last, *torch.stack([runs.all(), (first == 0).all()]).tolist())

    def valid_bounds(self, device: Device) -> TokenRange:
        """int32 [B] first and last valid token of each element, on `device`."""
        return to_device_async(self.valid_range.first, device), to_device_async(
            self.valid_range.last, device
        )

    def mask_mod(self, device):
        inner = self.inner.mask_mod(device)
        if not self.valid_range.is_contiguous:
            # int32, as a bool table was measured to be slow
            valid = (~self.padding).to(device, torch.int32)
            return lambda b, h, q, k: inner(b, h, q, k) & ((valid[b, q] & valid[b, k]) != 0)
        first, last = self.valid_bounds(device)
        if self.valid_range.starts_at_zero and isinstance(self.inner, Causal):
            return lambda b, h, q, k: (q >= k) & (q <= last[b])
        return lambda b, h, q, k: (
            inner(b, h, q, k)
            & ((q >= first[b]) & (q <= last[b]) & (k >= first[b]) & (k <= last[b]))
        )

    def any_all_attend(self, q, k):
        """Exact where each element's valid tokens are one run; else `some` may say too much."""
        trim = self._clip_contiguous if self.valid_range.is_contiguous else self._trim_to_valid
        (q_hull, q_every), (k_hull, k_every) = trim(q, k)
        exists = (q_hull[0] <= q_hull[1]) & (k_hull[0] <= k_hull[1])
        # an empty span is looked up nowhere out of range; `exists` drops it
        hulls = [tuple(t.clamp(0, self.seq_len - 1) for t in hull) for hull in (q_hull, k_hull)]
        every = self.inner.any_all_attend(q, k)[1] & q_every & k_every
        return self.inner.any_all_attend(*hulls)[0] & exists, every

    def _clip_contiguous(self, *spans: TokenRange) -> list[tuple[TokenRange, Tensor]]:
        """Of each span its valid part, and whether that is all of it; by each element's ends."""
        first, last = (end[:, None, None, None] for end in self.valid_bounds(spans[0][0].device))
        hulls = [(torch.maximum(low, first), torch.minimum(high, last)) for low, high in spans]
        return [
            (hull, (hull[0] == low) & (hull[1] == high))
            for hull, (low, high) in zip(hulls, spans, strict=True)
        ]

    def _trim_to_valid(self, *spans: TokenRange) -> list[tuple[TokenRange, Tensor]]:
        """The same of padding anywhere, from the first valid token to the last: of all tokens."""
        padding = self.padding.to(spans[0][0].device)
        at = torch.arange(self.seq_len, device=padding.device)
        b = torch.arange(self.batch, device=padding.device)[:, None, None, None]
        before = torch.nn.functional.pad(padding.cumsum(1), (1, 0))  # padding before each
        following = torch.where(padding, self.seq_len, at).flip(1).cummin(1).values.flip(1)
        preceding = torch.where(padding, -1, at).cummax(1).values
        return [
            ((following[b, low], preceding[b, high]), before[b, high + 1] == before[b, low])
            for low, high in spans
        ]

    def partial_and_full_blocks(self, device, size):
        partial, full = super().partial_and_full_blocks(device, size)
        if self.valid_range.is_contiguous:
            return partial, full
        partial, mod = partial.clone(), self.mask_mod(device)
        offsets = [torch.arange(s, device=device) for s in size]
        for b, h, i, j in (part.T[..., None, None] for part in partial.nonzero().split(1024)):
            q, k = i * size[0] + offsets[0][:, None], j * size[1] + offsets[1]
            inside = (q < self.seq_len) & (k < self.seq_len)
            seen = mod(b, h, q.clamp(max=self.seq_len - 1), k.clamp(max=self.seq_len - 1))
            partial[b, h, i, j] = (seen & inside).any(-1, keepdim=True).any(-2, keepdim=True)
        return partial, full

    def area(self, batch=None):
        batch = self.batch if batch is None else batch
        require(batch == self.batch, f"batch is {batch}, the padding is for {self.batch}")
        span = self.inner.key_range(torch.arange(self.seq_len))
        if span is None:
            step = max(1, 2**22 // (self.seq_len * batch))
            starts = range(0, self.seq_len, step)
            return sum(int(self.rows(a, min(a + step, self.seq_len), "cpu").sum()) for a in starts)
        valid = ~self.padding.cpu()
        before = torch.nn.functional.pad(valid.cumsum(1), (1, 0))  # valid tokens before each
        first, last = span[0].clamp(min=0), span[1].clamp(max=self.seq_len - 1)
        return int(((before[:, last + 1] - before[:, first]) * valid).sum())
