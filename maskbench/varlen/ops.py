"""What a library of FlashAttention's family gives: `Kernel`, one call, and how to make them.

Attention within a window (left, right), None for unbounded, over a batch
[B, S, heads, head_dim] or over packed sequences [tokens, heads, head_dim]. Where queries are
fewer than keys the window is aligned at the bottom right: the last query sits at the last key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from maskbench.attention import Unsupported

Window = tuple[int | None, int | None]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
FULL, CAUSAL = (None, None), (None, 0)


@dataclass(frozen=True)
class AttentionOp:
    """One call of a library. lse is [B, heads, S] of a batch and [heads, tokens] of a pack."""

    form: str
    attend: Attend  # what a user calls, differentiable
    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # -> out, lse
    # (dout, q, k, v, out, lse) -> dq, dk, dv
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class FlashLibrary:
    """A library's two calls, by their lengths (queries, keys) and window.

    `batched` takes one length for all sequences, `packed` a list, a length for each.
    """

    batched: Callable[[int, int, Window], AttentionOp]
    packed: Callable[[Sequence[int], Sequence[int], Window], AttentionOp]


def flash_window_kwargs(window: Window) -> tuple[str, dict[str, object]]:
    """How the flash-attn packages are told a window: as text, and as their options."""
    if window == FULL:
        return "causal=False", {}
    if window == CAUSAL:
        return "causal=True", {"causal": True}
    return f"window_size={window}", {"window_size": window}


def cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    """int32 [sequences + 1]: where each packed sequence starts, and where the last ends."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def packed_lse(lse: Tensor) -> Tensor:
    """[B, heads, S] to [heads, B * S]."""
    return lse.transpose(0, 1).flatten(1).contiguous()


def batched_lse(lse: Tensor, batch: int) -> Tensor:
    """[heads, B * S] to [B, heads, S]."""
    return lse.unflatten(1, (batch, -1)).transpose(0, 1).contiguous()


def require_cuda_half(library: str, q: Tensor) -> None:
    """Raises Unsupported for tensors that no FlashAttention takes."""
    if q.device.type != "cuda":
        raise Unsupported(f"{library} needs CUDA")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(f"{library} takes float16 and bfloat16 only")
