"""FlashAttention-4, the CuTe kernels of the package flash-attn-4 (flash_attn.cute).

https://github.com/Dao-AILab/flash-attention/tree/main/flash_attn/cute
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from flash_attn.cute import flash_attn_func, flash_attn_varlen_func
from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

# Private (seen on 4.0.0b36). The package has no public backward for a part of a row, which needs
# the log-sum-exp of the whole row, and no public check of head dimensions.
from flash_attn.cute.interface import _flash_attn_bwd, _validate_head_dims
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.backends.cute_mask_mods import (
    NativeMaskMod,
    general_mask_mod,
    key_range_mask_mod,
    key_range_tables,
    local_2d_mask_mod,
    strided_global_mask_mod,
)
from maskbench.masks import (
    BlockCausal,
    Documents,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LocalAttention2D,
    Mask,
    PrefixLM,
    SharedPrefix,
    SinkSlidingWindow,
)
from maskbench.masks.equal_forms import simplify
from maskbench.varlen.layouts import BSHDLayout, bind_layout
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import (
    CAUSAL,
    AttentionOp,
    FlashLibrary,
    Gradients,
    PackedLengths,
    Window,
    flash_window_kwargs,
    require_cuda_half,
    require_equal_head_dims,
    window_id,
)


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


def native_mask_mod(mask: Mask, q: Tensor) -> NativeMaskMod | None:
    """The mask_mod where it is faster than composed calls; else None.

    Times on an H100 (torch 2.11, B8 H16 D64 float16, ms forward / backward), composed calls and
    then mask_mod. S = 4096: global+local 0.62 / 1.42 and 0.61 / 1.17, sinks 0.64 / 1.27 and
    0.44 / 0.98, images 0.99 / 2.19 and 0.69 / 1.54, shared prefix 0.66 / 1.43 and 0.51 / 1.27,
    causal blocks 0.80 / 2.25 and 0.78 / 1.75, prefixes in documents 0.46 / 0.97 and 0.27 / 0.62,
    prefix LM 0.75 / 1.93 and 0.81 / 1.79. S = 16384: global+local 2.17 / 5.43 and 2.35 / 5.00,
    sinks 2.38 / 5.22 and 1.86 / 4.31, images 9.51 / 23.2 and 9.04 / 22.1 (forward the same SM
    cycles), shared prefix 5.65 / 14.1 and 5.77 / 13.9, causal blocks 9.31 / 27.3 and 10.5 / 24.0.

    With B2 H16 D128 bfloat16 the mask_mod took at most 0.6 % more cycles, and up to 48 % fewer. No
    length between 4096 and 16384 was timed.
    """
    composed_is_faster = not q.requires_grad and q.shape[-1] <= 64 and mask.seq_len > 4096
    match mask:
        case LocalAttention2D(width, radius):
            return local_2d_mask_mod(width, radius)
        case GlobalLocalSlidingWindow(window, tokens) if (
            mask.global_stride and not composed_is_faster
        ):
            return strided_global_mask_mod(window, mask.global_stride, tokens[-1])
        case Documents(_, PrefixLM()):
            return key_ranges(mask, q.device)
        case PrefixLM() if q.requires_grad:
            return key_ranges(mask, q.device)
        case SinkSlidingWindow() | ImageInCausal():
            return general_mask_mod(mask, q.device)
        case SharedPrefix() | BlockCausal() if not composed_is_faster:
            return general_mask_mod(mask, q.device)
    return None


def key_ranges(mask: Mask, device: torch.device) -> NativeMaskMod | None:
    """The mask_mod that looks up each query's first and last key."""
    tables = key_range_tables(mask, device)
    return None if tables is None else NativeMaskMod(key_range_mask_mod, tables)


def sparse_block_size(q: Tensor) -> tuple[int, int]:
    """Queries and keys of a block that fits the kernels' tiles (seen on 4.0.0b36, Hopper)."""
    head_dim = q.shape[-1]
    return 128, 128 if head_dim <= 128 else 96 if head_dim <= 192 else 64


def block_sparse(
    mask: Mask, native: NativeMaskMod, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """A call with a mask_mod that visits only the blocks that the mask touches."""
    blocks = mask.block_mask(q.device, sparse_block_size(q))
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
        "mask_mod": native.mask_mod,
        "aux_tensors": native.aux_tensors,
        "block_sparse_tensors": keys_by_query,
        "block_sparse_tensors_bwd": queries_by_key,
    }

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = flash_attn_func(q, k, v, **options)[0]
        return out

    size = "{}x{}".format(*blocks.BLOCK_SIZE)
    formulation = Formulation(f"{native.id}:{size}", f"{native.text} + block sparsity {size}")
    return bind_layout(formulation, attend, BSHDLayout(), q, k, v)


def require_head_dims(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise Unsupported for head dimensions that the kernels of this GPU do not have."""
    architecture, _ = torch.cuda.get_device_capability(q.device)
    try:
        _validate_head_dims(q.shape[-1], v.shape[-1], architecture, 16 // q.element_size())
    except AssertionError as error:
        raise Unsupported(f"FlashAttention-4: {error}") from None
    if q.requires_grad and q.shape[1] != k.shape[1]:
        require_equal_head_dims("FlashAttention-4's backward of grouped queries", q, v)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    require_cuda_half("FlashAttention-4", q)
    require_head_dims(q, k, v)
    mask = simplify(mask)
    native = native_mask_mod(mask, q)
    if native is None:
        try:
            return lower(FlashLibrary(batched, partial(packed, q.device)), mask, q, k, v)
        except Unsupported:
            native = general_mask_mod(mask, q.device)
    return block_sparse(mask, native, q, k, v)


BACKENDS: dict[str, Bind] = {"flash_attn_4": bind}
