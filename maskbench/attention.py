"""The contract between a backend and the suite: `BoundAttention` and `Unsupported`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TypeAlias

from torch import Tensor

from maskbench.masks import Mask
from maskbench.masks.shapes import require_shapes


class Unsupported(Exception):
    """The backend cannot compute this mask on these tensors. The message says why."""


@dataclass(frozen=True)
class Formulation:
    """How a mask is expressed in a library's interface.

    Parameters
    ----------
    id
        A stable identifier, such as "is_causal" or "block_mask:128x128". Saved times are
        comparable only if their ids are equal. It names block sizes and kernel options. It does
        not name what follows from the mask, such as the bounds of a window.
    text
        A description for readers, in a few words.
    """

    id: str
    text: str


def identity(tensor: Tensor) -> Tensor:
    """The layout change of a library that takes [B, heads, S, head_dim]."""
    return tensor


@dataclass(frozen=True)
class BoundAttention:
    """An attention call that is ready to run: `forward` does nothing but attention.

    Parameters
    ----------
    formulation
        How the mask is expressed in the library's interface.
    inputs
        q, k and v in the library's layout. They require gradients if the backend was bound
        with tensors that do.
    forward
        Called with `inputs`; returns the output in the library's layout. Differentiable.
    pack, unpack
        Convert a tensor from [B, heads, S, head_dim] to the library's layout, and back.
    """

    formulation: Formulation
    inputs: tuple[Tensor, Tensor, Tensor]
    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    pack: Callable[[Tensor], Tensor] = identity
    unpack: Callable[[Tensor], Tensor] = identity


Bind: TypeAlias = Callable[[Mask, Tensor, Tensor, Tensor], BoundAttention]
"""bind(mask, q, k, v): q is [B, heads, Q, head_dim], k is [B, kv_heads, S, head_dim] and v is
[B, kv_heads, S, v_head_dim]. Raises Unsupported."""


def check_shapes(bind: Bind) -> Bind:
    """The same function, but it raises ValueError for tensors that are not of the mask."""

    @wraps(bind)
    def checked(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
        require_shapes(mask, q, k, v)
        return bind(mask, q, k, v)

    return checked
