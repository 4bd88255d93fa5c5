"""Attention as its formula, with S x S scores: what others are checked against, and timed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.masks import Full, Mask


def additive_bias(mask: Mask, q: Tensor) -> Tensor:
    """[1 or B, 1, S, S] in q's dtype: 0 where a query may attend, else -inf."""
    allowed = mask.dense(q.device)
    bias = torch.zeros(allowed.shape, device=q.device, dtype=q.dtype)
    return bias.masked_fill_(~allowed, -torch.inf)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    group, scale = q.shape[1] // k.shape[1], 1 / math.sqrt(q.shape[-1])
    bias = None if isinstance(mask, Full) else additive_bias(mask, q)
    empty, form = mask.fully_masked_rows(q.device), "softmax(q @ k.T + bias) @ v"
    if empty is not None:
        # The softmax of a query that sees no key is NaN: let it see all, then take it away.
        bias = bias.masked_fill_(empty, 0)
        form += ", padding zeroed"

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if group > 1:  # each key/value head serves `group` query heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q * scale) @ k.mT
        if bias is not None:
            scores = scores + bias
        out = torch.softmax(scores, -1) @ v
        return out if empty is None else out.masked_fill(empty, 0)

    return BoundAttention(form, (q, k, v), forward)


BACKENDS = {"dense": bind}
