"""The reference: dense attention in float64, computed in chunks of query rows.

The error of a tensor is that of its worst row: |row - reference row| divided by the norm of the
reference row, or by the root mean square of all rows' norms if that is larger. One wrong key at
the edge of a window shows in its row, however many rows are right.

The error of a backend may be at most twice that of the dense computation in the same data type
on the same tensors, plus twice the machine epsilon of the data type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskbench.masks import Mask
from maskbench.masks.shapes import require_shapes

# Bound of an error: ERROR_FACTOR times the dense computation's, plus FLOOR_EPS machine epsilons.
ERROR_FACTOR, FLOOR_EPS = 2.0, 2.0
# Most scores that are compared, over all heads. More would take longer than the timing.
MAX_SCORES = {"cuda": 2**30, "cpu": 2**23}
# Most numbers in the keys of the heads that are compared. They are held in float64.
MAX_KEY_NUMBERS = {"cuda": 2**29, "cpu": 2**27}
# Scores that are in memory at a time. float64 gets half as many, so that they take as much memory.
CHUNK_SCORES = {"cuda": 2**27, "cpu": 2**23}


@dataclass(frozen=True)
class Comparison:
    """How far the output (and the gradients) of one call are from the reference.

    Parameters
    ----------
    errors
        The relative error of each tensor, by name: "out", and for a backward also "dq", "dk" and
        "dv". NaN if anything in the tensor is not finite.
    bounds
        The largest errors that are accepted.
    dense_errors
        The errors of the dense computation in the same data type.
    checked
        Which heads were compared, such as "16 of 128 heads".
    """

    errors: dict[str, float]
    bounds: dict[str, float]
    dense_errors: dict[str, float]
    checked: str

    @property
    def tensor(self) -> str:
        """The tensor with the largest error relative to its bound; one with a NaN comes first."""

        def order(name: str) -> tuple[bool, float]:
            error = self.errors[name]
            return math.isnan(error), error / self.bounds[name]

        return max(self.errors, key=order)

    @property
    def error(self) -> float:
        """The error of `tensor`."""
        return self.errors[self.tensor]

    @property
    def bound(self) -> float:
        """The bound of `tensor`."""
        return self.bounds[self.tensor]

    @property
    def within_tolerance(self) -> bool:
        return self.error <= self.bound  # False for NaN

    def fields(self) -> dict[str, object]:
        """The fields of a saved cell."""
        return {
            "error": self.error,
            "error_bound": self.bound,
            "error_of": self.tensor,
            "checked": self.checked,
            "errors": self.errors,
            "error_bounds": self.bounds,
            "dense_errors": self.dense_errors,
        }


def sample_heads(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(batch index, kv head index) of the heads to compare: all, or an evenly spaced sample."""
    (batch, heads, q_len, _), (_, kv_heads, seq_len, head_dim) = q.shape, k.shape
    pairs, device = batch * kv_heads, q.device.type
    by_scores = MAX_SCORES[device] // (heads // kv_heads * q_len * seq_len)
    by_memory = MAX_KEY_NUMBERS[device] // (seq_len * head_dim)
    count = min(pairs, max(2, min(by_scores, by_memory)))
    chosen = torch.linspace(0, pairs - 1, count).round().long()
    return chosen // kv_heads, chosen % kv_heads


def gather_heads(tensor: Tensor, pairs: tuple[Tensor, Tensor], kv_heads: int) -> Tensor:
    """[B, heads, S, D] to [pairs, heads per kv head, S, D]: the heads of `sample_heads`."""
    grouped = torch.unflatten(tensor.detach(), 1, (kv_heads, -1))
    return grouped[pairs[0].to(tensor.device), pairs[1].to(tensor.device)]


def attention(
    mask: Mask,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor | None,
    pairs: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Attention by its formula, in `dtype`, one chunk of query rows at a time.

    Parameters
    ----------
    q
        [P, heads per kv head, Q, D], where P counts pairs of batch element and kv head.
    k
        [P, 1, S, D].
    v
        [P, 1, S, Dv].
    dout
        [P, heads per kv head, Q, Dv].
    pairs
        [P] each: the batch element and the kv head of each pair, for masks that differ by them.

    Returns
    -------
    dict
        "out", and with `dout` also "dq", "dk" and "dv", in `dtype`.
    """
    scale, (q_len, seq_len) = 1 / math.sqrt(q.shape[-1]), (q.shape[-2], k.shape[-2])
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    result = {"out": q.new_empty(*q.shape[:3], v.shape[-1])}
    sum_dtype = torch.promote_types(dtype, torch.float32)  # of the sums over chunks
    if dout is not None:
        dout = dout.to(dtype)
        result["dq"] = torch.empty_like(q)
        result["dk"] = torch.zeros_like(k, dtype=sum_dtype)
        result["dv"] = torch.zeros_like(v, dtype=sum_dtype)
    # A mask that differs by batch element or head is evaluated for all of them.
    mask_rows = mask.dense_shape[0] * mask.dense_shape[1] * seq_len
    chunk = CHUNK_SCORES[q.device.type] * 4 // max(4, dtype.itemsize)
    step = max(1, chunk // max(q.shape[0] * q.shape[1] * seq_len, mask_rows))
    for start in range(0, q_len, step):
        rows = slice(start, min(start + step, q_len))
        allowed = _rows_of_pairs(
            mask.dense_rows(rows.start, rows.stop, q.device), pairs, q.shape[1]
        )
        scores = _product(q[:, :, rows] * scale, k.mT)
        p = torch.softmax(scores.masked_fill_(~allowed, -torch.inf), -1)
        p = p.masked_fill_(~allowed, 0)  # a row that sees no key is zeros, not NaN
        out = _product(p, v)
        result["out"][:, :, rows] = out
        if dout is None:
            continue
        do = dout[:, :, rows]
        ds = p * (_product(do, v.mT) - (do * out).sum(-1, keepdim=True))
        result["dq"][:, :, rows] = _product(ds, k) * scale
        result["dk"] += (ds.mT @ (q[:, :, rows] * scale)).to(sum_dtype).sum(1, keepdim=True)
        result["dv"] += (p.mT @ do).to(sum_dtype).sum(1, keepdim=True)
    return {name: t.to(dtype) for name, t in result.items()}


def _product(rows: Tensor, shared: Tensor) -> Tensor:
    """[P, heads, R, n] @ [P, 1, n, m], where the heads share a matrix: [P, heads, R, m].

    torch.matmul would first copy the matrix for each head.
    """
    return (rows.flatten(1, 2) @ shared.squeeze(1)).view(*rows.shape[:3], -1)


def _rows_of_pairs(allowed: Tensor, pairs: tuple[Tensor, Tensor], group: int) -> Tensor:
    """bool [1 or B, 1 or heads, rows, S] to [1 or P, 1 or `group`, rows, S]."""
    batches, kv_heads = (index.to(allowed.device) for index in pairs)
    if allowed.shape[1] > 1:
        by_kv_head = torch.unflatten(allowed, 1, (-1, group))
        return by_kv_head[batches if len(allowed) > 1 else 0 * batches, kv_heads]
    return allowed[batches] if len(allowed) > 1 else allowed


@contextmanager
def ieee_matmul() -> Iterator[None]:
    """Multiply float32 in float32 inside this context, not in TF32 or bfloat16.

    The settings are restored exactly. torch's older functions for this leave "ieee" where nothing
    was set. The setting is in the keys of torch.compile's caches, so kernels that were compiled
    before would not be found again.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
    """
    mkldnn: Any = torch.backends.mkldnn  # torch does not declare the type of its `matmul`
    settings = torch.backends.cuda.matmul, mkldnn.matmul
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def row_scale(reference: Tensor) -> Tensor:
    """The divisor of each row's error: its norm, or the root mean square of all norms if larger.

    `reference` is [..., D], the result [...].
    """
    norms: Tensor = reference.norm(dim=-1)
    return norms.clamp(min=norms.square().mean().sqrt().clamp(min=1e-30))


def worst_row_error(result: Tensor, reference: Tensor) -> float:
    """The relative error of the worst row; NaN if anything in `result` is not finite."""
    difference = (result.to(reference.dtype) - reference).norm(dim=-1)
    worst = (difference / row_scale(reference)).amax()
    return float(worst) if bool(result.isfinite().all()) else math.nan


class Reference:
    """The exact result for a mask and tensors, and the error that their data type causes.

    Parameters
    ----------
    q
        [B, heads, Q, head_dim].
    k
        [B, kv_heads, S, head_dim].
    v
        [B, kv_heads, S, v_head_dim].
    dout
        [B, heads, Q, v_head_dim]; without it there are no gradients.

    Raises
    ------
    ValueError
        If the shapes of the tensors do not fit the mask.
    """

    def __init__(self, mask: Mask, q: Tensor, k: Tensor, v: Tensor, dout: Tensor | None) -> None:
        require_shapes(mask, q, k, v)
        self.kv_heads, self.pairs = k.shape[1], sample_heads(q, k)
        compared = len(self.pairs[0]) * q.shape[1] // k.shape[1]
        self.checked = f"{compared} of {q.shape[0] * q.shape[1]} heads"
        chosen_q, chosen_k, chosen_v = self._gather(q), self._gather(k), self._gather(v)
        chosen_dout = None if dout is None else self._gather(dout)
        operands = (mask, chosen_q, chosen_k, chosen_v, chosen_dout, self.pairs)
        with ieee_matmul():
            self.exact = attention(*operands, torch.float64)
            same_dtype = attention(*operands, q.dtype)
        self.dense_errors = {
            name: worst_row_error(same_dtype[name], exact) for name, exact in self.exact.items()
        }
        floor = FLOOR_EPS * torch.finfo(q.dtype).eps
        self.bounds = {
            name: ERROR_FACTOR * error + floor for name, error in self.dense_errors.items()
        }

    def _gather(self, tensor: Tensor) -> Tensor:
        return gather_heads(tensor, self.pairs, self.kv_heads)

    def compare(self, results: dict[str, Tensor]) -> Comparison:
        """Compare results with the reference.

        `results` maps "out" (and "dq", "dk", "dv") to tensors of the shape of dout, q, k and v.
        """
        errors = {
            name: worst_row_error(self._gather(results[name]), exact)
            for name, exact in self.exact.items()
        }
        return Comparison(errors, self.bounds, self.dense_errors, self.checked)
