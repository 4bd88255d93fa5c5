"""FlashAttention-4, the CuTe kernels of the package flash-attn-4 (flash_attn.cute).

https://github.com/Dao-AILab/flash-attention/tree/main/flash_attn/cute
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import cutlass
import torch
from cutlass import cute
from flash_attn.cute import flash_attn_func, flash_attn_varlen_func, utils
from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

# Private (seen on 4.0.0b36). The package has no public backward for a part of a row, which needs
# the log-sum-exp of the whole row.
from flash_attn.cute.interface import _flash_attn_bwd
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.masks import Documents, GlobalLocalSlidingWindow, LocalAttention2D, Mask, PrefixLM
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import as_window, lower
from maskbench.varlen.ops import (
    CAUSAL,
    AttentionOp,
    FlashLibrary,
    Gradients,
    PackedLengths,
    Window,
    flash_window_kwargs,
    require_cuda_half,
    window_id,
)

CuteMaskMod = Callable[..., Any]  # compiled by cute.jit; its arguments are CuTe's own types


def backward(
    window: Window,
    lengths: dict[str, Any],
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
) -> Gradients:
    """dq, dk, dv; `lengths` are the keyword arguments of packed sequences, {} for a batch."""
    left, right = (None, None) if window == CAUSAL else window
    sides = {"window_size_left": left, "window_size_right": right, "causal": window == CAUSAL}
    grads: Gradients = _flash_attn_bwd(q, k, v, out, dout, lse, **sides, **lengths)
    return grads


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    text, options = flash_window_kwargs(window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = flash_attn_func(q, k, v, **options)[0]
        return out

    return AttentionOp(
        Formulation(window_id(window), text),
        attend,
        partial(flash_attn_func, **options, return_lse=True),
        partial(backward, window, {}),
    )


def packed(
    device: torch.device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    text, options = flash_window_kwargs(window)
    lengths = PackedLengths.of(q_lengths, k_lengths, device)._asdict()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = flash_attn_varlen_func(q, k, v, **lengths, **options)[0]
        return out

    return AttentionOp(
        Formulation(f"varlen:{window_id(window)}", f"varlen, {text}"),
        attend,
        partial(flash_attn_varlen_func, **lengths, **options, return_lse=True),
        partial(backward, window, lengths),
    )


# --- masks that are no window: a mask_mod in CuTe, on the blocks that the mask touches ---
#
# The mask_mods have no annotations, because CuTe reads the annotations of what it compiles. They
# work on scalars. CuTe's vectors have no shift, and a 2-D mask on vectors that uses `&` alone
# took 0.69 ms forward and 1.52 backward, against 0.52 and 1.21 (H200, B8 H16 S4096 D64 float16).


def local_2d_mask_mod(width: int, radius: int) -> CuteMaskMod:
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

    compiled: CuteMaskMod = mask_mod
    return compiled


def strided_global_mask_mod(window: int, stride: int, last: int) -> CuteMaskMod:
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

    compiled: CuteMaskMod = mask_mod
    return compiled


@cute.jit
def key_range_mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
    """A mask with a `key_range`: aux_tensors are the first and the last key of each query."""
    q, k = m_idx[0], n_idx[0]
    near = (k >= aux_tensors[0][q]) & (k <= aux_tensors[1][q])
    return utils.scalar_to_ssa(near, cutlass.Boolean)


class NativeMaskMod(NamedTuple):
    """A mask_mod for the kernel, and the tensors that it reads."""

    mask_mod: CuteMaskMod
    aux_tensors: list[Tensor] | None


def native_mask_mod(mask: Mask, q: Tensor) -> NativeMaskMod | None:
    """The mask_mod where it is faster than merged calls; else None.

    Times on an H100 (B8 H16 D64 float16, ms forward / backward), merged calls and then mask_mod.
    S = 4096: global+local 0.60 / 1.42 and 0.61 / 1.17, prefixes in documents 0.46 / 0.97 and
    0.27 / 0.62. S = 16384: global+local 2.14 / 5.42 and 2.60 / 4.98, with D128 (B2 H32)
    1.69 / 5.79 and 1.58 / 4.73. Prefix LM 0.75 / 1.93 and 0.81 / 1.79, so calls are merged
    unless gradients are required.
    """
    merged_is_faster = not q.requires_grad and q.shape[-1] <= 64 and mask.seq_len > 4096
    match mask:
        case LocalAttention2D(width, radius):
            return NativeMaskMod(local_2d_mask_mod(width, radius), None)
        case GlobalLocalSlidingWindow(window, tokens) if (
            mask.global_stride and not merged_is_faster
        ):
            mask_mod = strided_global_mask_mod(window, mask.global_stride, tokens[-1])
            return NativeMaskMod(mask_mod, None)
        case Documents(_, PrefixLM()):
            return NativeMaskMod(key_range_mask_mod, key_range_tensors(mask, q.device))
        case PrefixLM() if q.requires_grad:
            return NativeMaskMod(key_range_mask_mod, key_range_tensors(mask, q.device))
    return None


def key_range_tensors(mask: Documents | PrefixLM, device: torch.device) -> list[Tensor]:
    """int32 [S] each: the first and the last key of each query."""
    key_range = mask.key_range(torch.arange(mask.seq_len))
    if key_range is None:
        raise Unsupported(f"the keys of {type(mask).__name__} are not one range per query")
    first, last = key_range[0].clamp(min=0), key_range[1].clamp(max=mask.seq_len - 1)
    return [t.to(device, torch.int32) for t in (first, last)]


def block_sparse(
    mask: Mask, native: NativeMaskMod, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """A call with a mask_mod that visits only the blocks that the mask touches."""
    blocks = mask.block_mask(q.device)
    keys_by_query = BlockSparseTensorsTorch(
        *(blocks.kv_num_blocks, blocks.kv_indices),
        *(blocks.full_kv_num_blocks, blocks.full_kv_indices),
        block_size=blocks.BLOCK_SIZE,
    )
    queries_by_key = BlockSparseTensorsTorch(
        *(blocks.q_num_blocks, blocks.q_indices),
        *(blocks.full_q_num_blocks, blocks.full_q_indices),
        block_size=blocks.BLOCK_SIZE,
    )
    options = {
        **native._asdict(),
        "block_sparse_tensors": keys_by_query,
        "block_sparse_tensors_bwd": queries_by_key,
    }

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = flash_attn_func(q, k, v, **options)[0]
        return out

    size = "{}x{}".format(*blocks.BLOCK_SIZE)
    formulation = Formulation(f"mask_mod:{size}", f"mask_mod + block sparsity {size}")
    return bind_layout(formulation, attend, BSHDLayout(), q, k, v)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("FlashAttention-4", q)
    has_window = as_window(mask.inner if isinstance(mask, Documents) else mask) is not None
    native = None if has_window else native_mask_mod(mask, q)
    if native is not None:
        return block_sparse(mask, native, q, k, v)
    return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS: dict[str, Bind] = {"flash_attn_4": bind}
