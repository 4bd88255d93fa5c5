"""Masks as the calls of FlashAttention's family: one call, or several joined.

FlashAttention, torch's varlen_attn and xFormers give their two calls as a `Library`
(backends/kernel.py); `bind` finds the form of each mask in them, and the layout of its tensors.
"""

from __future__ import annotations

from torch import Tensor

from maskbench.attention import BoundAttention, Unsupported
from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    Mask,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from maskbench.varlen.layouts import (
    BSHDLayout,
    StridedLayout,
    THDLayout,
    UnpaddedLayout,
    bind_layout,
)
from maskbench.varlen.merging import document_prefix, global_local, prefix_queries
from maskbench.varlen.ops import CAUSAL, FULL, FlashLibrary, Window


def as_window(mask: Mask) -> Window | None:
    """The window of a mask that is one."""
    match mask:
        case Full():
            return FULL
        case Causal() | PrefixLM(prefix=0 | 1):
            return CAUSAL
        case PrefixLM(prefix) if prefix >= mask.seq_len:
            return FULL
        case SlidingWindow(left, right):
            return left, right
        case GlobalLocalSlidingWindow(window, tokens) if not tokens or window >= mask.seq_len - 1:
            return window, window
    return None


def lower(library: FlashLibrary, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """The mask as calls of `library`; raises Unsupported where it has no form in them."""
    batch, window = q.shape[0], as_window(mask)
    if window is not None:
        kernel = library.batched(mask.seq_len, mask.seq_len, window)
        return bind_layout(kernel.form, kernel.attend, BSHDLayout(), q, k, v)
    match mask:
        case DilatedSlidingWindow():
            return residue_streams(library, mask, q, k, v)
        case PrefixLM(prefix):
            form = "2 calls: the prefix's queries full, the rest causal"
            forward = prefix_queries(library, mask.seq_len, prefix)
            return bind_layout(form, forward, BSHDLayout(), q, k, v)
        case Documents(lengths, inner) if (window := as_window(inner)) is not None:
            kernel = library.packed(lengths * batch, lengths * batch, window)
            return bind_layout(kernel.form, kernel.attend, THDLayout(batch), q, k, v)
        case Documents(lengths, PrefixLM(prefix)):
            form = "2 packed calls: all causal, then the prefixes' queries full"
            forward = document_prefix(library, lengths * batch, prefix, q.device)
            return bind_layout(form, forward, THDLayout(batch), q, k, v)
        case GlobalLocalSlidingWindow():
            form = "window and far global keys merged by log-sum-exp, global queries apart"
            return bind_layout(
                form, global_local(library, mask, batch, q.device), BSHDLayout(), q, k, v
            )
        case Padded(inner) if (window := as_window(inner)) is not None:
            return valid_tokens(library, mask, window, q, k, v)
    raise Unsupported(f"no form of {type(mask).__name__} in windows and packed sequences")


# --- one call, on tokens in another order ---


def residue_streams(
    library: FlashLibrary, mask: DilatedSlidingWindow, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """Dilated window: tokens of one residue modulo the dilation attend to each other alone.

    q - k is a multiple of n exactly where q and k are of one residue; there they are
    (q - k) / n apart. So each of the n streams has a plain window of reach // n. As heads are
    independent, streams are heads: [B, S, heads, D] read as [B, S / n, n * heads, D].
    """
    reach, dilation = mask.window, mask.dilation
    if mask.seq_len % dilation:
        raise Unsupported(
            f"residue streams need a length that the dilation divides: {mask.seq_len} is no "
            f"multiple of {dilation}"
        )
    length, window = mask.seq_len // dilation, (reach // dilation, reach // dilation)
    kernel = library.batched(length, length, window)
    form = f"{dilation} residue streams as heads, {kernel.form}"
    return bind_layout(form, kernel.attend, StridedLayout(dilation), q, k, v)


def valid_tokens(
    library: FlashLibrary, mask: Padded, window: Window, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """Padding: the valid tokens alone, packed; their order stays, so causal stays causal."""
    if window not in (FULL, CAUSAL) and not mask.valid_range.is_contiguous:
        raise Unsupported("a window over packed tokens needs padding at the ends alone")
    valid = ~mask.padding
    lengths = valid.sum(1).tolist()
    kernel = library.packed(lengths, lengths, window)
    layout = UnpaddedLayout(valid.flatten().nonzero()[:, 0].to(q.device), *mask.padding.shape)
    return bind_layout(f"valid tokens alone, {kernel.form}", kernel.attend, layout, q, k, v)
