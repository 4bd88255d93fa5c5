"""mask_mods for FlashAttention-4 in CuTe, and the tables that they read.

The mask_mods have no annotations, because CuTe reads the annotations of what it compiles. They
work on scalars. CuTe's vectors have no shift, and a 2-D mask on vectors that uses `&` alone took
0.69 ms forward and 1.52 backward, against 0.52 and 1.21 (H200, B8 H16 S4096 D64 float16).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cutlass
import torch
import torch.nn.functional as F
from cutlass import cute
from flash_attn.cute import utils
from torch import Tensor

from maskbench.attention import Unsupported
from maskbench.backends.scalar_mask_mods import scalar_mask_mod
from maskbench.backends.scalar_trace import record_operations
from maskbench.masks import LastQueries, Mask

CuteMaskMod = Callable[..., Any]  # compiled by cute.jit; its arguments are CuTe's own types

MAX_TABLE_BYTES = 2**30  # of the bits of a mask
TABLE_ROWS = 384  # a tile has 128 or 192 queries; a kernel may read a table's rows to its end


@dataclass(frozen=True)
class NativeMaskMod:
    """A mask_mod for the kernel, the tensors that it reads, and its name in a formulation."""

    mask_mod: CuteMaskMod
    aux_tensors: list[Tensor] | None = None
    id: str = "mask_mod"
    text: str = "mask_mod"


def local_2d_mask_mod(width: int, radius: int) -> NativeMaskMod:
    """LocalAttention2D. The kernel is compiled for `width` and `radius`."""
    shift, low_bits = width.bit_length() - 1, width - 1
    power_of_two = width & low_bits == 0

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        q, k = m_idx[0], n_idx[0]
        if cutlass.const_expr(power_of_two):  # no division
            rows, columns = (q >> shift) - (k >> shift), (q & low_bits) - (k & low_bits)
        else:
            rows, columns = q // width - k // width, q % width - k % width
        near = (rows <= radius) & (rows >= -radius)
        near = near & (columns <= radius) & (columns >= -radius)
        return utils.scalar_to_ssa(near, cutlass.Boolean)

    return NativeMaskMod(mask_mod)


def strided_global_mask_mod(window: int, stride: int, last: int) -> NativeMaskMod:
    """GlobalLocalSlidingWindow whose tokens are the multiples of `stride` up to `last`.

    `stride` is a power of two.
    """
    low_bits = stride - 1

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        q, k = m_idx[0], n_idx[0]
        near = (q - k <= window) & (k - q <= window)
        q_global = ((q & low_bits) == 0) & (q <= last)
        k_global = ((k & low_bits) == 0) & (k <= last)
        return utils.scalar_to_ssa(near | q_global | k_global, cutlass.Boolean)

    return NativeMaskMod(mask_mod)


def own_mask_mod(mask: Mask, device: torch.device) -> NativeMaskMod | None:
    """The mask's own mask_mod; None if it does not work on CuTe's scalars."""
    function: Callable[..., Any] = scalar_mask_mod(mask, device)
    operations = record_operations(function)
    if operations is None:
        return None

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        allowed = function(batch[0], head[0], m_idx[0], n_idx[0])
        return utils.scalar_to_ssa(allowed, cutlass.Boolean)

    # Compiled kernels are cached by this. The hash that the package computes does not look into
    # the functions that `function` calls.
    mask_mod.__cute_hash__ = hashlib.sha256(operations.encode()).hexdigest()
    return NativeMaskMod(mask_mod)


@cute.jit
def key_range_mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
    """A mask with a `key_range`: aux_tensors are the first and the last key of each query."""
    q, k = m_idx[0], n_idx[0]
    near = (k >= aux_tensors[0][q]) & (k <= aux_tensors[1][q])
    return utils.scalar_to_ssa(near, cutlass.Boolean)


def key_range_tables(mask: Mask, device: torch.device) -> list[Tensor] | None:
    """The first and the last key of each query, int32 [Q] each; None without a `key_range`."""
    inner = mask.inner if isinstance(mask, LastQueries) else mask
    key_range = inner.key_range(torch.arange(mask.seq_len - mask.q_len, mask.seq_len))
    if key_range is None:
        return None
    first, last = key_range[0].clamp(min=0), key_range[1].clamp(max=mask.seq_len - 1)
    return [F.pad(t.to(device, torch.int32), (0, -len(t) % TABLE_ROWS)) for t in (first, last)]


def bit_table_mask_mod(by_batch: bool, by_head: bool) -> CuteMaskMod:
    """Any mask: aux_tensors[0] is its `bit_table`."""
    batch_step, head_step = int(by_batch), int(by_head)

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        b, h, q, k = batch[0] * batch_step, head[0] * head_step, m_idx[0], n_idx[0]
        word = aux_tensors[0][b, h, q, k >> 5]
        return utils.scalar_to_ssa(((word >> (k & 31)) & 1) != 0, cutlass.Boolean)

    compiled: CuteMaskMod = mask_mod
    return compiled


def bit_table(mask: Mask, device: torch.device) -> Tensor:
    """int32 [1 or B, 1 or H, Q or more, ceil(S / 32)]: bit k % 32 of word k // 32 is key k.

    Raises
    ------
    Unsupported
        If the table would have more than `MAX_TABLE_BYTES` bytes.
    """
    batch, heads, queries, keys = mask.dense_shape
    rows, words = queries + -queries % TABLE_ROWS, -(-keys // 32)
    size = 4 * batch * heads * rows * words
    if size > MAX_TABLE_BYTES:
        limit = MAX_TABLE_BYTES / 2**30
        raise Unsupported(f"a table of bits of {size / 2**30:.1f} GiB; the limit is {limit:g} GiB")
    table = torch.zeros(batch, heads, rows, words, dtype=torch.int32, device=device)
    bits = torch.ones(32, dtype=torch.int32, device=device) << torch.arange(32, device=device)
    step = max(1, 2**26 // (batch * heads * keys))  # a part has 2**26 pairs, at 4 bytes each
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        allowed = F.pad(mask.dense_rows(start, stop, device), (0, -keys % 32))
        by_word = torch.unflatten(allowed, -1, (words, 32)) * bits
        table[:, :, start:stop] = by_word.sum(-1, dtype=torch.int32)
    return table


def general_mask_mod(mask: Mask, device: torch.device) -> NativeMaskMod:
    """A mask_mod for any mask: its own, its key ranges, or a table of its bits."""
    own = own_mask_mod(mask, device)
    if own is not None:
        return own
    tables = key_range_tables(mask, device)
    if tables is not None:
        return NativeMaskMod(key_range_mask_mod, tables, "key_range", "key ranges in tables")
    mask_mod = bit_table_mask_mod(mask.batch is not None, mask.heads is not None)
    return NativeMaskMod(mask_mod, [bit_table(mask, device)], "bit_table", "table of bits")
