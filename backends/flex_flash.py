"""FlexAttention on FlashAttention-4's kernels: kernel_options={"BACKEND": "FLASH"}.

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import flash_attn.cute  # noqa: F401  what torch runs; where it is missing, its own message
from torch import Tensor

from backends import Call, flex
from backends.kernel import halves_on_cuda
from masks import LocalAttention2D, Mask


@dataclass(frozen=True)
class Unshifted(LocalAttention2D):
    """The 2-D mask without a shift, which CuTe's vectors lack (seen on 4.0.0b36).

    Forward on an H200 (B8 H16 S4096 D64 float16) this took 0.73 ms and divisions 0.83; in
    Triton's kernel shifts took 0.62 and this 0.76.
    """

    def mask_mod(self, device):
        width, radius, low_bits = self.width, self.radius, self.width - 1
        if width & low_bits:
            return super().mask_mod(device)

        def mod(b, h, q, k):
            column, k_column = q & low_bits, k & low_bits
            row, k_row, rows = q - column, k - k_column, radius * width  # first pixels of rows
            near = (k_row >= row - rows) & (k_row <= row + rows)
            return near & (k_column >= column - radius) & (k_column <= column + radius)

        return mod


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    halves_on_cuda("FlexAttention's FLASH backend", q)
    if isinstance(mask, LocalAttention2D):
        mask = Unshifted(mask.width, mask.radius, seq_len=mask.seq_len)
    return flex.bind(mask, q, k, v, kernel_options={"BACKEND": "FLASH"})


BACKENDS = {"flex_flash": bind}
