"""A mask_mod as code that can be pasted: the source of the function and all that it captures."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor

MAX_VALUES = 64  # of a table that is written out, after runs of equal values are merged
# Where the functions of the standard library are imported from, by the module that defines them.
PUBLIC_MODULES = {"_functools": "functools", "_operator": "operator"}


class NotStandalone(Exception):
    """The function captures something that cannot be written as code."""


def mask_mod_source(function: Callable[..., Any]) -> str:
    """Python code that defines `mask_mod`, equal to `function`.

    Raises
    ------
    NotStandalone
        If the function is no plain Python function, or captures an object or a large tensor.
    """
    written: dict[str, str] = {}
    _write("mask_mod", function, written)
    imports = [code for code in written.values() if code.startswith(("import ", "from "))]
    rest = [code for code in written.values() if code not in imports]
    device = ['device = "cuda"'] if any("device=device" in code for code in rest) else []
    return "\n".join([*imports, *device, *rest]).replace("\ndef ", "\n\n\ndef ")


def _write(name: str, value: object, written: dict[str, str]) -> None:
    """Add the definition of `name` to `written`, after the definitions that it needs."""
    if isinstance(value, FunctionType):
        code = _function(name, value, written)
    elif isinstance(value, Tensor):
        _write("torch", torch, written)
        code = f"{name} = {_tensor(value)}"
    elif value is torch:
        code = "import torch"
    elif isinstance(value, BuiltinFunctionType) and value.__module__ in PUBLIC_MODULES:
        code = f"from {PUBLIC_MODULES[value.__module__]} import {name}"
    elif value is None or isinstance(value, (bool, int, str)) or _is_tuple_of_numbers(value):
        code = f"{name} = {value!r}"
    else:
        raise NotStandalone(f"captures {name}, a {type(value).__name__}")
    if written.setdefault(name, code) != code:
        raise NotStandalone(f"uses the name {name} twice")


def _is_tuple_of_numbers(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(one, int) for one in value)


def _function(name: str, function: FunctionType, written: dict[str, str]) -> str:
    """The definition of a function or lambda, without annotations."""
    node = _node_of(function)
    captured = _captured(function)
    for used in dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name)):
        if used in captured:
            _write(used, captured[used], written)
        elif used in function.__code__.co_names and used in function.__globals__:
            _write(used, function.__globals__[used], written)
    arguments = ", ".join(inspect.signature(function).parameters)
    if isinstance(node, ast.Lambda):
        return f"def {name}({arguments}):\n    return {ast.unparse(node.body)}"
    body = [one for one in node.body if not _is_docstring(one)]
    text = "\n".join(ast.unparse(statement) for statement in body)
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    return f"def {name}({arguments}):\n{lines}"


def _captured(function: FunctionType) -> dict[str, object]:
    """The captured variables that have a value."""
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a variable of a branch that this mask does not take
            continue
    return found


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _node_of(function: FunctionType) -> ast.Lambda | ast.FunctionDef:
    """The syntax tree of a function, which the line and the arguments tell from others."""
    path = inspect.getsourcefile(function)
    if path is None or not Path(path).is_file():
        raise NotStandalone("has no source")
    line, arguments = function.__code__.co_firstlineno, list(inspect.signature(function).parameters)
    found = [
        node
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.Lambda, ast.FunctionDef))
        and node.lineno == line
        and [argument.arg for argument in node.args.args] == arguments
    ]
    if len(found) != 1:
        raise NotStandalone("is not alone on its line")
    return found[0]


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def _tensor(value: Tensor) -> str:
    """An expression for a tensor. Runs of equal values are written once, with their lengths."""
    of_type = f"dtype={value.dtype}, device=device"
    if value.numel() <= MAX_VALUES // 4:
        return f"torch.tensor({value.tolist()}, {of_type})"
    if value.dim() != 1:
        raise NotStandalone("captures a large tensor")
    values, counts = torch.unique_consecutive(value, return_counts=True)
    if len(values) > MAX_VALUES:
        raise NotStandalone("captures a large tensor")
    lengths = f"torch.tensor({counts.tolist()}, device=device)"
    return f"torch.tensor({values.tolist()}, {of_type}).repeat_interleave({lengths})"
