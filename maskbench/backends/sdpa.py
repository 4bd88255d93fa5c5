"""F.scaled_dot_product_attention: as it dispatches, and pinned to each of its kernels.

https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.backends.dense import additive_bias
from maskbench.masks import Causal, Mask
from maskbench.masks.equal_forms import sees_all_keys, simplify
from maskbench.varlen.ops import require_equal_head_dims

CAN_USE = {
    SDPBackend.FLASH_ATTENTION: can_use_flash_attention,
    SDPBackend.EFFICIENT_ATTENTION: can_use_efficient_attention,
    SDPBackend.CUDNN_ATTENTION: can_use_cudnn_attention,
}
CPU_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True)
class MaskArguments:
    """A mask as arguments of scaled_dot_product_attention."""

    formulation: Formulation
    attn_mask: Tensor | None = None
    is_causal: bool = False


def mask_arguments(kernel: SDPBackend | None, mask: Mask, q: Tensor) -> MaskArguments:
    """The arguments for a mask. Raises Unsupported if the kernel cannot take it."""
    mask = simplify(mask)
    if sees_all_keys(mask):
        return MaskArguments(Formulation("no_mask", "no mask"))
    # torch aligns is_causal at the top left, so it is wrong for the last queries of a sequence.
    if isinstance(mask, Causal):
        return MaskArguments(Formulation("is_causal", "is_causal=True"), is_causal=True)
    if kernel is SDPBackend.FLASH_ATTENTION:
        raise Unsupported("SDPA's FlashAttention takes no mask but is_causal")
    # Additive, because torch would convert a bool mask to this in every call. With it, a query
    # that sees no key gives zeros in every kernel; with a bool mask, cuDNN's kernel does not.
    formulation = Formulation("dense_bias", "dense bias")
    return MaskArguments(formulation, attn_mask=additive_bias(mask, q))


def rejection_reason(kernel: SDPBackend, params: SDPAParams) -> str | None:
    """Why torch rejects a kernel, in torch's words; None if it accepts it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if CAN_USE[kernel](params, debug=True):
            return None
    return " ".join(str(w.message).split(" (Triggered")[0] for w in caught) or "torch refuses it"


def require_kernel(
    kernel: SDPBackend, arguments: MaskArguments, q: Tensor, k: Tensor, v: Tensor
) -> None:
    """Raise Unsupported if torch rejects the kernel for these CUDA tensors."""
    bias, is_causal = arguments.attn_mask, arguments.is_causal
    if bias is not None:
        bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
    grouped = q.shape[1] != k.shape[1]
    reason = rejection_reason(kernel, SDPAParams(q, k, v, bias, 0.0, is_causal, grouped))
    if reason and grouped:
        # torch does not say that grouping is the cause: try the same without grouping.
        one_k, one_v = (t[:, :1].expand(-1, q.shape[1], -1, -1) for t in (k, v))
        ungrouped = SDPAParams(q, one_k, one_v, bias, 0.0, is_causal, False)
        if rejection_reason(kernel, ungrouped) is None:
            reason = f"SDPA's {kernel.name} kernel takes no grouped queries (enable_gqa)"
    if reason:
        raise Unsupported(reason)


def uses_tf32_backward(kernel: SDPBackend | None, q: Tensor) -> bool:
    """Whether float32 gradients would come from efficient attention, which uses TF32 products.

    On an H100 the error of its dv was 2.4 times that of dense attention (causal, S=300), and the
    bound is 2. torch selects this kernel for float32 if none is pinned.
    """
    efficient = kernel in (None, SDPBackend.EFFICIENT_ATTENTION)
    return efficient and q.device.type == "cuda" and q.dtype == torch.float32 and q.requires_grad


def bind(kernel: SDPBackend | None, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """Bind SDPA, pinned to `kernel` unless that is None."""
    if kernel is not None and q.device.type == "cpu" and kernel not in CPU_KERNELS:
        raise Unsupported(f"SDPA's {kernel.name} kernel needs CUDA")
    if kernel is SDPBackend.FLASH_ATTENTION and q.device.type == "cpu":
        require_equal_head_dims("SDPA's FlashAttention on a CPU", q, v)
    if uses_tf32_backward(kernel, q):
        raise Unsupported(
            "float32 gradients of efficient attention, which this runs, are of TF32 products: "
            "more than twice as far off as dense attention's"
        )
    arguments = mask_arguments(kernel, mask, q)
    if kernel in CAN_USE and q.device.type == "cuda":
        require_kernel(kernel, arguments, q, k, v)
    options: dict[str, Any] = {}
    if arguments.attn_mask is not None:
        options["attn_mask"] = arguments.attn_mask
    if arguments.is_causal:
        options["is_causal"] = True
    if q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kernel is None:
            return F.scaled_dot_product_attention(q, k, v, **options)
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, **options)

    return BoundAttention(arguments.formulation, (q, k, v), forward)


BACKENDS: dict[str, Bind] = {
    "sdpa": partial(bind, None),
    "sdpa_flash": partial(bind, SDPBackend.FLASH_ATTENTION),
    "sdpa_cudnn": partial(bind, SDPBackend.CUDNN_ATTENTION),
    "sdpa_efficient": partial(bind, SDPBackend.EFFICIENT_ATTENTION),
    "sdpa_math": partial(bind, SDPBackend.MATH),
}
