"""FlexAttention, compiled, with its default kernel options (Triton on CUDA, C++ on the CPU).

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from maskbench.attention import BoundAttention, Unsupported
from maskbench.masks import Full, Mask


def attend(q, k, v, block_mask, grouped, kernel_options):
    # The body is traced once and never run by Python, unless torch.compile gave up (after
    # recompile_limit recompiles, for one) and fell back to eager, 5 to 50 times slower.
    if not torch.compiler.is_compiling():
        raise RuntimeError(
            "FlexAttention fell back to eager: torch.compile did not compile this call"
        )
    return flex_attention(
        q, k, v, block_mask=block_mask, enable_gqa=grouped, kernel_options=kernel_options
    )


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile uses on a CPU; None if there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def bind(
    mask: Mask, q: Tensor, k: Tensor, v: Tensor, kernel_options: dict | None = None
) -> BoundAttention:
    if q.device.type == "cpu" and q.requires_grad:
        raise Unsupported("FlexAttention does not support backward on CPU.")  # torch's sentence
    if q.device.type == "cpu" and not cpp_compiler():
        raise Unsupported("FlexAttention on a CPU needs a C++ compiler: no g++ or clang++ found")
    if q.device.type == "cuda" and q.shape[-1] < 16:
        raise Unsupported("FlexAttention on CUDA needs a head_dim of 16 or more")
    # Every cell starts from an empty cache, so that no cell meets the recompile limit, and
    # static shapes, so that none gets a kernel for dynamic ones.
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, dynamic=False)
    # As a user has it: no block mask where everything attends.
    block_mask = None if isinstance(mask, Full) else mask.block_mask(q.device)
    grouped = q.shape[1] != k.shape[1]

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Private, as torch has no public switch (seen on 2.11 and 2.13): without it the
        # compiled backward frees what it saved and cannot be run again on one forward.
        with torch._functorch.config.patch(donated_buffer=False):
            return compiled(q, k, v, block_mask, grouped, kernel_options)

    return BoundAttention(_form(block_mask, kernel_options), (q, k, v), forward)


def _form(block_mask, kernel_options) -> str:
    form = "no mask" if block_mask is None else "block_mask {}x{}".format(*block_mask.BLOCK_SIZE)
    return ", ".join([form, *(f"{name}={value}" for name, value in (kernel_options or {}).items())])


BACKENDS = {"flex": bind}
