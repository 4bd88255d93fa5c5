"""FlexAttention on FlashAttention-4's kernels: kernel_options={"BACKEND": "FLASH"}.

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

# torch runs this package. It is imported here so that its own message says why it is missing.
import flash_attn.cute  # noqa: F401
from torch import Tensor

from maskbench.attention import Bind, BoundAttention
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
    require_cuda_half("FlexAttention's FLASH backend", q)
    if isinstance(mask, LocalAttention2D):
        mask = LocalAttention2DNoShift(
            mask.width, mask.radius, q.requires_grad, seq_len=mask.seq_len
        )
    return flex.bind(mask, q, k, v, kernel_options={"BACKEND": "FLASH"})


BACKENDS: dict[str, Bind] = {"flex_flash": bind}
