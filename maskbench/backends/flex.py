"""FlexAttention, compiled, with its default kernel options (Triton on CUDA, C++ on the CPU).

https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.masks import Full, Mask

NO_BACKWARD_ON_CPU = "FlexAttention does not support backward on CPU."  # torch's message


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: BlockMask | None,
    enable_gqa: bool,
    kernel_options: Any,
) -> Any:
    # torch.compile traces this body once and Python never runs it. If Python does, torch.compile
    # gave up (for example after recompile_limit recompiles) and fell back to eager, which is 5
    # to 50 times slower.
    if not torch.compiler.is_compiling():
        raise RuntimeError(
            "FlexAttention fell back to eager: torch.compile did not compile this call"
        )
    return flex_attention(
        q, k, v, block_mask=block_mask, enable_gqa=enable_gqa, kernel_options=kernel_options
    )


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile uses on a CPU; None if there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def bind(
    mask: Mask,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_options: Mapping[str, object] | None = None,
) -> BoundAttention:
    """Compile FlexAttention for one mask; `kernel_options` are passed to it as they are."""
    # Every cell starts from an empty cache, so that no cell meets the recompile limit.
    torch.compiler.reset()
    return compile_call(mask, q, k, v, kernel_options)


def compile_call(
    mask: Mask,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_options: Mapping[str, object] | None = None,
    block_size: tuple[int, int] = (128, 128),
    mode: str | None = None,
) -> BoundAttention:
    """As `bind`, but calls that were compiled before stay compiled.

    torch.compile keeps up to 8 calls (its recompile_limit). One more raises an error.

    Parameters
    ----------
    block_size
        The queries and keys of a block of the block mask.
    mode
        The mode of torch.compile.
    """
    if q.device.type == "cpu" and q.requires_grad:
        raise Unsupported(NO_BACKWARD_ON_CPU)
    if q.device.type == "cpu" and not cpp_compiler():
        raise Unsupported("FlexAttention on a CPU needs a C++ compiler: no g++ or clang++ found")
    if q.device.type == "cpu" and _decodes_to_nan(mask, q, k):
        raise Unsupported(
            "FlexAttention's kernel for one query on a CPU gives nan where it sees no key"
        )
    if q.device.type == "cuda" and q.shape[-1] < 16:
        raise Unsupported("FlexAttention on CUDA needs a head_dim of 16 or more")
    # Shapes are static, so that no cell gets a kernel for dynamic shapes.
    compiled = torch.compile(attend, fullgraph=True, dynamic=False, mode=mode)
    # Users pass no block mask for full attention.
    block_mask = None if isinstance(mask, Full) else mask.block_mask(q.device, block_size)
    enable_gqa = q.shape[1] != k.shape[1]

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Private, because torch has no public switch (seen on 2.11 and 2.13). Without it the
        # compiled backward frees what it saved and cannot run again on the same forward.
        with torch._functorch.config.patch(donated_buffer=False):
            out: Tensor = compiled(q, k, v, block_mask, enable_gqa, kernel_options)
        return out

    return BoundAttention(_formulation(block_mask, kernel_options or {}), (q, k, v), forward)


def _decodes_to_nan(mask: Mask, q: Tensor, k: Tensor) -> bool:
    """Whether torch's CPU kernel for one query would meet one that sees no key (torch 2.13).

    torch chooses that kernel from 512 keys for each batch element on.
    """
    if q.shape[2] != 1 or k.shape[2] < 512 * q.shape[0]:
        return False
    rows = mask.fully_masked_rows(q.device)
    return rows is not None and bool(rows.any())


def _formulation(block_mask: BlockMask | None, kernel_options: Mapping[str, object]) -> Formulation:
    if block_mask is None:
        id_parts, text_parts = ["no_mask"], ["no mask"]
    else:
        size = "{}x{}".format(*block_mask.BLOCK_SIZE)
        id_parts, text_parts = [f"block_mask:{size}"], [f"block_mask {size}"]
    options = [f"{name}={value}" for name, value in kernel_options.items()]
    return Formulation(",".join(id_parts + options), ", ".join(text_parts + options))


BACKENDS: dict[str, Bind] = {"flex": bind}
