"""The contract between a backend and the suite: `BoundAttention` and `Unsupported`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from maskbench.masks import Mask


class Unsupported(Exception):
    """The backend cannot compute this mask on these tensors. The message says why."""


def identity(tensor: Tensor) -> Tensor:
    """The layout change of a library that takes [B, heads, S, head_dim]."""
    return tensor


@dataclass(frozen=True)
class BoundAttention:
    """An attention call that is ready to run: only the attention itself is left to do.

    Parameters
    ----------
    form
        How the library is told the mask, in a few words.
    inputs
        q, k and v in the library's layout. They require gradients if the backend was bound
        with tensors that do.
    forward
        Called with `inputs`; returns the output in the library's layout. Differentiable.
    pack, unpack
        Convert a tensor from [B, heads, S, head_dim] to the library's layout, and back.
    """

    form: str
    inputs: tuple[Tensor, Tensor, Tensor]
    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    pack: Callable[[Tensor], Tensor] = identity
    unpack: Callable[[Tensor], Tensor] = identity


Bind: TypeAlias = Callable[[Mask, Tensor, Tensor, Tensor], BoundAttention]
"""bind(mask, q, k, v): q is [B, heads, S, head_dim], k and v are [B, kv_heads, S, head_dim].
Raises Unsupported."""
