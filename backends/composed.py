"""Masks as the calls of FlashAttention's family: one call, or several joined.

FlashAttention, torch's varlen_attn and xFormers give their two calls as a `Library`
(backends/kernel.py); `bind` finds the form of each mask in them, and the layout of its tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backends import Call, Unsupported
from backends.joined import document_prefix, global_local, prefix_queries
from backends.kernel import CAUSAL, FULL, Attend, Library, Window
from masks import (
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


def window_of(mask: Mask) -> Window | None:
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


def bind(library: Library, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """The mask as calls of `library`; raises Unsupported where it has no form in them."""
    batch, window = q.shape[0], window_of(mask)
    if window is not None:
        kernel = library.batched(mask.seq_len, mask.seq_len, window)
        return call_of(kernel.form, kernel.attend, Batch(), q, k, v)
    match mask:
        case DilatedSlidingWindow():
            return residue_streams(library, mask, q, k, v)
        case PrefixLM(prefix):
            form = "2 calls: the prefix's queries full, the rest causal"
            forward = prefix_queries(library, mask.seq_len, prefix)
            return call_of(form, forward, Batch(), q, k, v)
        case Documents(lengths, inner) if (window := window_of(inner)) is not None:
            kernel = library.packed(lengths * batch, lengths * batch, window)
            return call_of(kernel.form, kernel.attend, Pack(batch), q, k, v)
        case Documents(lengths, PrefixLM(prefix)):
            form = "2 packed calls: all causal, then the prefixes' queries full"
            forward = document_prefix(library, lengths * batch, prefix, q.device)
            return call_of(form, forward, Pack(batch), q, k, v)
        case GlobalLocalSlidingWindow():
            form = "window and far global keys merged by log-sum-exp, global queries apart"
            return call_of(form, global_local(library, mask, batch, q.device), Batch(), q, k, v)
        case Padded(inner) if (window := window_of(inner)) is not None:
            return valid_tokens(library, mask, window, q, k, v)
    raise Unsupported(f"no form of {type(mask).__name__} in windows and packed sequences")


# --- layouts: pack leads from [B, heads, S, head_dim] to what the call takes, unpack back ---


@dataclass(frozen=True)
class Batch:
    """[B, S, heads, head_dim]."""

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous()

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)


@dataclass(frozen=True)
class Pack:
    """[B * S, heads, head_dim]: all batch elements' tokens, one after the other."""

    batch: int

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().flatten(0, 1)

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.batch, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Streams:
    """[B, S / n, n * heads, head_dim]: as a batch in memory, tokens n apart as one sequence."""

    n: int

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().unflatten(1, (-1, self.n)).flatten(2, 3)

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(2, (self.n, -1)).flatten(1, 2).transpose(1, 2)


@dataclass(frozen=True)
class Valid:
    """[valid tokens, heads, head_dim]; unpack gives padding zeros."""

    tokens: Tensor  # of the B * S tokens, those that are no padding
    batch: int
    seq_len: int

    def pack(self, tensor: Tensor) -> Tensor:
        return Pack(self.batch).pack(tensor).index_select(0, self.tokens)

    def unpack(self, tensor: Tensor) -> Tensor:
        whole = tensor.new_zeros(self.batch * self.seq_len, *tensor.shape[1:])
        return Pack(self.batch).unpack(whole.index_copy(0, self.tokens, tensor))


def call_of(form: str, forward: Attend, layout, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """The call on q, k, v [B, heads, S, head_dim], brought into `layout`, one of the above."""
    packed = (layout.pack(t.detach()).requires_grad_(t.requires_grad) for t in (q, k, v))
    return Call(form, tuple(packed), forward, layout.pack, layout.unpack)


# --- one call, on tokens in another order ---


def residue_streams(
    library: Library, mask: DilatedSlidingWindow, q: Tensor, k: Tensor, v: Tensor
) -> Call:
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
    return call_of(form, kernel.attend, Streams(dilation), q, k, v)


def valid_tokens(
    library: Library, mask: Padded, window: Window, q: Tensor, k: Tensor, v: Tensor
) -> Call:
    """Padding: the valid tokens alone, packed; their order stays, so causal stays causal."""
    if window not in (FULL, CAUSAL) and not mask.ends.one_run:
        raise Unsupported("a window over packed tokens needs padding at the ends alone")
    valid = ~mask.padding
    lengths = valid.sum(1).tolist()
    kernel = library.packed(lengths, lengths, window)
    layout = Valid(valid.flatten().nonzero()[:, 0].to(q.device), *mask.padding.shape)
    return call_of(f"valid tokens alone, {kernel.form}", kernel.attend, layout, q, k, v)
