"""Which sequence length a picture of a single length shows."""

from __future__ import annotations

import pandas as pd


def length_to_show(cells: pd.DataFrame) -> int:
    """The longest sequence at which FlexAttention was timed and not throttled.

    A ratio of times that were taken while the GPU limited its clock can be one of two clocks. If
    FlexAttention was throttled at every length, its longest is taken. Without FlexAttention it is
    the longest that any backend was timed at, then the longest of all cells.
    """
    timed = cells[cells["is_timed"]]
    flex = timed[timed["backend"] == "flex"]
    throttled = flex["seq_len"][flex["throttle"].map(len) > 0]
    for candidates in (flex[~flex["seq_len"].isin(throttled)], flex, timed):
        if len(candidates):
            return int(candidates["seq_len"].max())
    return int(cells["seq_len"].max())
