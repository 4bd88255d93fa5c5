"""The masks of a run: catalogue names, names with parameters, and masks of the user's files.

`--masks "causal,causal_sliding_window(left=1023),my_masks.py:sinks"` requests three. Each gets a
name for node ids and saved runs: my_masks.py:sinks is saved as my_masks.sinks.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskbench.masks import Mask
from maskbench.suite.document_lengths import read_document_lengths
from maskbench.suite.user_masks import MaskSize, UnusableMask, builder, load
from masks import PATTERNS

DOCUMENTS = "documents"  # the parameter of a pattern whose documents can be given


@dataclass(frozen=True)
class RequestedMask:
    """A mask of this run.

    Parameters
    ----------
    name
        In node ids and saved runs.
    build
        Returns the mask for a size. Raises ValueError.
    file
        The user's file that it is from, if any.
    document_lengths
        The text of --document-lengths, if its documents are those.
    """

    name: str
    build: Callable[[MaskSize], Mask]
    file: Path | None = None
    document_lengths: str | None = None

    @property
    def files(self) -> list[Path]:
        """The files that decide what the mask is."""
        lengths = Path(self.document_lengths) if self.document_lengths is not None else None
        return [file for file in (self.file, lengths) if file is not None and file.is_file()]


@dataclass(frozen=True)
class MaskRequest:
    """The texts of --masks and --document-lengths. It can be sent to another process."""

    texts: tuple[str, ...]
    document_lengths: str | None = None


REQUESTED: dict[str, RequestedMask] = {}
"""The masks of this process by name: those that are no plain name of the catalogue."""


def request_masks(request: MaskRequest) -> list[str]:
    """Add the requested masks to `REQUESTED`; return their names.

    Raises
    ------
    UnusableMask
        If a text names no mask, or a file has an error.
    """
    REQUESTED.clear()
    names = []
    for text in request.texts:
        found = _request(text, request.document_lengths)
        if isinstance(found, RequestedMask):
            other = REQUESTED.setdefault(found.name, found)
            if other.file != found.file:
                raise UnusableMask(
                    f"{text}: {other.file} and {found.file} both have a mask {found.name}; "
                    "rename one of the files"
                )
            names.append(found.name)
        else:
            names.append(found)
    has_documents = any(mask.document_lengths is not None for mask in REQUESTED.values())
    if request.document_lengths is not None and not has_documents:
        raise UnusableMask(f"none of {', '.join(names)} takes --document-lengths")
    return list(dict.fromkeys(names))


def build_mask(name: str, size: MaskSize) -> Mask:
    """Build a mask of this run. Raises ValueError if it does not exist for this size."""
    if name in REQUESTED:
        return REQUESTED[name].build(size)
    return PATTERNS[name](seq_len=size.seq_len, batch=size.batch, heads=size.heads)


def split_masks(text: str) -> list[str]:
    """Split at the commas that are not inside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _request(text: str, document_lengths: str | None) -> RequestedMask | str:
    """The requested mask, or its name if it is in the catalogue as it is."""
    target, parameters = _split_parameters(text)
    path, colon, name = target.rpartition(":")
    if colon or target.endswith(".py"):
        if not (path and name):  # "FILE.py" has no colon: all of it is `name`
            raise UnusableMask(f"{text}: a mask of your own is written as FILE.py:NAME")
        return _from_file(text, Path(path), name, parameters)
    if target not in PATTERNS:
        raise UnusableMask(_unknown_name(target))
    family = PATTERNS[target]
    if unknown := [name for name in parameters if name not in family.parameters]:
        known = ", ".join(f"{name}={value}" for name, value in family.parameters.items())
        raise UnusableMask(
            f"{text}: {target} has no parameter {unknown[0]}; it has {known or 'none'}"
        )
    shown = dict(parameters)
    has_documents = document_lengths is not None and DOCUMENTS in family.parameters
    if document_lengths is not None and has_documents:
        shown[DOCUMENTS] = Path(document_lengths).name
    if not shown:
        return target

    def build(size: MaskSize) -> Mask:
        given = dict(parameters)
        if document_lengths is not None and has_documents:
            given[DOCUMENTS] = read_document_lengths(document_lengths, size.seq_len, size.batch)
        try:
            return family(seq_len=size.seq_len, batch=size.batch, heads=size.heads, **given)
        except (TypeError, ValueError) as error:  # such as a text where a number is expected
            raise ValueError(f"{text}: {error}") from error

    return RequestedMask(
        f"{target}({_shown(shown)})",
        build,
        document_lengths=document_lengths if has_documents else None,
    )


def _unknown_name(name: str) -> str:
    near = difflib.get_close_matches(name, PATTERNS, n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"unknown {name}{meant}; valid are {', '.join(PATTERNS)}, "
        "and FILE.py:NAME for a mask of your own"
    )


def _shown(parameters: dict[str, Any]) -> str:
    """Parameters as they are in a name: without spaces, and texts without quotes."""
    texts = (f"{name}={value}" for name, value in parameters.items())
    return ",".join(texts).replace(" ", "")


def _split_parameters(text: str) -> tuple[str, dict[str, Any]]:
    """ "name(left=3)" to ("name", {"left": 3}). Raises UnusableMask."""
    target, parenthesis, _ = text.partition("(")
    if not parenthesis:
        return text, {}
    try:
        call = ast.parse(f"f{text[len(target) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        given = [(str(keyword.arg), ast.literal_eval(keyword.value)) for keyword in call.keywords]
    except (SyntaxError, ValueError):
        raise UnusableMask(
            f"{text}: parameters are written as name(parameter=number, ...)"
        ) from None
    names = [name for name, _ in given]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UnusableMask(f"{text}: {repeated[0]} is given twice")
    return target.strip(), dict(given)


def _from_file(text: str, path: Path, name: str, parameters: dict[str, Any]) -> RequestedMask:
    found = load(path, name)
    shown = f"{path.stem}.{name}"
    if parameters:
        shown = f"{shown}({_shown(parameters)})"
    return RequestedMask(shown, builder(text, found, parameters), path.resolve())
