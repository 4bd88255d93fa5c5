"""The reference: dense attention in float32 or better, row chunk by row chunk.

The error of a tensor is that of its worst row: |row - reference row| over the norm of the
reference row or the root mean square of all its rows' norms, whichever is larger. A wrong
key at the edge of a window shows in its row, however many rows are right.

A backend's error may be at most twice that of the dense computation in the same data type
on the same tensors, plus a floor of twice the data type's machine epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbench.masks import Mask

FACTOR, FLOOR_EPS = 2.0, 2.0
# Scores that are compared, counted over heads: more would take longer than the timing does.
SCORES = {"cuda": 2**30, "cpu": 2**23}
CHUNK = {"cuda": 2**27, "cpu": 2**23}  # scores that are held at a time


@dataclass(frozen=True)
class Comparison:
    """How far the output (and the gradients) of one call are from the reference."""

    of: str  # "out", "dq", "dk" or "dv": the one nearest to its bound, or beyond it
    error: float
    bound: float
    checked: str  # such as "16 of 128 heads"

    @property
    def within_tolerance(self) -> bool:
        return self.error <= self.bound  # False for NaN


def sample_heads(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, kv head) of the heads to compare: all, or a fixed sample spread over them."""
    batch, heads, seq_len, _ = q.shape
    pairs = batch * k.shape[1]
    scores_of_pair = heads // k.shape[1] * seq_len**2
    count = min(pairs, max(2, SCORES[q.device.type] // scores_of_pair))
    chosen = torch.linspace(0, pairs - 1, count).round().long()
    return chosen // k.shape[1], chosen % k.shape[1]


def gather_heads(tensor: Tensor, pairs: tuple[Tensor, Tensor], kv_heads: int) -> Tensor:
    """[B, heads, S, D] to the chosen [pairs, heads per kv head, S, D]."""
    batch, heads, seq_len, head_dim = tensor.shape
    grouped = tensor.detach().view(batch, kv_heads, heads // kv_heads, seq_len, head_dim)
    return grouped[pairs[0].to(tensor.device), pairs[1].to(tensor.device)]


def attention(mask: Mask, q, k, v, dout, batches: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """out, and with dout dq, dk, dv, computed in `dtype` by the formula.

    q, dout [P, heads per kv head, S, D], k, v [P, 1, S, D]; `batches` [P] says which batch
    element each is, for masks that differ. Holds a chunk of query rows at a time.
    """
    scale, seq_len = 1 / math.sqrt(q.shape[-1]), q.shape[-2]
    q, k, v = (t.to(dtype) for t in (q, k, v))
    result = {"out": torch.empty_like(q)}
    wide = torch.promote_types(dtype, torch.float32)  # where chunks are added up
    if dout is not None:
        dout = dout.to(dtype)
        result |= {"dq": torch.empty_like(q)}
        result |= {name: torch.zeros_like(t, dtype=wide) for name, t in (("dk", k), ("dv", v))}
    step = max(1, CHUNK[q.device.type] // (q.shape[0] * q.shape[1] * seq_len))
    for start in range(0, seq_len, step):
        rows = slice(start, min(start + step, seq_len))
        allowed = mask.dense_rows(rows.start, rows.stop, q.device)
        allowed = allowed[batches.to(q.device)] if len(allowed) > 1 else allowed
        scores = (q[:, :, rows] * scale) @ k.mT
        p = torch.softmax(scores.masked_fill_(~allowed, -torch.inf), -1)
        p = p.masked_fill_(~allowed, 0)  # a row that sees no key is zeros, not NaN
        out = p @ v
        result["out"][:, :, rows] = out
        if dout is None:
            continue
        do = dout[:, :, rows]
        ds = p * (do @ v.mT - (do * out).sum(-1, keepdim=True))
        result["dq"][:, :, rows] = ds @ k * scale
        result["dk"] += (ds.mT @ (q[:, :, rows] * scale)).to(wide).sum(1, keepdim=True)
        result["dv"] += (p.mT @ do).to(wide).sum(1, keepdim=True)
    return {name: t.to(dtype) for name, t in result.items()}


@contextmanager
def ieee_matmul() -> Iterator[None]:
    """Within it float32 is multiplied as that, not as TF32 or bfloat16.

    After it all is as it was: torch's older functions for it leave "ieee" where nothing was set,
    and as that is in the keys of torch.compile's caches, nothing compiled before is found again.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
    """
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


def worst_row_error(got: Tensor, reference: Tensor) -> float:
    """The error of the worst row, NaN where anything is not finite."""
    norms = reference.norm(dim=-1)
    scale = norms.clamp(min=norms.square().mean().sqrt().clamp(min=1e-30))
    worst = ((got.to(reference.dtype) - reference).norm(dim=-1) / scale).amax()
    return float(worst) if bool(got.isfinite().all()) else math.nan


class Reference:
    """What a mask gives on these tensors, and how far off the data type alone puts it."""

    def __init__(self, mask: Mask, q: Tensor, k: Tensor, v: Tensor, dout: Tensor | None):
        self.kv_heads, self.pairs = k.shape[1], sample_heads(q, k)
        self.checked = f"{len(self.pairs[0]) * q.shape[1] // k.shape[1]} of "
        self.checked += f"{q.shape[0] * q.shape[1]} heads"
        reference_dtype = torch.float64 if q.dtype == torch.float32 else torch.float32
        chosen = [None if t is None else self._take(t) for t in (q, k, v, dout)]
        with ieee_matmul():
            self.exact = attention(mask, *chosen, self.pairs[0], reference_dtype)
            plain = attention(mask, *chosen, self.pairs[0], q.dtype)
        floor = FLOOR_EPS * torch.finfo(q.dtype).eps
        self.bounds = {
            n: FACTOR * worst_row_error(plain[n], t) + floor for n, t in self.exact.items()
        }

    def _take(self, tensor: Tensor) -> Tensor:
        return gather_heads(tensor, self.pairs, self.kv_heads)

    def compare(self, results: dict[str, Tensor]) -> Comparison:
        """`results` maps "out" (and "dq", "dk", "dv") to [B, heads, S, D] tensors."""
        found = []
        for name, exact in self.exact.items():
            found.append(
                (worst_row_error(self._take(results[name]), exact), self.bounds[name], name)
            )
        nan_results = [f for f in found if math.isnan(f[0])]
        worst = nan_results[0] if nan_results else max(found, key=lambda f: f[0] / f[1])
        return Comparison(worst[2], worst[0], worst[1], self.checked)
