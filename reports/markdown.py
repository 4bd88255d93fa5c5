"""Tables and shares as Markdown text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """A table of texts and numbers. Bars and line breaks in a cell are escaped."""
    cells = [
        [str(v).replace("|", "\\|").replace("\n", " ") for v in row] for row in table.to_numpy()
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float | Sequence[Any] | np.ndarray | pd.Series, digits: int = 0) -> str:
    """A share, or the mean of several shares or flags, in percent."""
    return f"{100 * float(np.mean(share)):.{digits}f} %"
