"""What a cell computes, and the tensors that it computes it on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from maskbench.masks import Mask
from maskbench.records import Phase
from maskbench.reference import Reference
from maskbench.suite.unchanged import Unchanged
from masks import PATTERNS


@dataclass(frozen=True)
class Shape:
    """Batch, heads and head dimension. `str()` gives the form used in node ids."""

    batch: int
    heads: int
    kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        grouped = f"kv{self.kv_heads}" if self.kv_heads != self.heads else ""
        return f"b{self.batch}h{self.heads}{grouped}d{self.head_dim}"


@dataclass(frozen=True)
class Workload:
    """What is computed, whichever backend computes it."""

    mask: str  # a name in PATTERNS
    seq_len: int
    shape: Shape
    dtype: str  # "float16", "bfloat16" or "float32"
    device: str  # "cuda" or "cpu"
    phase: Phase

    def build_mask(self) -> Mask:
        """Build the mask. Raises ValueError if the mask does not exist at this length."""
        return PATTERNS[self.mask](seq_len=self.seq_len, batch=self.shape.batch)

    def fields(self) -> dict[str, object]:
        """The fields of a saved cell that name the workload."""
        own = {"mask": self.mask, "direction": self.phase.value, "seq_len": self.seq_len}
        return {**own, **asdict(self.shape), "dtype": self.dtype}

    def __str__(self) -> str:
        return f"{self.mask} {self.phase} S={self.seq_len}"


class Inputs(NamedTuple):
    """q [B, heads, S, head_dim], k and v [B, kv_heads, S, head_dim], dout like q.

    dout is None if no gradients are needed.
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

    def normal(heads: int) -> Tensor:
        size = (shape.batch, heads, mask.seq_len, shape.head_dim)
        return torch.randn(size, generator=generator, device=device, dtype=getattr(torch, dtype))

    q, k, v = (normal(n) for n in (shape.heads, shape.kv_heads, shape.kv_heads))
    for tensor in (q, k, v):
        tensor.requires_grad_(backward)
    return Inputs(q, k, v, normal(shape.heads) if backward else None)


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


@lru_cache(maxsize=64)
def mask_statistics(mask: str, seq_len: int, batch: int) -> dict[str, float]:
    """How sparse a mask is.

    "area" is the exact number of attended pairs of one head over the batch, "density" its share of
    all pairs, and "block_density" the share of 128 x 128 blocks that have an attended pair.
    """
    built = PATTERNS[mask](seq_len=seq_len, batch=batch)
    area = built.area(batch)
    partial, full = built.partial_and_full_blocks("cpu", (128, 128))
    touched = (partial | full).float().mean().item()
    return {"area": area, "density": area / (batch * seq_len**2), "block_density": touched}
