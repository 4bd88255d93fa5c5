"""A pytest plugin: backends whose gradients differ from launch to launch."""

from __future__ import annotations

import torch

from maskbench.attention import BoundAttention
from maskbench.backends import dense, registry


class ChangedGradient(torch.autograd.Function):
    """The identity; `change(gradient, launch)` changes what the backward returns."""

    @staticmethod
    def forward(ctx, tensor, change, launches):
        ctx.change, ctx.launches = change, launches
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient.clone(), next(ctx.launches)), None, None


def unsteady(change):
    """A `bind` of dense attention whose gradient of v is changed."""

    def bind(mask, q, k, v):
        right, launches = dense.bind(mask, q, k, v), iter(range(10**9))

        def forward(q, k, v):
            return right.forward(q, k, ChangedGradient.apply(v, change, launches))

        return BoundAttention(right.formulation, right.inputs, forward)

    return bind


def by_rounding(gradient, launch):
    """Every other launch differs by one unit in the last place of one element."""
    first = gradient.view(-1)[:1]
    first.copy_(torch.nextafter(first, first + launch % 2))
    return gradient


def in_launch_7(gradient, launch):
    """One row of one launch is wrong."""
    if launch == 7:
        gradient[0, 0, 3] = 0
    return gradient


BACKENDS = {"unsteady": unsteady(by_rounding), "racy": unsteady(in_launch_7)}


def pytest_load_initial_conftests():
    """Register before the command-line options list the names."""
    for name in BACKENDS:
        registry.register(registry.BackendSpec(name, __name__))
