"""The memory layouts of the FlashAttention family.

`pack` converts a tensor from [B, heads, S, head_dim] to the layout, `unpack` converts it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maskbench.attention import BoundAttention, Formulation
from maskbench.varlen.ops import Attend


class Layout(Protocol):
    """Converts tensors to a library's layout and back."""

    def pack(self, tensor: Tensor) -> Tensor: ...

    def unpack(self, tensor: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BSHDLayout:
    """[B, S, heads, head_dim]."""

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous()

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)


@dataclass(frozen=True)
class THDLayout:
    """[B * S, heads, head_dim]: the tokens of all batch elements, one element after another."""

    batch: int

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().flatten(0, 1)

    def unpack(self, tensor: Tensor) -> Tensor:
        return torch.unflatten(tensor, 0, (self.batch, -1)).transpose(1, 2)


@dataclass(frozen=True)
class StridedLayout:
    """[B, S / n, n * heads, head_dim]: tokens whose positions are equal modulo n share a sequence.

    The memory is that of [B, S, heads, head_dim].
    """

    n: int

    def pack(self, tensor: Tensor) -> Tensor:
        by_token = tensor.transpose(1, 2).contiguous()
        return torch.unflatten(by_token, 1, (-1, self.n)).flatten(2, 3)

    def unpack(self, tensor: Tensor) -> Tensor:
        return torch.unflatten(tensor, 2, (self.n, -1)).flatten(1, 2).transpose(1, 2)


@dataclass(frozen=True)
class TokenLayout:
    """[chosen tokens, heads, head_dim]; `unpack` writes zeros for the other tokens.

    Parameters
    ----------
    tokens
        int64 [chosen tokens]: which of the B * S tokens they are, each once, in any order.
    batch, seq_len
        B and S.
    """

    tokens: Tensor
    batch: int
    seq_len: int

    def pack(self, tensor: Tensor) -> Tensor:
        return THDLayout(self.batch).pack(tensor).index_select(0, self.tokens)

    def unpack(self, tensor: Tensor) -> Tensor:
        padded = tensor.new_zeros(self.batch * self.seq_len, *tensor.shape[1:])
        return THDLayout(self.batch).unpack(padded.index_copy(0, self.tokens, tensor))


def bind_layout(
    formulation: Formulation, attend: Attend, layout: Layout, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """Bind `attend` to q, k, v [B, heads, S, head_dim], converted to `layout`."""

    def pack_leaf(tensor: Tensor) -> Tensor:
        return layout.pack(tensor.detach()).requires_grad_(tensor.requires_grad)

    inputs = pack_leaf(q), pack_leaf(k), pack_leaf(v)
    return BoundAttention(formulation, inputs, attend, layout.pack, layout.unpack)
