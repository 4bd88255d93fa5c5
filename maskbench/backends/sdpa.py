"""F.scaled_dot_product_attention: pinned to each of its kernels, and as it dispatches itself.

https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
"""

from __future__ import annotations

import warnings
from functools import partial

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

from maskbench.attention import BoundAttention, Unsupported
from maskbench.backends.dense import additive_bias
from maskbench.masks import Causal, Full, Mask

CAN_USE = {
    SDPBackend.FLASH_ATTENTION: can_use_flash_attention,
    SDPBackend.EFFICIENT_ATTENTION: can_use_efficient_attention,
    SDPBackend.CUDNN_ATTENTION: can_use_cudnn_attention,
}
ON_CPU = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


def rejection_reason(kernel: SDPBackend, params: SDPAParams) -> str | None:
    """Why torch refuses a kernel, in its own words; None where it takes it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if CAN_USE[kernel](params, debug=True):
            return None
    return " ".join(str(w.message).split(" (Triggered")[0] for w in said) or "torch refuses it"


def uses_tf32_backward(kernel: SDPBackend | None, q: Tensor) -> bool:
    """Whether efficient attention is to give float32 gradients, of three TF32 products each.

    On an H100 those of dv were 2.4 times as far off as dense attention's (causal, S=300): more
    than twice, the bound. Without a pin torch takes this kernel for float32, too.
    """
    efficient = kernel in (None, SDPBackend.EFFICIENT_ATTENTION)
    return efficient and q.device.type == "cuda" and q.dtype == torch.float32 and q.requires_grad


def bind(kernel: SDPBackend | None, mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    if q.device.type == "cpu" and kernel not in (None, *ON_CPU):
        raise Unsupported(f"SDPA's {kernel.name} kernel needs CUDA")
    if uses_tf32_backward(kernel, q):
        raise Unsupported(
            "float32 gradients of efficient attention, which this runs, are of TF32 products: "
            "more than twice as far off as dense attention's"
        )
    options, form = {}, "no mask"
    match mask:
        case Full():
            pass
        case Causal():
            options, form = {"is_causal": True}, "is_causal=True"
        case _ if kernel is SDPBackend.FLASH_ATTENTION:
            raise Unsupported("SDPA's FlashAttention takes no mask but is_causal")
        case _:
            # Additive, as torch would turn a bool mask into this at every call; and a query
            # that sees no key then gives zeros in every kernel (bool: not in cuDNN's).
            options, form = {"attn_mask": additive_bias(mask, q)}, "dense bias"
    if q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True
    if q.device.type == "cuda" and kernel in CAN_USE:
        bias, causal = options.get("attn_mask"), "is_causal" in options
        grouped = "enable_gqa" in options
        if bias is not None:
            bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
        reason = rejection_reason(kernel, SDPAParams(q, k, v, bias, 0.0, causal, grouped))
        if reason and grouped:  # of which torch says nothing
            alike = SDPAParams(q, q, q, bias, 0.0, causal, False)
            if rejection_reason(kernel, alike) is None:
                reason = f"SDPA's {kernel.name} kernel takes no grouped queries (enable_gqa)"
        if reason:
            raise Unsupported(reason)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kernel is None:
            return F.scaled_dot_product_attention(q, k, v, **options)
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, **options)

    return BoundAttention(form, (q, k, v), forward)


BACKENDS = {
    "sdpa": partial(bind, None),
    "sdpa_flash": partial(bind, SDPBackend.FLASH_ATTENTION),
    "sdpa_cudnn": partial(bind, SDPBackend.CUDNN_ATTENTION),
    "sdpa_efficient": partial(bind, SDPBackend.EFFICIENT_ATTENTION),
    "sdpa_math": partial(bind, SDPBackend.MATH),
}
