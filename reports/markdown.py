"""Tables and shares as Markdown text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from maskbench.plain_text import plain_text

# Characters with a meaning in GitHub's Markdown, HTML and formulas. "_" has one beside a space, but
# not within a name. A link needs no markup: it begins at "://", "www." or "@".
_BACKSLASH = re.compile(r"[\\`*|~$#]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_ENTITY = re.compile(r"[&<>@]|(?<=:)/|(?<=www)\.", re.IGNORECASE)


def markdown_text(text: str) -> str:
    """The text as Markdown that shows it on one line, whatever characters it has."""
    escaped = _BACKSLASH.sub(r"\\\g<0>", plain_text(text))
    return _ENTITY.sub(lambda found: _ENTITIES.get(found[0], f"&#{ord(found[0])};"), escaped)


def markdown_table(table: pd.DataFrame) -> str:
    """A table of texts and numbers, which are shown as they are."""
    cells = [[markdown_text(str(value)) for value in row] for row in table.to_numpy()]
    heads = [markdown_text(str(name)) for name in table.columns]
    lines = [heads, ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float | Sequence[Any] | np.ndarray | pd.Series, digits: int = 0) -> str:
    """A share, or the mean of several shares or flags, in percent; "" if there are none."""
    return "" if np.size(share) == 0 else f"{100 * float(np.mean(share)):.{digits}f} %"
