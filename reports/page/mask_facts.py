"""What a mask is: its picture, its definition and its mask_mod as code."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pandas as pd

from masks import PATTERNS, Mask, MaskFamily
from reports.page.mask_mod_source import NotStandalone, mask_mod_source

SHOWN_LENGTH = 4096  # the mask_mod is that of the length that is nearest to this one
MAX_LENGTH, MAX_HEADS = 2**17, 2**11  # above them no mask is built: a file may name any size


def mask_facts(cells: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The facts of each mask in the rows of `reports.runs.load`, by name.

    A mask that is not in PATTERNS, such as one of the user's or of an older run, has none.
    """
    facts = {}
    for name, own in cells.groupby("mask", sort=False):
        pattern = str(name).partition("(")[0]
        if pattern in PATTERNS:
            family = PATTERNS[pattern]
            facts[str(name)] = {
                "definition": family.description,
                "source": family.source,
                "parameters": parameters_text(family, str(name)),
                "picture": picture(family.example),
                **mask_code(str(name), pattern, own),
            }
    return facts


def parameters_text(family: MaskFamily, name: str) -> str:
    """The values of the parameters, such as "left = 256"; without those that depend on S."""
    values = {**family.parameters, **(parameters_of(name) or {})}
    return ", ".join(f"{key} = {value}" for key, value in values.items() if value is not None)


def picture(mask: Mask) -> dict[str, Any]:
    """The attended pairs of a small mask: `rows` has a text of "1" and "0" for each query.

    `padding` has the tokens that are padding, which see nothing.
    """
    values = mask.dense("cpu")[0, 0].numpy().astype(int)
    fully_masked = mask.fully_masked_rows("cpu")
    padding: list[int] = []
    if fully_masked is not None:
        padding = np.flatnonzero(fully_masked[0, 0, :, 0].numpy()).tolist()
    return {"rows": ["".join(map(str, row)) for row in values], "padding": padding}


def mask_code(name: str, pattern: str, cells: pd.DataFrame) -> dict[str, str]:
    """Code that defines the mask_mod, and what it is of; nothing if the mask cannot be built."""
    lengths = np.asarray(cells["seq_len"].unique())
    seq_len = int(lengths[np.abs(np.log(lengths / SHOWN_LENGTH)).argmin()])
    first = cells[cells["seq_len"] == seq_len].iloc[0]
    batch, heads = int(first["batch"]), int(first["heads"])
    parameters = parameters_of(name)
    if parameters is None or seq_len > MAX_LENGTH or batch * heads > MAX_HEADS:
        return {}
    try:
        mask = PATTERNS[pattern](seq_len=seq_len, batch=batch, heads=heads, **parameters)
        code = mask_mod_source(mask.mask_mod("cpu"))
    except ValueError:  # the parameters are not those of the pattern
        return {}
    except NotStandalone:
        given = "".join(f", {name}={value!r}" for name, value in parameters.items())
        code = (
            "from masks import PATTERNS  # in a checkout of maskbench\n\n"
            f'mask = PATTERNS["{pattern}"]('
            f"seq_len={seq_len}, batch={batch}, heads={heads}{given})\n"
            'mask_mod = mask.mask_mod("cuda")'
        )
    return {"code": code, "codeOf": f"S = {seq_len}"}


def parameters_of(name: str) -> dict[str, Any] | None:
    """The parameters in a name such as causal_sliding_window(left=1023); None for other names."""
    if "(" not in name:
        return {}
    try:
        call = ast.parse(name, mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return {key: value for key, value in given.items() if key is not None}
