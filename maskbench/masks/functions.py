"""Masks from a function alone: `FromMaskMod`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from maskbench.masks.base import DeviceLike, Mask, MaskMod
from maskbench.masks.parameters import to_int

ARGUMENTS = "(b, h, q_idx, kv_idx)"
TOKENS_CHECKED_ALONE = 8  # at the start and at the end of the sequence


@dataclass(frozen=True)
class FromMaskMod(Mask):
    """The mask of a function (b, h, q_idx, kv_idx) -> bool, as FlexAttention takes it.

    Area, dense form and blocks come from evaluating the function in chunks of rows. Use `of`, which
    checks the function and finds out whether it differs by batch element and by head.

    Parameters
    ----------
    function
        Called with int32 tensors that broadcast; returns a bool tensor.
    batch, heads
        The batch size and the number of query heads, if the function differs by them; else None.
    device
        Where the tensors are that the function captures.
    """

    function: MaskMod
    batch: int | None = None
    heads: int | None = None
    device: DeviceLike = "cpu"

    @classmethod
    def of(
        cls,
        function: MaskMod,
        *,
        seq_len: int,
        batch: int = 1,
        heads: int = 1,
        device: DeviceLike = "cpu",
    ) -> FromMaskMod:
        """Return the mask of `function` for `batch` elements and `heads` query heads.

        Raises
        ------
        ValueError
            If the function does not take four arguments, raises, returns no bool tensor, captures
            a tensor on another device, cannot be traced by torch.compile, or gives a pair another
            result if it is called for that pair alone.
        """
        _require_four_arguments(function)
        _require_tensors_on(device, function)
        length = to_int(seq_len)
        if length is None or length < 1:
            raise ValueError(f"seq_len is {seq_len}, must be a whole number, 1 or more")
        indices, allowed = call_mask_mod(function, length, batch, heads, device)
        by_element, by_head = (
            allowed.dim() > axis and allowed.shape[-1 - axis] > 1 for axis in (3, 2)
        )
        _require_traceable(function, *indices)
        require_elementwise(function, length, batch, heads, device)
        return cls(
            function,
            batch if by_element else None,
            heads if by_head else None,
            device,
            seq_len=length,
        )

    @property
    def evaluation_device(self) -> DeviceLike:
        return self.device

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        return self.function


def _require_four_arguments(function: MaskMod) -> None:
    if not callable(function):
        raise ValueError(f"is {function!r:.60}, must be a function {ARGUMENTS}")
    try:
        inspect.signature(function).bind(*range(4))
    except TypeError:
        raise ValueError(
            f"takes {inspect.signature(function)}, must take four arguments {ARGUMENTS}"
        ) from None
    except ValueError:  # a builtin without a signature; the call shows whether it fits
        return


def _require_tensors_on(device: DeviceLike, function: MaskMod) -> None:
    """Raise ValueError if the function captures a tensor on another type of device."""
    function = function.func if isinstance(function, partial) else function
    if not inspect.isfunction(function):
        return
    captured = inspect.getclosurevars(function)
    for name, value in {**captured.globals, **captured.nonlocals}.items():
        if isinstance(value, Tensor) and value.device.type != torch.device(device).type:
            raise ValueError(
                f"captures the tensor {name} on {value.device}; the run is on {device}: "
                "make it in a factory that takes `device`"
            )


def call_mask_mod(
    function: MaskMod, seq_len: int, batch: int, heads: int, device: DeviceLike
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Call `function` with all batch elements and heads, and the first and the last tokens.

    Returns
    -------
    indices, allowed
        The arguments and the result. The arguments have different shapes, so the shape of the
        result shows which of them it depends on.

    Raises
    ------
    ValueError
        If the function raises, or returns no bool tensor that broadcasts to the indices.
    """
    last = seq_len - 1
    values = range(batch), range(heads), sorted({0, last}), sorted({0, last // 2, last})
    b, h, q, k = (torch.tensor(list(v), dtype=torch.int32, device=device) for v in values)
    indices = b.view(-1, 1, 1, 1), h.view(-1, 1, 1), q.view(-1, 1), k
    try:
        allowed: Any = function(*indices)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)  # an index out of bounds raises here
    except (Exception, SystemExit) as error:  # of the user's function
        raise ValueError(
            f"raises {type(error).__name__} when called: {_one_line(error)}"
        ) from error
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        kind = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
        raise ValueError(f"returns {kind}, must return a bool tensor")
    _require_broadcast(allowed, tuple(map(len, values)))
    return indices, allowed


def _require_broadcast(allowed: Tensor, shape: tuple[int, ...]) -> None:
    try:
        allowed.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"returns a tensor of shape {tuple(allowed.shape)}, which does not broadcast to the "
            f"indices' {shape}"
        ) from None


def _require_traceable(function: MaskMod, *indices: Tensor) -> None:
    """Raise ValueError if torch.compile cannot trace the function as one graph."""
    torch.compiler.reset()
    try:
        torch.compile(function, backend="eager", fullgraph=True)(*indices)
    except Exception as error:  # dynamo has many types of its own
        raise ValueError(f"cannot be traced by torch.compile: {_one_line(error)}") from error
    finally:
        torch.compiler.reset()


def require_elementwise(
    function: MaskMod, seq_len: int, batch: int, heads: int, device: DeviceLike
) -> None:
    """Raise ValueError if the result for a pair depends on the other pairs of the call.

    FlexAttention calls the function for one pair at a time, the rest of this package for many. Both
    results are compared for the pairs of the first `TOKENS_CHECKED_ALONE` tokens and of the last.
    """
    few = min(TOKENS_CHECKED_ALONE, seq_len)
    b, h, tokens = (torch.arange(n, dtype=torch.int32, device=device) for n in (batch, heads, few))
    for first in {0, seq_len - few}:

        def shifted(b: Tensor, h: Tensor, q: Tensor, k: Tensor, first: int = first) -> Tensor:
            return function(b, h, q + first, k + first)

        together = shifted(b.view(-1, 1, 1, 1), h.view(-1, 1, 1), tokens.view(-1, 1), tokens)
        try:
            alone = create_mask(shifted, batch, heads, few, few, device)
        except Exception as error:  # vmap has many types of its own
            raise ValueError(
                f"cannot be called for one pair, as FlexAttention does: {_one_line(error)}"
            ) from error
        if not bool((alone == together).all()):
            raise ValueError(
                "gives a pair alone another result than among others; it must not reduce, sort or "
                "count its arguments, because FlexAttention calls it for one pair at a time"
            )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
