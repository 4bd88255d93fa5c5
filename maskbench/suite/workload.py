"""What a cell computes, and the tensors that it computes it on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from maskbench.masks import LastQueries, Mask
from maskbench.records import Phase
from maskbench.reference import Reference
from maskbench.suite.requested_masks import build_mask
from maskbench.suite.unchanged import Unchanged
from maskbench.suite.user_masks import MaskSize


@dataclass(frozen=True)
class Shape:
    """Batch, heads and head dimensions. `str()` gives the form used in node ids.

    `v_head_dim` is the head dimension of v and of the output; None if it is that of q.
    """

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int | None = None

    def __str__(self) -> str:
        grouped = f"kv{self.kv_heads}" if self.kv_heads != self.heads else ""
        of_v = f"v{self.v_head_dim}" if self.v_head_dim else ""
        return f"b{self.batch}h{self.heads}{grouped}d{self.head_dim}{of_v}"

    @property
    def out_dim(self) -> int:
        """The head dimension of v and of the output."""
        return self.v_head_dim or self.head_dim

    def fields(self) -> dict[str, int]:
        """The fields of a saved cell; `v_head_dim` only if it is not that of q."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Workload:
    """What is computed, whichever backend computes it."""

    mask: str  # the name of a mask of this run
    seq_len: int
    shape: Shape
    dtype: str  # "float16", "bfloat16" or "float32"
    device: str  # "cuda" or "cpu"
    phase: Phase
    q_len: int | None = None  # only the last queries; None for all

    def build_mask(self) -> Mask:
        """Build the mask. Raises ValueError if the mask does not exist at this length."""
        size = MaskSize(self.seq_len, self.shape.batch, self.shape.heads, self.device)
        mask = build_mask(self.mask, size)
        return mask if self.q_len is None else LastQueries(mask, self.q_len)

    def fields(self) -> dict[str, object]:
        """The fields of a saved cell that name the workload."""
        own = {"mask": self.mask, "direction": self.phase.value, "seq_len": self.seq_len}
        queries = {} if self.q_len is None else {"q_len": self.q_len}
        return {**own, **queries, **self.shape.fields(), "dtype": self.dtype}

    @property
    def lengths(self) -> str:
        """The lengths in the words of a title: S=8192, or S=8192 q=16."""
        return f"S={self.seq_len}" if self.q_len is None else f"S={self.seq_len} q={self.q_len}"

    def __str__(self) -> str:
        return f"{self.mask} {self.phase} {self.lengths}"


class Inputs(NamedTuple):
    """q [B, heads, Q, head_dim], k [B, kv_heads, S, head_dim], v [B, kv_heads, S, v_head_dim], and
    dout [B, heads, Q, v_head_dim], or None if no gradients are needed.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor | None

    def aliases(self) -> Inputs:
        """New tensors with the same memory: a backend's hooks, .grad and flags stay its own."""
        q, k, v = (t.detach().requires_grad_(t.requires_grad) for t in self[:3])
        return Inputs(q, k, v, None if self.dout is None else self.dout.detach())

    def named(self) -> dict[str, Tensor]:
        """The tensors by name, without a missing dout."""
        return {name: t for name, t in self._asdict().items() if t is not None}


def make_inputs(mask: Mask, shape: Shape, dtype: str, device: str, backward: bool) -> Inputs:
    """Draw normal tensors with a fixed seed; q, k and v require gradients if `backward`."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(heads: int, length: int, head_dim: int) -> Tensor:
        size = (shape.batch, heads, length, head_dim)
        return torch.randn(size, generator=generator, device=device, dtype=getattr(torch, dtype))

    q = normal(shape.heads, mask.q_len, shape.head_dim)
    k = normal(shape.kv_heads, mask.seq_len, shape.head_dim)
    v = normal(shape.kv_heads, mask.seq_len, shape.out_dim)
    for tensor in (q, k, v):
        tensor.requires_grad_(backward)
    return Inputs(q, k, v, normal(shape.heads, mask.q_len, shape.out_dim) if backward else None)


@dataclass(frozen=True)
class CheckedInputs:
    """Inputs with the reference results for them, and copies that show whether they changed."""

    inputs: Inputs
    reference: Reference
    originals: Unchanged


def make_inputs_with_reference(
    mask: Mask, shape: Shape, dtype: str, device: str, backward: bool
) -> CheckedInputs:
    """`make_inputs` with the reference results for them."""
    inputs = make_inputs(mask, shape, dtype, device, backward)
    return CheckedInputs(inputs, Reference(mask, *inputs), Unchanged(inputs.named()))


@lru_cache(maxsize=1)  # the backends of one workload run one after the other
def cached_inputs(workload: Workload) -> CheckedInputs:
    """The same tensors for every backend."""
    return make_inputs_with_reference(
        workload.build_mask(),
        workload.shape,
        workload.dtype,
        workload.device,
        workload.phase.needs_gradients,
    )
