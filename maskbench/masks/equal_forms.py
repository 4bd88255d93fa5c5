"""Masks that are equal to a simpler mask, which more libraries have a form for."""

from __future__ import annotations

from maskbench.masks.base import Mask
from maskbench.masks.blockwise import BlockCausal
from maskbench.masks.composed import LastQueries, Padded
from maskbench.masks.documents import Documents
from maskbench.masks.language import ImageInCausal, SharedPrefix, SinkSlidingWindow
from maskbench.masks.plain import (
    Causal,
    DilatedSlidingWindow,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    PrefixLM,
    SlidingWindow,
)
from maskbench.masks.tree import PrefixTree


def sees_all_keys(mask: Mask) -> bool:
    """Whether the mask is Full, or the last queries of Full."""
    return isinstance(mask.inner if isinstance(mask, LastQueries) else mask, Full)


def simplify(mask: Mask) -> Mask:
    """Return an equal mask of a simpler class if one is known, else the mask itself.

    The two masks allow the same pairs, for the same queries and keys.
    """
    match mask:
        case LastQueries(inner):
            return _simplify_last_queries(simplify(inner), mask.q_len)
        case Documents(lengths, inner):
            inner = _simplify_plain(inner, max(map(max, mask.elements)))
            is_one = mask.elements == ((mask.seq_len,),)
            return inner if is_one else Documents(lengths, inner)
        case Padded(inner, padding):
            inner = simplify(inner)
            return Padded(inner, padding) if bool(padding.any()) else inner
    return _simplify_plain(mask, mask.seq_len)


def _simplify_plain(mask: Mask, extent: int) -> Mask:
    """`simplify` for positions from 0 to `extent` - 1, which may be fewer than the mask has."""
    n, last = mask.seq_len, extent - 1
    match mask:
        case PrefixLM(prefix):
            if prefix >= extent:
                return Full(seq_len=n)
            if prefix <= 1:
                return Causal(seq_len=n)
        case SlidingWindow(left, right):
            if left >= last and right >= last:
                return Full(seq_len=n)
            if left >= last and right == 0:
                return Causal(seq_len=n)
        case DilatedSlidingWindow(window, dilation):
            if dilation == 1:
                return _simplify_plain(SlidingWindow(window, window, seq_len=n), extent)
            if window < dilation:
                return SlidingWindow(0, 0, seq_len=n)
        case GlobalLocalSlidingWindow(window, tokens):
            if window >= last or len(tokens) == n:
                return Full(seq_len=n)
            if not tokens:
                return SlidingWindow(window, window, seq_len=n)
        case LocalAttention2D(width, radius) if width in (1, n):  # one column, or one row
            return _simplify_plain(SlidingWindow(radius, radius, seq_len=n), extent)
        case _ if extent == n:
            return _simplify_composed(mask)
    return mask


def _simplify_composed(mask: Mask) -> Mask:
    """`simplify` for masks of spans and blocks."""
    n = mask.seq_len
    causal = Causal(seq_len=n)
    match mask:
        case BlockCausal(block):
            return Full(seq_len=n) if block >= n else causal if block == 1 else mask
        case SinkSlidingWindow(left, sinks) if left + sinks >= n - 1:
            return causal
        case SinkSlidingWindow(left, 0):
            return SlidingWindow(left, 0, seq_len=n)
        case ImageInCausal(images):
            spans = [image for image in images if image[1] > 1]
            if not spans:
                return causal
            if len(spans) == 1 and spans[0][0] == 0:
                return simplify(PrefixLM(spans[0][1], seq_len=n))
        case SharedPrefix(prefix, responses):
            if len(responses) < 2:
                return simplify(PrefixLM(prefix, seq_len=n))
            if prefix == 0:
                return Documents(responses, causal)
        case PrefixTree(parents, lengths):
            if all(parent == span - 1 for span, parent in enumerate(parents)):
                return causal
            if max(parents) < 0:
                return Documents(lengths, causal)
    return mask


def _simplify_last_queries(inner: Mask, q_len: int) -> Mask:
    """`simplify` for the last `q_len` queries of a simple mask."""
    n = inner.seq_len
    first = n - q_len  # position of the first query
    match inner:
        case _ if first == 0:
            return inner
        case Causal() if q_len == 1:
            return LastQueries(Full(seq_len=n), q_len)
        case PrefixLM(prefix) if first >= prefix - 1:
            return _simplify_last_queries(Causal(seq_len=n), q_len)
        case BlockCausal(block) if first >= (n - 1) // block * block:
            return LastQueries(Full(seq_len=n), q_len)
        case ImageInCausal(images) if first >= max(map(sum, images)) - 1:
            return _simplify_last_queries(Causal(seq_len=n), q_len)
        case SlidingWindow(left, right) if right >= q_len - 1:
            if left >= n - 1:
                return LastQueries(Full(seq_len=n), q_len)
            if q_len == 1 and right > 0:
                return LastQueries(SlidingWindow(left, 0, seq_len=n), q_len)
    return LastQueries(inner, q_len)
