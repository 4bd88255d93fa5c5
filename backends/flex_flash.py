"""FlexAttention on FlashAttention-4's kernels: kernel_options={"BACKEND": "FLASH"}.

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

import flash_attn.cute  # noqa: F401  what torch runs; where it is missing, its own message
from torch import Tensor

from backends import Call, flex
from backends.kernel import halves_on_cuda
from masks import Mask


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    halves_on_cuda("FlexAttention's FLASH backend", q)
    return flex.bind(mask, q, k, v, kernel_options={"BACKEND": "FLASH"})


BACKENDS = {"flex_flash": bind}
