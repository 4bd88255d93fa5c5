"""Packed documents, as training packs them: `Documents`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.parameters import to_int
from maskbench.masks.plain import Causal, Full

Lengths = tuple[int, ...]


@dataclass(frozen=True)
class Documents(Mask):
    """Packed documents. Tokens attend within their own document only, as `inner` says.

    Parameters
    ----------
    lengths
        Tokens of each document, in order; or one such tuple for each batch element. Each adds up
        to the `seq_len` of `inner`. Tuples that are all equal are stored as one.
    inner
        The mask within a document. It is applied to positions relative to the document's first
        token. It must not differ by batch element. Blocks are found fast if it has a `key_range`.
    """

    lengths: Lengths | tuple[Lengths, ...]
    inner: Mask
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.inner.batch is not None or self.inner.q_len != self.inner.seq_len:
            raise ValueError(
                f"inner is {type(self.inner).__name__}, must be the same for all batch elements "
                "and have as many queries as keys"
            )
        if not isinstance(self.lengths, Iterable):
            raise ValueError(f"lengths are {self.lengths}, must be a tuple of whole numbers")
        by_element = any(isinstance(length, tuple | list) for length in self.lengths)
        given = self.lengths if by_element else (self.lengths,)
        elements = [self._checked(lengths) for lengths in given]
        if not elements:
            raise ValueError("lengths are empty")
        lengths = elements[0] if len(set(elements)) == 1 else tuple(elements)
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "seq_len", self.inner.seq_len)

    def _checked(self, given: object) -> Lengths:
        """The document lengths of one batch element as int. Raises ValueError."""
        lengths = []
        for length in given if isinstance(given, Iterable) else (None,):
            number = to_int(length)
            if number is None or number < 1:
                raise ValueError(f"lengths are {given}, each must be a whole number, 1 or more")
            lengths.append(number)
        total = self.inner.seq_len
        if sum(lengths) != total:
            raise ValueError(f"lengths add up to {sum(lengths)}, not to seq_len {total}")
        return tuple(lengths)

    @cached_property
    def elements(self) -> tuple[Lengths, ...]:
        """The document lengths of each batch element, or of all if they do not differ."""
        first = self.lengths[0]
        return self.lengths if isinstance(first, tuple) else (self.lengths,)  # type: ignore[return-value]  # a union of tuples, told apart by its first item

    @property
    def batch(self) -> int | None:
        return len(self.elements) if len(self.elements) > 1 else None

    @property
    def heads(self) -> int | None:
        return self.inner.heads

    @property
    def evaluation_device(self) -> DeviceLike:
        return self.inner.evaluation_device

    @property
    def knows_blocks(self) -> bool:
        return self.inner.key_range(torch.zeros(1, dtype=torch.int32)) is not None

    @property
    def attends_to_itself(self) -> bool:
        return self.inner.attends_to_itself

    def packed_lengths(self, batch: int) -> Lengths:
        """Return the lengths of the documents of all batch elements, one element after another."""
        self._require_batch(batch)
        return sum(self.elements, ()) * (batch // len(self.elements))

    def cu_seqlens(self, dtype: torch.dtype, device: DeviceLike) -> Tensor:
        """Return [documents + 1]: the first token of each document, and the number of tokens.

        The documents are those of all elements, one after another, in `packed_lengths`' order.
        """
        lengths = sum(self.elements, ())
        return to_device_async(torch.tensor([0, *accumulate(lengths)], dtype=dtype), device)

    def _document_starts(self, device: DeviceLike) -> Tensor:
        """int32 [1 or B, S]: the first token of the document of each token."""
        count = len(self.elements)
        tokens = torch.arange(count * self.seq_len, dtype=torch.int32, device=device)
        starts = self.cu_seqlens(tokens.dtype, device)
        first = starts[torch.bucketize(tokens, starts[1:], right=True)]
        return first.view(count, -1) - tokens.view(count, -1)[:, :1]

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        first = self._document_starts(device)
        if self.batch is not None:
            return self._mask_mod_by_element(first, device)
        first = first[0]
        # One table that is indexed by query and by key was faster on an H100 than two tables, of
        # first and last keys, that are indexed by query (0.36 against 0.51 ms at S=4096). A
        # single lookup is faster still.
        match self.inner:
            case Full():
                return lambda b, h, q, k: first[q] == first[k]
            case Causal():
                return lambda b, h, q, k: (q >= k) & (k >= first[q])
        inner = self.inner.mask_mod(device)

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            start = first[k]
            return (first[q] == start) & inner(b, h, q - start, k - start)

        return mod

    def _mask_mod_by_element(self, first: Tensor, device: DeviceLike) -> MaskMod:
        match self.inner:
            case Full():
                return lambda b, h, q, k: first[b, q] == first[b, k]
            case Causal():
                return lambda b, h, q, k: (q >= k) & (k >= first[b, q])
        inner = self.inner.mask_mod(device)

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            start = first[b, k]
            return (first[b, q] == start) & inner(b, h, q - start, k - start)

        return mod

    def key_range(self, q: Tensor) -> TokenRange | None:
        if self.batch is not None or not self.knows_blocks:
            return None
        return self._element_key_range(q)

    def _element_key_range(self, q: Tensor) -> TokenRange:
        starts = self.cu_seqlens(q.dtype, q.device)
        document = torch.bucketize(q, starts[1:], right=True)
        first, last = starts[document], starts[document + 1] - 1
        inner_first, inner_last = self.inner._require_key_range(q - first)
        return first + inner_first.clamp(min=0), torch.minimum(first + inner_last, last)

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        if self.batch is None:
            return super().any_all_attend(q, k)
        found = [Documents(lengths, self.inner).any_all_attend(q, k) for lengths in self.elements]
        any_attend, all_attend = (torch.stack(part)[:, None] for part in zip(*found, strict=True))
        return any_attend, all_attend

    def area(self, batch: int = 1) -> int:
        if self.batch is None or not self.knows_blocks:
            return super().area(batch)
        self._require_batch(batch)
        return sum(Documents(lengths, self.inner).area() for lengths in self.elements)
