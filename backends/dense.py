"""Attention as its formula, with S x S scores: what others are checked against, and timed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends import Call
from backends.bias import additive_bias, zero_empty_rows
from masks import Full, Mask


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Call:
    group, scale = q.shape[1] // k.shape[1], 1 / math.sqrt(q.shape[-1])
    bias = None if isinstance(mask, Full) else additive_bias(mask, q)
    finish = zero_empty_rows(mask, q)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if group > 1:  # each key/value head serves `group` query heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q * scale) @ k.mT
        if bias is not None:
            scores = scores + bias
        out = torch.softmax(scores, -1) @ v
        return out if finish is None else finish(out)

    return Call("softmax(q @ k.T + bias) @ v", (q, k, v), forward)


BACKENDS = {"dense": bind}
