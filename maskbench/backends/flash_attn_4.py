"""FlashAttention-4, the CuTe kernels of the package flash-attn-4 (flash_attn.cute).

https://github.com/Dao-AILab/flash-attention/tree/main/flash_attn/cute
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cutlass
import torch
from cutlass import cute
from flash_attn.cute import flash_attn_func, flash_attn_varlen_func, utils
from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

# Private, as the package has no public call that takes the log-sum-exp of a whole row for a
# part of it (seen on 4.0.0b36).
from flash_attn.cute.interface import _flash_attn_bwd
from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.masks import Documents, GlobalLocalSlidingWindow, LocalAttention2D, Mask, PrefixLM
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import as_window, lower
from maskbench.varlen.ops import (
    CAUSAL,
    AttentionOp,
    FlashLibrary,
    Window,
    cu_seqlens,
    flash_window_kwargs,
    require_cuda_half,
)


def gradients(window: Window, lengths: dict, dout, q, k, v, out, lse):
    left, right = (None, None) if window == CAUSAL else window
    sides = {"window_size_left": left, "window_size_right": right, "causal": window == CAUSAL}
    return _flash_attn_bwd(q, k, v, out, dout, lse, **sides, **lengths)


def batched(queries: int, keys: int, window: Window) -> AttentionOp:
    form, options = flash_window_kwargs(window)

    def attend(q, k, v):
        return flash_attn_func(q, k, v, **options)[0]

    forward = partial(flash_attn_func, **options, return_lse=True)
    return AttentionOp(form, attend, forward, partial(gradients, window, {}))


def packed(
    device, q_lengths: Sequence[int], k_lengths: Sequence[int], window: Window
) -> AttentionOp:
    form, options = flash_window_kwargs(window)
    lengths = {
        "cu_seqlens_q": cu_seqlens(q_lengths, device),
        "cu_seqlens_k": cu_seqlens(k_lengths, device),
        "max_seqlen_q": max(q_lengths),
        "max_seqlen_k": max(k_lengths),
    }

    def attend(q, k, v):
        return flash_attn_varlen_func(q, k, v, **lengths, **options)[0]

    forward = partial(flash_attn_varlen_func, **lengths, **options, return_lse=True)
    return AttentionOp(f"varlen, {form}", attend, forward, partial(gradients, window, lengths))


# --- masks that it has no native form for: a mask_mod of the kernel's own, on the blocks that the
# mask touches. On scalars: CuTe's vectors have no shift, and with `&` alone, on vectors, the 2-D
# mask took 0.69 ms forward and 1.52 backward, so 0.52 and 1.21 (H200, B8 H16 S4096 D64 float16).


def local_2d_mask_mod(width: int, radius: int):
    """LocalAttention2D; the kernel is compiled for its two numbers."""
    shift, low_bits = width.bit_length() - 1, width - 1
    power_of_two = width & low_bits == 0

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):
        q, k = m_idx[0], n_idx[0]
        if cutlass.const_expr(power_of_two):  # no division
            rows, columns = (q >> shift) - (k >> shift), (q & low_bits) - (k & low_bits)
        else:
            rows, columns = q // width - k // width, q % width - k % width
        near = (rows <= radius) & (rows >= -radius)
        near = near & (columns <= radius) & (columns >= -radius)
        return utils.scalar_to_ssa(near, cutlass.Boolean)

    return mask_mod


def strided_global_mask_mod(window: int, step: int, last: int):
    """GlobalLocalSlidingWindow whose tokens are the multiples of a power of two up to `last`."""
    low_bits = step - 1

    @cute.jit
    def mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):
        q, k = m_idx[0], n_idx[0]
        near = (q - k <= window) & (k - q <= window)
        q_global = ((q & low_bits) == 0) & (q <= last)
        k_global = ((k & low_bits) == 0) & (k <= last)
        return utils.scalar_to_ssa(near | q_global | k_global, cutlass.Boolean)

    return mask_mod


@cute.jit
def key_range_mask_mod(batch, head, m_idx, n_idx, seqlen_info, aux_tensors):
    """A mask with a span: aux_tensors hold the first and the last key of each query."""
    q, k = m_idx[0], n_idx[0]
    near = (k >= aux_tensors[0][q]) & (k <= aux_tensors[1][q])
    return utils.scalar_to_ssa(near, cutlass.Boolean)


def native_mask_mod(mask: Mask, q: Tensor):
    """(mask_mod, aux_tensors) where that is faster than the composed form; else None.

    On an H100 (B8 H16 D64 float16, ms forward / backward), composed and so, at S = 4096: global+
    local 0.60 / 1.42 and 0.61 / 1.17, prefixes in documents 0.46 / 0.97 and 0.27 / 0.62. At 16384
    global+local took 2.14 / 5.42 and 2.60 / 4.98, with D128 (B2 H32) 1.69 / 5.79 and 1.58 / 4.73.
    Prefix LM took 0.75 / 1.93 and 0.81 / 1.79: composed where no backward is to come.
    """
    composed_forward = not q.requires_grad and q.shape[-1] <= 64 and mask.seq_len > 4096
    match mask:
        case LocalAttention2D(width, radius):
            return local_2d_mask_mod(width, radius), None
        case GlobalLocalSlidingWindow(window, tokens) if (
            mask.global_stride and not composed_forward
        ):
            return strided_global_mask_mod(window, mask.global_stride, tokens[-1]), None
        case Documents(_, PrefixLM()):
            return key_range_mask_mod, bounds(mask, q.device)
        case PrefixLM() if q.requires_grad:
            return key_range_mask_mod, bounds(mask, q.device)
    return None


def bounds(mask: Mask, device) -> list[Tensor]:
    """int32 [S] each: the first and the last key of each query."""
    first, last = mask.key_range(torch.arange(mask.seq_len))
    last = last.clamp(max=mask.seq_len - 1)
    return [t.to(device, torch.int32) for t in (first.clamp(min=0), last)]


def block_sparse(
    mask: Mask, mask_mod, aux_tensors, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """A mask_mod, run on the blocks that the mask touches alone."""
    blocks = mask.block_mask(q.device)
    of_queries = BlockSparseTensorsTorch(
        *(blocks.kv_num_blocks, blocks.kv_indices),
        *(blocks.full_kv_num_blocks, blocks.full_kv_indices),
        block_size=blocks.BLOCK_SIZE,
    )
    of_keys = BlockSparseTensorsTorch(
        *(blocks.q_num_blocks, blocks.q_indices),
        *(blocks.full_q_num_blocks, blocks.full_q_indices),
        block_size=blocks.BLOCK_SIZE,
    )
    options = {
        "mask_mod": mask_mod,
        "aux_tensors": aux_tensors,
        "block_sparse_tensors": of_queries,
        "block_sparse_tensors_bwd": of_keys,
    }
    form = "mask_mod + block sparsity {}x{}".format(*blocks.BLOCK_SIZE)
    return bind_layout(
        form, lambda q, k, v: flash_attn_func(q, k, v, **options)[0], BSHDLayout(), q, k, v
    )


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("FlashAttention-4", q)
    native = as_window(mask.inner if isinstance(mask, Documents) else mask) is not None
    if not native and (own := native_mask_mod(mask, q)):
        return block_sparse(mask, *own, q, k, v)
    return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)


BACKENDS = {"flash_attn_4": bind}
