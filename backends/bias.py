"""The mask as a tensor, for the libraries that take it so."""

from __future__ import annotations

import torch
from torch import Tensor

from masks import Mask


def additive_bias(mask: Mask, q: Tensor) -> Tensor:
    """[1 or B, 1, S, S] in q's dtype: 0 where a query may attend, else -inf.

    A query that sees no key gets a row of zeros, as a softmax over nothing is NaN in many
    kernels; `zero_empty_rows` takes its output away again.
    """
    allowed = mask.dense(q.device)
    empty = mask.empty_rows(q.device)
    if empty is not None:
        allowed |= empty
    return torch.zeros(allowed.shape, device=q.device, dtype=q.dtype).masked_fill_(
        ~allowed, -torch.inf
    )


def zero_empty_rows(mask: Mask, q: Tensor):
    """A function out -> out with zeros for queries that see no key; None where none is needed."""
    empty = mask.empty_rows(q.device)
    return None if empty is None else (lambda out: out.masked_fill(empty, 0))
