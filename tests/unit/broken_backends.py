"""A pytest plugin (-p tests.unit.broken_backends): backends that are wrong in known ways."""

from __future__ import annotations

import torch

from maskbench.attention import BoundAttention, Formulation
from maskbench.backends import dense, flex, registry
from maskbench.masks import Full

NAMES = ("wrong", "nan", "raising", "greedy", "eager_flex", "absent", "transposed")


def wrong(mask, q, k, v):
    """Computes full attention, whatever the mask is."""
    return dense.bind(Full(seq_len=mask.seq_len), q, k, v)


def nan(mask, q, k, v):
    right = dense.bind(mask, q, k, v)

    def forward(*inputs):
        out = right.forward(*inputs)
        return torch.where(torch.arange(out.shape[-1]) == 5, torch.nan, out)

    return BoundAttention(right.formulation, right.inputs, forward)


def raising(mask, q, k, v):
    raise RuntimeError("this library broke\nin the middle")


def greedy(mask, q, k, v):
    return BoundAttention(
        Formulation("greedy", "too much memory"), (q, k, v), lambda *inputs: torch.empty(2**50)
    )


def eager_flex(mask, q, k, v):
    """FlexAttention that torch.compile does not compile."""
    right = flex.bind(mask, q.detach(), k.detach(), v.detach())

    def forward(*inputs):
        with torch.compiler.set_stance("force_eager"):
            return right.forward(*inputs)

    return BoundAttention(right.formulation, right.inputs, forward)


def transposed(mask, q, k, v):
    """Correct, in FlashAttention's layout: [B, S, heads, head_dim]."""
    right = dense.bind(mask, q, k, v)

    def swap(tensor):
        return tensor.transpose(1, 2)

    def pack(tensor):
        return swap(tensor.detach()).contiguous().requires_grad_(q.requires_grad)

    def forward(*inputs):
        return swap(right.forward(*map(swap, inputs))).contiguous()

    return BoundAttention(right.formulation, (pack(q), pack(k), pack(v)), forward, pack, swap)


BACKENDS = {f.__name__: f for f in (wrong, nan, raising, greedy, eager_flex, transposed)}


def pytest_load_initial_conftests():
    """Register before the command-line options list the names."""
    for name in BACKENDS:
        registry.register(registry.BackendSpec(name, __name__))
    registry.register(registry.BackendSpec("absent", "a_library_that_is_not_installed"))
