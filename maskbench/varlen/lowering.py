"""Masks as calls of the FlashAttention family: one call, or several that are merged.

A library provides its calls as a `FlashLibrary`. `lower` finds the calls that compute a mask
exactly, and the layout that their tensors need.
"""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from maskbench.attention import BoundAttention, Formulation, Unsupported
from maskbench.masks import (
    BlockCausal,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LastQueries,
    Mask,
    Padded,
    PrefixLM,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from maskbench.masks.equal_forms import simplify
from maskbench.varlen.layouts import (
    BSHDLayout,
    StridedLayout,
    THDLayout,
    TokenLayout,
    bind_layout,
)
from maskbench.varlen.merged_keys import causal_images, global_local, sink_window
from maskbench.varlen.merged_queries import block_queries, document_prefix, prefix_queries
from maskbench.varlen.ops import CAUSAL, FULL, FlashLibrary, Window
from maskbench.varlen.shared_prefix import prefix_first, shared_prefix

PREFIX = Formulation("prefix_two_calls", "2 calls: the prefix's queries full, the rest causal")
DOCUMENT_PREFIX = Formulation(
    "documents_prefix_two_calls", "2 packed calls: all causal, then the prefixes' queries full"
)
GLOBAL_LOCAL = Formulation(
    "global_local_merged",
    "window and far global keys merged by log-sum-exp, global queries apart",
)

SINK_WINDOW = Formulation("sink_window_merged", "window and far sinks merged by log-sum-exp")
BLOCK_QUERIES = Formulation("block_queries", "a call for each block of queries, full")
CAUSAL_IMAGES = Formulation(
    "causal_images_merged", "causal and the later keys of each image merged by log-sum-exp"
)
SHARED_PREFIX = Formulation(
    "shared_prefix_merged",
    "packed causal responses and their prefix merged by log-sum-exp, the prefix's queries apart",
)


def as_window(mask: Mask) -> Window | None:
    """The window that is the same as a mask from `simplify`; None if there is none."""
    match mask:
        case Full():
            return FULL
        case Causal():
            return CAUSAL
        case SlidingWindow(left, right):
            return left, right
    return None


def lower(library: FlashLibrary, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """Bind the mask as calls of `library`. Raises Unsupported if no exact form is known."""
    mask = simplify(mask)
    inner = mask.inner if isinstance(mask, LastQueries) else mask
    window = as_window(inner)
    if window is not None:  # aligned at the bottom right, as LastQueries are
        op = library.batched(mask.q_len, mask.seq_len, window)
        return bind_layout(op.formulation, op.attend, BSHDLayout(), q, k, v)
    batch, queries = q.shape[0], mask.q_len
    match inner:
        case DilatedSlidingWindow():
            return residue_streams(library, inner, queries, q, k, v)
        case PrefixLM(prefix):
            attend = prefix_queries(library, mask.seq_len, prefix, queries)
            return bind_layout(PREFIX, attend, BSHDLayout(), q, k, v)
        case BlockCausal():
            attend = block_queries(library, inner, queries)
            return bind_layout(BLOCK_QUERIES, attend, BSHDLayout(), q, k, v)
        case SinkSlidingWindow():
            attend = sink_window(library, inner, queries, batch, q.device)
            return bind_layout(SINK_WINDOW, attend, BSHDLayout(), q, k, v)
        case Documents(_, within) if (window := as_window(within)) is not None:
            if queries < mask.seq_len and inner.batch is None and queries <= inner.elements[0][-1]:
                return last_document(library, inner.elements[0][-1], window, q, k, v)
            op = library.packed(*document_lengths(inner, queries, batch), window)
            return bind_layout(op.formulation, op.attend, THDLayout(batch), q, k, v)
    if queries < mask.seq_len:
        name = type(inner).__name__
        raise Unsupported(f"no form of the last queries of {name} in windows and packed sequences")
    match mask:
        case Documents(_, PrefixLM(prefix)):
            attend = document_prefix(library, mask.packed_lengths(batch), prefix, q.device)
            return bind_layout(DOCUMENT_PREFIX, attend, THDLayout(batch), q, k, v)
        case GlobalLocalSlidingWindow():
            attend = global_local(library, mask, batch, q.device)
            return bind_layout(GLOBAL_LOCAL, attend, BSHDLayout(), q, k, v)
        case ImageInCausal():
            attend = causal_images(library, mask, batch, q.device)
            return bind_layout(CAUSAL_IMAGES, attend, BSHDLayout(), q, k, v)
        case SharedPrefix(prefix, responses):
            attend = shared_prefix(library, prefix, responses, batch)
            layout = prefix_first(prefix, mask.seq_len, batch, q.device)
            return bind_layout(SHARED_PREFIX, attend, layout, q, k, v)
        case Padded(inner) if (window := as_window(inner)) is not None:
            return valid_tokens(library, mask, window, q, k, v)
    raise Unsupported(f"no form of {type(mask).__name__} in windows and packed sequences")


def document_lengths(
    mask: Documents, queries: int, batch: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The lengths of each document in the batch: its tokens among the last `queries`, and all.

    A document without queries has a query length of 0, and the gradients of its keys are zeros.
    Raises Unsupported if there are such documents and no document has more than one query:
    FlashAttention-2 then takes each sequence to have one, for grouped queries.
    """
    first_query, found = mask.seq_len - queries, []
    lengths = mask.packed_lengths(batch)
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        end_in_element = (end - 1) % mask.seq_len + 1
        found.append(max(0, min(length, end_in_element - first_query)))
    if max(found) == 1 and 0 in found:
        raise Unsupported("one query in some documents and none in others has no packed form")
    return tuple(found), lengths


def last_document(
    library: FlashLibrary, length: int, window: Window, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """The last queries, if all are in the last document: they see none of the keys before it."""
    op = library.batched(q.shape[2], length, window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return op.attend(q, k[:, -length:], v[:, -length:])

    formulation = Formulation(
        f"last_document:{op.formulation.id}", f"the last document alone, {op.formulation.text}"
    )
    return bind_layout(formulation, attend, BSHDLayout(), q, k, v)


# --- one call, on reordered tokens ---


def residue_streams(
    library: FlashLibrary,
    mask: DilatedSlidingWindow,
    queries: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> BoundAttention:
    """Dilated window: a token attends only to tokens with its residue modulo the dilation.

    Let n be the dilation. q - k is a multiple of n exactly if q and k have the same residue, and
    in the sequence of that residue they are (q - k) / n apart. So each of the n sequences has a
    window of `mask.window` // n. Heads are independent, so the sequences can be heads:
    [B, S, heads, D] is read as [B, S / n, n * heads, D].
    """
    reach, dilation = mask.window, mask.dilation
    for length in (mask.seq_len, queries):
        if length % dilation:
            raise Unsupported(
                f"residue streams need a length that the dilation divides: {length} is no "
                f"multiple of {dilation}"
            )
    window = reach // dilation, reach // dilation
    op = library.batched(queries // dilation, mask.seq_len // dilation, window)
    formulation = Formulation(
        f"residue_streams:{op.formulation.id}",
        f"{dilation} residue streams as heads, {op.formulation.text}",
    )
    return bind_layout(formulation, op.attend, StridedLayout(dilation), q, k, v)


def valid_tokens(
    library: FlashLibrary, mask: Padded, window: Window, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """Padding: only the valid tokens, packed. They keep their order, so causal stays causal."""
    if window not in (FULL, CAUSAL) and not mask.valid_range.is_contiguous:
        raise Unsupported("a window over packed tokens needs padding at the ends alone")
    valid = ~mask.padding
    lengths = valid.sum(1).tolist()
    op = library.packed(lengths, lengths, window)
    tokens = valid.flatten().nonzero()[:, 0].to(q.device)
    formulation = Formulation(
        f"unpadded:{op.formulation.id}", f"valid tokens alone, {op.formulation.text}"
    )
    layout = TokenLayout(tokens, *mask.padding.shape)
    return bind_layout(formulation, op.attend, layout, q, k, v)
