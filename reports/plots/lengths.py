"""Which sequence length a picture of a single length shows."""

from __future__ import annotations

import pandas as pd


def longest_with_flex(cells: pd.DataFrame) -> int:
    """The longest sequence at which FlexAttention was timed.

    Falls back to the longest sequence that any backend was timed at, then to the longest of all
    cells.
    """
    timed = cells[cells["is_timed"]]
    flex = timed[timed["backend"] == "flex"]
    for candidates in (flex, timed):
        if len(candidates):
            return int(candidates["seq_len"].max())
    return int(cells["seq_len"].max())
