"""A tree of token spans, in which each token sees its ancestors: `PrefixTree`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.tuples import whole_numbers


@dataclass(frozen=True)
class PrefixTree(Mask):
    """Query q sees key k when k is q or an ancestor of q in a tree of spans.

    A span is a run of tokens that continues its parent. Spans are in depth-first order, so k is q
    or an ancestor of q if k <= q < end[k], where end[k] is the token after the subtree of k's span.
    `seq_len` is the number of tokens of all spans. Tree attention: SpecInfer,
    https://arxiv.org/abs/2305.09781.

    Raises ValueError if the spans are not in depth-first order.

    Parameters
    ----------
    parents
        The parent of each span, as an index of `lengths`; -1 for a root.
    lengths
        Tokens of each span, in depth-first order.
    """

    parents: tuple[int, ...]
    lengths: tuple[int, ...]
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parents = whole_numbers("parents", self.parents, -1)
        lengths = whole_numbers("lengths", self.lengths, 1)
        if not lengths or len(parents) != len(lengths):
            raise ValueError(
                f"there are {len(parents)} parents and {len(lengths)} lengths of spans"
            )
        path: list[int] = []  # the span before, and its ancestors
        for span, parent in enumerate(parents):
            while path and path[-1] != parent:
                path.pop()
            if parent >= 0 and not path:
                raise ValueError(
                    f"the parent of span {span} is {parent}, must be -1, the span before it, or an "
                    "ancestor of that span: spans are in depth-first order"
                )
            path.append(span)
        object.__setattr__(self, "parents", parents)
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "seq_len", sum(lengths))

    def starts(self) -> list[int]:
        """Return the first token of each span."""
        return [0, *accumulate(self.lengths[:-1])]

    def subtree_ends(self) -> list[int]:
        """Return the token after the subtree of each span."""
        ends = list(accumulate(self.lengths))
        for span in reversed(range(len(ends))):
            if (parent := self.parents[span]) >= 0:
                ends[parent] = max(ends[parent], ends[span])
        return ends

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        ends = torch.tensor(self.subtree_ends(), dtype=torch.int32)
        end = to_device_async(ends.repeat_interleave(torch.tensor(self.lengths)), device)
        return lambda b, h, q, k: (k <= q) & (q < end[k])

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        device = k[0].device
        ends, starts = self.subtree_ends(), torch.tensor(self.starts(), dtype=k[0].dtype)
        starts = to_device_async(starts, device)
        first, last = (torch.bucketize(token, starts, right=True) - 1 for token in k)
        share_a_token = (q[0] <= k[1]) & (k[0] <= q[1])
        any_attend = (k[1] < q[0]) & (_maximum_of_ranges(ends, first, last) > q[0])
        # All keys are ancestors of a query if each of their spans is the parent of the next one.
        chains = to_device_async(torch.tensor(self._chain_starts()), device)
        end_of_last = to_device_async(torch.tensor(ends), device)[last]
        all_attend = (k[1] <= q[0]) & (chains[last] <= first) & (q[1] < end_of_last)
        return any_attend | share_a_token, all_attend

    def _chain_starts(self) -> list[int]:
        """The first span of the longest run, up to each span, of parents of the next span."""
        chains: list[int] = []
        for span, parent in enumerate(self.parents):
            chains.append(chains[parent] if parent >= 0 and parent == span - 1 else span)
        return chains

    def area(self, batch: int = 1) -> int:
        spans = zip(self.starts(), self.lengths, self.subtree_ends(), strict=True)
        # the queries end - start of the first key of a span, one less for the second, and so on
        return batch * sum(n * (end - start) - n * (n - 1) // 2 for start, n, end in spans)


def _maximum_of_ranges(values: list[int], first: Tensor, last: Tensor) -> Tensor:
    """Return the maximum of values[first] to values[last], of many ranges at once.

    Each range is covered by two ranges of 2**level values, whose maxima are in a table.
    https://en.wikipedia.org/wiki/Range_minimum_query
    """
    level_maxima, width = [torch.tensor(values)], 1
    while 2 * width <= len(values):
        before = level_maxima[-1]
        # the last `width` entries would reach beyond the values, and are not read
        level_maxima.append(torch.maximum(before, before.roll(-width)))
        width *= 2
    table = to_device_async(torch.stack(level_maxima), first.device)
    widths = to_device_async(2 ** torch.arange(len(level_maxima)), first.device)
    level = torch.bucketize(last - first + 1, widths, right=True) - 1
    return torch.maximum(table[level, first], table[level, last + 1 - widths[level]])
