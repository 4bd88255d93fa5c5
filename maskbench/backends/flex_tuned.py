"""FlexAttention with the options that were found for the cell by `pytest -m tune`.

Which options these are depends on the name of the mask, which `bind` does not get. So the suite
looks them up (`maskbench.suite.tuned`) and calls `replay`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import flex, registry
from maskbench.backends.flex_option_checks import disallowed_option
from maskbench.masks import Full, Mask
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions, TunedEntry


class OptionNotAllowed(Exception):
    """The mask does not have the property that an option needs."""


# Options that were found on this GPU can fail for these reasons without a bug: FlashAttention-4 was
# removed, or the file of a user's mask has changed.
EXPECTED = (OptionNotAllowed, registry.BackendUnavailable)


def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    raise Unsupported("flex_tuned replays options that are stored by the name of a cell's mask")


def compile_with_options(
    options: FlexOptions, mask: Mask, q: Tensor, k: Tensor, v: Tensor
) -> BoundAttention:
    """FlexAttention with these options. The calls that were compiled before stay compiled.

    Raises
    ------
    Unsupported
        If FlexAttention, or its FLASH backend, cannot compute the mask.
    OptionNotAllowed
        If the mask does not allow an option.
    """
    if options.uses_flash:
        registry.load("flex_flash")  # raises BackendUnavailable
        from maskbench.backends import flex_flash

        return flex_flash.compile_call(mask, q, k, v)
    kernel_options = options.kernel_options
    block_mask = None if isinstance(mask, Full) else mask.block_mask(q.device, options.block_size)
    if option := disallowed_option(kernel_options, block_mask, q.requires_grad):
        raise OptionNotAllowed(f"the mask does not allow {option}")
    return flex.compile_call(mask, q, k, v, kernel_options or None, options.block_size)


def replay(entry: TunedEntry, gpu: str) -> Bind:
    """The `bind` of an entry, on a GPU of this name.

    Options that were found with another torch or GPU are first run once. If they fail, or if
    FlashAttention-4 is missing, a warning says so and the next ones of the entry are used, and
    finally the default ones.
    """
    origin = origin_of(entry, gpu)

    def bind_entry(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
        torch.compiler.reset()
        for found in entry.found:
            try:
                call = compile_with_options(found.options, mask, q, k, v)
                if origin:
                    _run_once(call)
            except Exception as error:  # of torch, Triton, CuTe or CUDA's driver
                if not origin and not isinstance(error, EXPECTED):
                    raise
                ignored = f"{found.options}: {_first_line(error)}"
                warnings.warn(f"flex_tuned {entry.problem} ignores {ignored}", stacklevel=1)
            else:
                return _with_note(call, origin)
        call = compile_with_options(DEFAULT_OPTIONS, mask, q, k, v)
        is_best = "the found ones do not work here" if entry.found else "default is best"
        return _with_note(call, ", ".join(filter(None, (is_best, origin))))

    return bind_entry


def origin_of(entry: TunedEntry, gpu: str) -> str:
    """Where the options were found, such as "found with torch 2.11.0"; "" if it was here."""
    differences = []
    if entry.torch != torch.__version__:
        differences.append(f"with torch {entry.torch}")
    if entry.gpu != gpu:
        differences.append(f"on {entry.gpu}")
    return f"found {' '.join(differences)}" if differences else ""


def _run_once(call: BoundAttention) -> None:
    """Run the call once, and its backward if it has one."""
    out = call.forward(*call.inputs)
    if out.requires_grad:
        torch.autograd.grad(out.sum(), call.inputs)
    if out.is_cuda:
        torch.cuda.synchronize()


def _with_note(call: BoundAttention, text: str) -> BoundAttention:
    formulation = call.formulation
    shown = f"{formulation.text}; {text}" if text else formulation.text
    return replace(call, formulation=replace(formulation, text=shown))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


BACKENDS: dict[str, Callable[..., BoundAttention]] = {"flex_tuned": bind}
