"""FlexAttention on FlashAttention-4's kernels: kernel_options={"BACKEND": "FLASH"}.

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# torch runs this package. It is imported here so that its own message says why it is missing.
import flash_attn.cute  # noqa: F401
import torch
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import flex
from maskbench.masks import LocalAttention2D, Mask
from maskbench.masks.base import DeviceLike, MaskMod
from maskbench.varlen.ops import require_cuda_half


@dataclass(frozen=True)
class LocalAttention2DNoShift(LocalAttention2D):
    """The 2-D mask without a shift, which CuTe's vectors lack (seen on 4.0.0b36).

    Seven variants of its mask_mod were timed on an H100 (B8 H16 S4096 D64 float16, ms forward /
    backward). Differences of low bits had the fastest forward (0.55 / 1.53), divisions with abs
    the fastest backward (0.67 / 1.14). The mask's own code for other widths took 0.82 / 1.54.
    """

    training: bool

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        width, radius, low_bits = self.width, self.radius, self.width - 1

        def by_division(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            near = (q // width - k // width).abs() <= radius
            return near & ((q % width - k % width).abs() <= radius)

        def by_low_bits(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            columns = (q & low_bits) - (k & low_bits)
            rows = (q - k) - columns  # in tokens
            near = (rows <= radius * width) & (rows >= -radius * width)
            return near & (columns <= radius) & (columns >= -radius)

        return by_division if self.training or width & low_bits else by_low_bits


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    torch.compiler.reset()  # as FlexAttention's own `bind`
    return compile_call(mask, q, k, v)


def compile_call(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """As `bind`, but the calls that were compiled before stay compiled."""
    require_cuda_half("FlexAttention's FLASH backend", q)
    if isinstance(mask, LocalAttention2D):
        mask = LocalAttention2DNoShift(
            mask.width, mask.radius, q.requires_grad, seq_len=mask.seq_len
        )
    if q.requires_grad and q.shape[-1] > 128:
        raise Unsupported(
            "FlexAttention's FLASH backend has blocks of 128 x 128; above a head_dim of 128, "
            "FlashAttention-4's backward needs others"
        )
    call = flex.compile_call(mask, q, k, v, kernel_options={"BACKEND": "FLASH"})

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        try:
            return call.forward(q, k, v)
        except Exception as error:  # torch and CuTe raise several types
            if reason := uncompilable_operation(error):
                raise Unsupported(reason) from error
            raise

    return replace(call, forward=forward)


def uncompilable_operation(error: Exception) -> str | None:
    """Why the mask_mod cannot be compiled to CuTe; None if the error is another one.

    Seen on torch 2.11 with flash-attn-4 4.0.0b36: inductor names the operations that it does not
    translate, and CuTe's vectors have no shift, of which it says either of two things.
    """
    text = str(error)
    if found := re.search(r"UNSUPPORTED CUTEDSL OPERATION: '(\w+)'", text):
        return f"FlexAttention's FLASH backend cannot compile '{found[1]}' in the mask_mod"
    if "Expected TensorSSA" in text or "Unsupported DSL type: vector" in text:
        return "FlexAttention's FLASH backend cannot compile the mask_mod: CuTe has no vector shift"
    return None


BACKENDS: dict[str, Bind] = {"flex_flash": bind}
