"""What a library of the FlashAttention family provides: `FlashLibrary`, which makes `AttentionOp`s.

An op attends within a window (left, right), where None means unbounded. It takes a batch
[B, S, heads, head_dim] or packed sequences [tokens, heads, head_dim]. If there are fewer queries
than keys, the window is aligned at the bottom right: the last query is at the last key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from maskbench.attention import Formulation, Unsupported

Window: TypeAlias = tuple[int | None, int | None]
FULL: Window = (None, None)
CAUSAL: Window = (None, 0)

# The log-sum-exp of a query that must not contribute to a gradient: its probabilities are
# exp(score - EXCLUDED_LSE) = 0.
EXCLUDED_LSE = 1e30

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
ForwardResult: TypeAlias = tuple[Tensor, Tensor]
"""(out, lse): the output, and the log-sum-exp of each row's scores."""
Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""dq, dk and dv."""


@dataclass(frozen=True)
class AttentionOp:
    """One call of a library.

    The log-sum-exp (lse) is float32 [B, heads, S] for a batch and [heads, tokens] for packed
    sequences.

    Parameters
    ----------
    formulation
        How the window is expressed in the library's interface.
    attend
        (q, k, v) -> out: the public, differentiable call.
    forward
        (q, k, v) -> (out, lse): for calls that are merged.
    backward
        (dout, q, k, v, out, lse) -> (dq, dk, dv). If this call computed only a part of a row,
        `out` and `lse` may be those of the whole row; the gradients are then those of the part.
    """

    formulation: Formulation
    attend: Attend
    forward: Callable[[Tensor, Tensor, Tensor], ForwardResult]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Gradients]


@dataclass(frozen=True)
class FlashLibrary:
    """The two kinds of calls of a library.

    Parameters
    ----------
    batched
        (queries, keys, window) -> op, where all sequences of a batch have the same length.
    packed
        (query lengths, key lengths, window) -> op, with one length per packed sequence.
    """

    batched: Callable[[int, int, Window], AttentionOp]
    packed: Callable[[Sequence[int], Sequence[int], Window], AttentionOp]


def window_id(window: Window) -> str:
    """The formulation id of a window: "full", "causal" or "window"."""
    return {FULL: "full", CAUSAL: "causal"}.get(window, "window")


def flash_window_kwargs(window: Window) -> tuple[str, dict[str, Any]]:
    """A window as text and as the options that flash_attn and flash_attn.cute share."""
    if window == FULL:
        return "causal=False", {}
    if window == CAUSAL:
        return "causal=True", {"causal": True}
    return f"window_size={window}", {"window_size": window}


def cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    """int32 [sequences + 1]: the start of each packed sequence, then the end of the last."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


class PackedLengths(NamedTuple):
    """The lengths of packed sequences, in the order and by the names of the varlen functions."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int

    @classmethod
    def of(
        cls, q_lengths: Sequence[int], k_lengths: Sequence[int], device: torch.device
    ) -> PackedLengths:
        q_starts, k_starts = cu_seqlens(q_lengths, device), cu_seqlens(k_lengths, device)
        return cls(q_starts, k_starts, max(q_lengths), max(k_lengths))


def packed_lse(lse: Tensor) -> Tensor:
    """[B, heads, S] to [heads, B * S]."""
    return lse.transpose(0, 1).flatten(1).contiguous()


def batched_lse(lse: Tensor, batch: int) -> Tensor:
    """[heads, B * S] to [B, heads, S]."""
    return torch.unflatten(lse, 1, (batch, -1)).transpose(0, 1).contiguous()


def require_cuda_half(library: str, q: Tensor) -> None:
    """Raise Unsupported for tensors that no FlashAttention takes."""
    if q.device.type != "cuda":
        raise Unsupported(f"{library} needs CUDA")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(f"{library} takes float16 and bfloat16 only")


def require_equal_head_dims(library: str, q: Tensor, v: Tensor) -> None:
    """Raise Unsupported if v's head dimension is not that of q and k."""
    if v.shape[-1] != q.shape[-1]:
        raise Unsupported(
            f"{library} takes no v with a head dimension of {v.shape[-1]} for q and k with "
            f"{q.shape[-1]}"
        )
