"""Attention by its formula, with the S x S scores held in memory. The baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Formulation, Unsupported
from maskbench.masks import Mask
from maskbench.masks.equal_forms import sees_all_keys, simplify

CUDA_SHARE = 1 / 4  # of the device's memory, for a bias
CPU_LIMIT = 4 * 2**30  # bytes


def bias_limit(device: torch.device) -> float:
    """The most bytes that a dense bias may take on `device`."""
    if device.type != "cuda":
        return CPU_LIMIT
    return CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory


def additive_bias(mask: Mask, q: Tensor) -> Tensor:
    """[1 or B, 1 or H, Q, S] in q's dtype: 0 where a query may attend, -inf elsewhere.

    Raises
    ------
    Unsupported
        If the bias would take more than a quarter of the GPU's memory, or 4 GiB on a CPU.
    """
    size, limit = math.prod(mask.dense_shape) * q.element_size(), bias_limit(q.device)
    if size > limit:
        raise Unsupported(
            f"a dense bias of {size / 2**30:.1f} GiB; the limit is {limit / 2**30:.1f} GiB"
        )
    allowed = mask.dense(q.device)
    bias = torch.zeros(allowed.shape, device=q.device, dtype=q.dtype)
    return bias.masked_fill_(~allowed, -torch.inf)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    group, scale = q.shape[1] // k.shape[1], 1 / math.sqrt(q.shape[-1])
    masked_rows, text = mask.fully_masked_rows(q.device), "softmax(q @ k.T + bias) @ v"
    bias = None if sees_all_keys(simplify(mask)) else additive_bias(mask, q)
    if masked_rows is not None:
        text += ", padding zeroed"
        # The softmax of a row of -inf is NaN: the row attends to all keys and is zeroed later.
        if bias is not None:
            bias = bias.masked_fill_(masked_rows, 0)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if group > 1:  # each key/value head serves `group` query heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q * scale) @ k.mT
        if bias is not None:
            scores = scores + bias
        out = torch.softmax(scores, -1) @ v
        return out if masked_rows is None else out.masked_fill(masked_rows, 0)

    return BoundAttention(Formulation("dense", text), (q, k, v), forward)


BACKENDS: dict[str, Bind] = {"dense": bind}
