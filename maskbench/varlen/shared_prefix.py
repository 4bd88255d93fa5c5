"""A prefix that several responses share, as three calls.

The calls on the responses are merged as in `merged_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskbench.varlen.layouts import TokenLayout
from maskbench.varlen.merged_keys import merge_rows
from maskbench.varlen.ops import CAUSAL, FULL, Attend, AttentionOp, FlashLibrary


@dataclass(frozen=True)
class SharedPrefixPlan:
    """Calls on tokens in the order: the prefixes of all elements, then all responses.

    `prefix` has the prefixes' queries and `far` those of the responses, both with the prefixes'
    keys. `near` has the responses' queries and keys. `near_has_fewer_keys` is whether no response
    is longer than the prefix.
    """

    tokens: int  # of all prefixes
    prefix: AttentionOp
    far: AttentionOp
    near: AttentionOp
    near_has_fewer_keys: bool

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Differentiable attention."""
        apply: Callable[..., Tensor] = SharedPrefixCalls.apply
        return apply(q, k, v, self)


def shared_prefix(
    library: FlashLibrary, prefix: int, responses: Sequence[int], batch: int
) -> Attend:
    """Responses are causal and see the whole prefix; the prefix sees itself.

    Hydragen, https://arxiv.org/abs/2402.05099, section 3.1.
    """
    prefixes, after, lengths = [prefix] * batch, [sum(responses)] * batch, list(responses) * batch
    plan = SharedPrefixPlan(
        prefix * batch,
        prefix=library.packed(prefixes, prefixes, FULL),
        far=library.packed(after, prefixes, FULL),
        near=library.packed(lengths, lengths, CAUSAL),
        near_has_fewer_keys=max(responses) <= prefix,
    )
    return plan.attend


def prefix_first(prefix: int, seq_len: int, batch: int, device: torch.device) -> TokenLayout:
    """The first `prefix` tokens of all elements, then the other tokens of all elements."""
    tokens = torch.arange(batch * seq_len, device=device).view(batch, seq_len)
    order = torch.cat([tokens[:, :prefix].flatten(), tokens[:, prefix:].flatten()])
    return TokenLayout(order, batch, seq_len)


class SharedPrefixCalls(torch.autograd.Function):
    """Runs a SharedPrefixPlan. The tensors are [tokens, heads, head_dim]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: SharedPrefixPlan) -> Tensor:
        n = plan.tokens
        out, lse = plan.prefix.forward(q[:n], k[:n], v[:n])
        near, far = plan.near.forward(q[n:], k[n:], v[n:]), plan.far.forward(q[n:], k[:n], v[:n])
        merged_out, merged_lse = merge_rows(far, near, None, plan.near_has_fewer_keys)
        out = torch.cat([out, merged_out])
        ctx.save_for_backward(q, k, v, out, lse, merged_lse)
        ctx.plan = plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        plan: SharedPrefixPlan = ctx.plan
        n, (q, k, v, out, lse, merged_lse) = plan.tokens, ctx.saved_tensors
        dq, dk, dv = plan.prefix.backward(dout[:n], q[:n], k[:n], v[:n], out[:n], lse)
        merged = out[n:], merged_lse
        far = plan.far.backward(dout[n:], q[n:], k[:n], v[:n], *merged)
        near = plan.near.backward(dout[n:], q[n:], k[n:], v[n:], *merged)
        dk += far[1]
        dv += far[2]
        parts = (dq, near[0] + far[0]), (dk, near[1]), (dv, near[2])
        dq, dk, dv = (torch.cat(part) for part in parts)
        return dq, dk, dv, None
