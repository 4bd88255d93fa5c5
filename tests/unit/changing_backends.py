"""A pytest plugin: backends that change their inputs, or whose results go wrong later."""

from __future__ import annotations

import torch

from maskbench.attention import BoundAttention
from maskbench.backends import dense, registry
from tests.unit.broken_backends import transposed


def changing(change, right=dense.bind, first=0):
    """A `bind` that runs `change(call, inputs)` in each forward from call `first` on."""

    def bind(mask, q, k, v):
        call, count = right(mask, q, k, v), iter(range(10**9))

        def forward(*inputs):
            out = call.forward(*inputs)
            if next(count) >= first:
                with torch.no_grad():
                    out = change(out, *inputs)
            return out

        return BoundAttention(call.formulation, call.inputs, forward, call.pack, call.unpack)

    return bind


def halve_q(out, q, k, v):
    q.data.mul_(0.5)
    return out


def one_element_of_k(out, q, k, v):
    k.data.view(-1)[3] += 1
    return out


def negative_zero_in_v(out, q, k, v):
    v.data[0, 0, 0, 0] = -0.0
    return out


def add_to_result(out, q, k, v):
    return out + 1


def nan_in_result(out, q, k, v):
    return out * torch.nan


class ChangesInBackward(torch.autograd.Function):
    """Returns its input; the backward changes another tensor."""

    @staticmethod
    def forward(ctx, out, tensor):
        ctx.tensor = tensor
        return out.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.tensor.data.view(-1)[0] += 1
        return grad, None


def in_backward(mask, q, k, v):
    call = dense.bind(mask, q, k, v)

    def forward(*inputs):
        return ChangesInBackward.apply(call.forward(*inputs), inputs[2].detach())

    return BoundAttention(call.formulation, call.inputs, forward)


class ChangesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out):
        return out.clone()

    @staticmethod
    def backward(ctx, grad):
        right = grad.clone()
        grad.mul_(0.5)
        return right


def changes_dout(mask, q, k, v):
    call = dense.bind(mask, q, k, v)
    return BoundAttention(
        call.formulation, call.inputs, lambda *i: ChangesGradient.apply(call.forward(*i))
    )


BACKENDS = {
    "halves_q": changing(halve_q),
    "halves_q_later": changing(halve_q, first=1),
    "changes_k": changing(one_element_of_k, first=5),
    "changes_v": changing(negative_zero_in_v),
    "changes_packed": changing(one_element_of_k, transposed, first=1),
    "wrong_later": changing(add_to_result, first=3),
    "nan_later": changing(nan_in_result, transposed, first=1),
    "in_backward": in_backward,
    "changes_dout": changes_dout,
}
BACKENDS |= {f"right_{name}": dense.bind for name in BACKENDS}


def pytest_load_initial_conftests():
    """Register before the command-line options list the names."""
    for name in BACKENDS:
        registry.register(registry.BackendSpec(name, __name__))
