"""Masks of the user's files: a function, a class, a factory or a mask."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from maskbench.masks import FromMaskMod, Mask

SIZES = ("seq_len", "batch", "heads", "device")  # what a factory may take by name


class UnusableMask(Exception):
    """A requested mask that cannot be used. The message says what was requested and why."""


@dataclass(frozen=True)
class MaskSize:
    """What a mask is built for. `device` is where tensors of a user's function are."""

    seq_len: int
    batch: int
    heads: int
    device: str


def load(path: Path, name: str) -> Any:
    """What a Python file holds under `name`. Raises UnusableMask."""
    module = _load_module(path)
    try:
        return getattr(module, name)
    except AttributeError:
        own = [n for n, value in vars(module).items() if _is_own(value, module)]
        raise UnusableMask(
            f"{path} has no {name}; it has {', '.join(own) or 'no function or class'}"
        ) from None


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _load_module(path: Path) -> ModuleType:
    """Import a user's file, once in each process. Raises UnusableMask."""
    if not path.is_file():
        raise UnusableMask(f"{path}: no such file")
    if path.suffix != ".py":
        raise UnusableMask(f"{path}: is not a Python file (.py)")
    name = f"maskbench_user_masks_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UnusableMask(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle finds the functions of the module by this name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of the user's code
        del sys.modules[name]
        raise UnusableMask(f"{path}: {_describe(error, path)}") from error
    return module


def _describe(error: Exception, path: Path) -> str:
    """The type, the text and the line in `path` of an exception of a user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())}"


def builder(text: str, found: Any, parameters: dict[str, Any]) -> Callable[[MaskSize], Mask]:
    """The function that builds a mask from what a user's file holds under a name.

    It may be a mask_mod of four arguments, a class or a factory that takes some of `SIZES` by name
    and returns a mask or a mask_mod, or a mask of one length.
    """
    if isinstance(found, Mask):
        return lambda size: _require_length(text, found, size)
    if not callable(found):
        raise UnusableMask(
            f"{text}: is a {type(found).__name__}; it must be a function (b, h, q_idx, kv_idx), "
            f"a Mask, or a function of {', '.join(SIZES)} that returns one"
        )
    taken = _parameter_names(found)
    if unknown := [name for name in parameters if name not in taken]:
        raise UnusableMask(f"{text}: has no parameter {unknown[0]}; it has {', '.join(taken)}")
    is_factory = "seq_len" in taken

    def build(size: MaskSize) -> Mask:
        mask = found
        if is_factory:
            sizes = {name: getattr(size, name) for name in SIZES if name in taken}
            try:
                mask = found(**sizes, **parameters)
            except Exception as error:  # of the user's code
                raise ValueError(f"{text}: {type(error).__name__}: {error}") from error
        if isinstance(mask, Mask):
            return _require_length(text, mask, size)
        return _from_function(text, mask, size)

    return build


def _parameter_names(function: Callable[..., object]) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # a builtin without a signature
        return []


def _from_function(text: str, function: Any, size: MaskSize) -> Mask:
    try:
        return FromMaskMod.of(
            function,
            seq_len=size.seq_len,
            batch=size.batch,
            heads=size.heads,
            device=size.device,
        )
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def _require_length(text: str, mask: Mask, size: MaskSize) -> Mask:
    if mask.seq_len != size.seq_len:
        raise ValueError(f"{text}: is for {mask.seq_len} tokens, not for {size.seq_len}")
    return mask
