"""Masks of the user's files: a function, a class, a factory or a mask."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from maskbench.masks import FromMaskMod, Mask
from maskbench.masks.functions import call_mask_mod, require_elementwise

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
    name = _module_name(path)
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UnusableMask(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle finds the functions of the module by this name
    try:
        with _importing_from(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of the user's code
        del sys.modules[name]
        raise UnusableMask(f"{path}: {_describe(error, path)}") from error
    return module


def _module_name(path: Path) -> str:
    """An identifier that differs for two files of one name, and is the same in every process."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    return f"maskbench_user_masks_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{digest[:8]}"


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let a file import the files beside it, as `python FILE.py` does."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _describe(error: BaseException, path: Path) -> str:
    """The type, the text and the line in `path` of an exception of a user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f" in line {lines[-1]}" if lines else ""
    return _one_line(error, place)


def _one_line(error: BaseException, place: str = "") -> str:
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())}"


def builder(text: str, found: Any, parameters: dict[str, Any]) -> Callable[[MaskSize], Mask]:
    """The function that builds a mask from what a user's file holds under a name.

    It may be a mask_mod of four arguments, a class or a factory that takes some of `SIZES` by name
    and returns a mask or a mask_mod, or a mask of one length.
    """
    if isinstance(found, Mask):
        return lambda size: _require_size(text, found, size)
    if not callable(found):
        raise UnusableMask(
            f"{text}: is of type {type(found).__name__}; it must be "
            "a function (b, h, q_idx, kv_idx), a Mask, "
            f"or a function of {', '.join(SIZES)} that returns one"
        )
    taken = _parameter_names(found)
    is_factory = "seq_len" in taken
    free = [name for name in taken if name not in SIZES] if is_factory else taken[4:]
    if unknown := [name for name in parameters if name not in free]:
        known = ", ".join(free) or "none"
        raise UnusableMask(f"{text}: has no parameter {unknown[0]}; it has {known}")
    if not is_factory:
        function = partial(found, **parameters) if parameters else found
        return lambda size: _from_function(text, function, size)

    def build(size: MaskSize) -> Mask:
        sizes = {name: getattr(size, name) for name in SIZES if name in taken}
        try:
            mask = found(**sizes, **parameters)
        except (Exception, SystemExit) as error:  # of the user's code
            raise ValueError(f"{text}: {_one_line(error)}") from error
        if not isinstance(mask, Mask):
            return _from_function(text, mask, size)
        if inspect.isclass(found):
            _require_mask_mod(text, mask, size)
        return _require_size(text, mask, size)

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


def _require_mask_mod(text: str, mask: Mask, size: MaskSize) -> None:
    """Raise ValueError if the mask_mod of a user's class cannot be made or called."""
    try:
        mask_mod = mask.mask_mod(size.device)
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(f"{text}: mask_mod raises {_one_line(error)}") from error
    try:
        call_mask_mod(mask_mod, size.seq_len, size.batch, size.heads, size.device)
        require_elementwise(mask_mod, size.seq_len, size.batch, size.heads, size.device)
    except ValueError as error:
        raise ValueError(f"{text}: mask_mod {error}") from error


def _require_size(text: str, mask: Mask, size: MaskSize) -> Mask:
    if mask.seq_len != size.seq_len:
        raise ValueError(f"{text}: is for {mask.seq_len} tokens, not for {size.seq_len}")
    if mask.batch not in (None, size.batch):
        raise ValueError(f"{text}: is for a batch of {mask.batch}, not of {size.batch}")
    if mask.heads not in (None, size.heads):
        raise ValueError(f"{text}: is for {mask.heads} heads, not for {size.heads}")
    if mask.q_len != size.seq_len:
        raise ValueError(f"{text}: has {mask.q_len} queries; choose their number with --q-lens")
    return mask
