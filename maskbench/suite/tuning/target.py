"""What the candidates of a workload depend on, from this machine and torch."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions

from maskbench.backends import registry
from maskbench.backends.flex_option_checks import blocks_are_contiguous, rows_are_safe
from maskbench.masks import Full, Mask
from maskbench.suite.tuning.candidates import Target
from maskbench.suite.workload import Workload


def target_of(workload: Workload, mask: Mask) -> Target:
    """The target of a workload. What the mask allows is computed on first use."""
    backward, device = workload.phase.needs_gradients, workload.device

    @cache
    def block_mask(size: tuple[int, int]) -> BlockMask | None:
        return None if isinstance(mask, Full) else mask.block_mask(device, size)

    return Target(
        device=device,
        capability=torch.cuda.get_device_capability() if device == "cuda" else (0, 0),
        backward=backward,
        is_half=getattr(torch, workload.dtype).itemsize == 2,
        head_dim=max(workload.shape.head_dim, workload.shape.out_dim),
        q_len=mask.q_len,
        known=frozenset(FlexKernelOptions.__annotations__),
        has_flash=device == "cuda" and _has_flash(),
        has_block_mask=not isinstance(mask, Full),
        rows_are_safe=cache(lambda size, tile: rows_are_safe(block_mask(size), tile)),
        blocks_are_contiguous=cache(lambda size: blocks_are_contiguous(block_mask(size), backward)),
    )


def _has_flash() -> bool:
    try:
        registry.load("flex_flash")
    except registry.BackendUnavailable:
        return False
    return True
