"""The memory layouts that FlashAttention's family takes.

`pack` converts a tensor from [B, heads, S, head_dim] to the layout, `unpack` converts it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from maskbench.attention import BoundAttention
from maskbench.varlen.ops import Attend


@dataclass(frozen=True)
class BSHDLayout:
    """[B, S, heads, head_dim]."""

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous()

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)


@dataclass(frozen=True)
class THDLayout:
    """[B * S, heads, head_dim]: all batch elements' tokens, one after the other."""

    batch: int

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().flatten(0, 1)

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.batch, -1)).transpose(1, 2)


@dataclass(frozen=True)
class StridedLayout:
    """[B, S / n, n * heads, head_dim]: as a batch in memory, tokens n apart as one sequence."""

    n: int

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().unflatten(1, (-1, self.n)).flatten(2, 3)

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(2, (self.n, -1)).flatten(1, 2).transpose(1, 2)


@dataclass(frozen=True)
class UnpaddedLayout:
    """[valid tokens, heads, head_dim]; unpack gives padding zeros."""

    tokens: Tensor  # of the B * S tokens, those that are no padding
    batch: int
    seq_len: int

    def pack(self, tensor: Tensor) -> Tensor:
        return THDLayout(self.batch).pack(tensor).index_select(0, self.tokens)

    def unpack(self, tensor: Tensor) -> Tensor:
        whole = tensor.new_zeros(self.batch * self.seq_len, *tensor.shape[1:])
        return THDLayout(self.batch).unpack(whole.index_copy(0, self.tokens, tensor))


def bind_layout(
    form: str, forward: Attend, layout, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """The call on q, k, v [B, heads, S, head_dim], brought into `layout`, one of the above."""
    packed = (layout.pack(t.detach()).requires_grad_(t.requires_grad) for t in (q, k, v))
    return BoundAttention(form, tuple(packed), forward, layout.pack, layout.unpack)
