"""The libraries that compute attention, one module each.

A backend is a function `bind(mask, q, k, v) -> Call`. q is [B, heads, S, head_dim], k and
v are [B, kv_heads, S, head_dim]; where they require gradients the call will be run
backward. It raises `Unsupported` with a sentence for the user where the library cannot
compute exactly this mask on these tensors.

To add a library, write its module with a `BACKENDS` dict and name it in `MODULES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from masks import Mask

MODULES: dict[str, str] = {
    "dense": "backends.dense",
    "flex": "backends.flex",
    "sdpa": "backends.sdpa",
    "sdpa_flash": "backends.sdpa",
    "sdpa_cudnn": "backends.sdpa",
    "sdpa_efficient": "backends.sdpa",
    "sdpa_math": "backends.sdpa",
    "flex_flash": "backends.flex_flash",
    "flash_attn": "backends.flash_attn",
    "flash_attn_4": "backends.flash_attn_4",
    "torch_varlen": "backends.torch_varlen",
    "xformers": "backends.xformers",
}

# They hold S x S scores, so by default they are measured up to S = 2048 only.
HOLDS_SCORES = frozenset({"dense", "sdpa_math"})


class Missing(Exception):
    """A backend's library cannot be imported; the message is what the import said."""


class Unsupported(Exception):
    """This backend cannot compute this mask on these tensors; the message says why."""


def same(tensor: Tensor) -> Tensor:
    """The layout of a library that takes [B, heads, S, head_dim]."""
    return tensor


@dataclass(frozen=True)
class Call:
    """An attention call that is ready to run: all but the attention itself is done.

    `forward(*inputs)` gives the output, everything in the library's own layout.
    `pack` and `unpack` lead from [B, heads, S, head_dim] to that layout and back.
    `form` says in a few words how the library is told the mask.
    """

    form: str
    inputs: tuple[Tensor, Tensor, Tensor]
    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    pack: Callable[[Tensor], Tensor] = same
    unpack: Callable[[Tensor], Tensor] = same


Bind = Callable[[Mask, Tensor, Tensor, Tensor], Call]


@cache
def _found(name: str) -> Bind | str:
    try:
        return importlib.import_module(MODULES[name]).BACKENDS[name]
    except Exception as error:  # whatever a broken package raises, the user is to read it
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"


def load(name: str) -> Bind:
    """The backend's `bind`; raises Missing where its library is missing or broken."""
    found = _found(name)
    if isinstance(found, str):
        raise Missing(found)
    return found
