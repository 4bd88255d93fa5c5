"""The times of all masks at one length and in one direction, a column for each backend."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.labels import (
    NOT_IN_RUN,
    explained_marks,
    marks,
    milliseconds,
    title_with_setup,
    untimed_reason,
)
from reports.plots.style import BLUE, ORANGE, sorted_backends
from reports.ranking import NOISY_ABOVE, Measure, measures, rank_cells

RATIO_COLORS = LinearSegmentedColormap.from_list("ratio", [ORANGE, "#FFFFFF", BLUE])
MAX_LOG2_RATIO = 3  # the colors saturate at a ratio of 8


def draw(cells: pd.DataFrame, seq_len: int, direction: str) -> Figure | None:
    """Times in ms, and times FlexAttention's; None if nothing was timed.

    The fastest backends of a mask, with ties, are bold. Where there is no time, a number in
    brackets refers to the reason below. Backends without any time are in the notes only.
    """
    cells = cells[(cells["seq_len"] == seq_len) & (cells["direction"] == direction)]
    ranked = rank_cells(cells, Measure.DEVICE).set_index(["mask", "backend"])
    if ranked.empty:
        return None
    masks = list(cells["mask"].unique())
    backends = sorted_backends(ranked.index.get_level_values("backend"))
    reasons = Footnotes()
    untimed = cells[~cells["is_timed"]].set_index(["mask", "backend"])

    def cell(y: int, x: int) -> grid.Entry:
        key = (masks[y], backends[x])
        if key in ranked.index:
            return time_entry(ranked.loc[key])
        reason = untimed_reason(untimed.loc[key]) if key in untimed.index else NOT_IN_RUN
        return grid.Entry([reasons.mark(reason)])

    drawn = [cell(y, x) for y in range(len(masks)) for x in range(len(backends))]
    over_flex = ", and below it ×: times FlexAttention's (blue: FlexAttention is faster)"
    notes = [
        f"ms{over_flex if ranked['over_flex'].notna().any() else ''}. Bold: the fastest, and those "
        "whose 95 % confidence intervals overlap its.",
        *explained_marks(line for entry in drawn for line in entry.lines),
    ]
    if ranked["is_noisy"].any():
        notes.append(f"pale grey, with ±: the interval is over ±{NOISY_ABOVE:.0%}")
    notes += [*reasons.notes(), *without_times(cells, backends)]
    time = "Device time" if Measure.CALLED in measures(cells) else "Wall time"
    title = title_with_setup(cells, f"{time}, {direction}, S = {seq_len}")
    return grid.draw(masks, backends, cell, title, notes)


def time_entry(row: pd.Series) -> grid.Entry:
    """The entry of a row of `rank_cells`."""
    mark = marks(is_host_bound=row["host_bound"], is_throttled=bool(row["throttle"]))
    lines = [milliseconds(row["seconds"]).removesuffix(" ms")]
    ratio = row["over_flex"]
    if ratio > 0:  # NaN without flex
        lines.append(f"{ratio:.2f}×" if ratio < 100 else f"{ratio:.0f}×")
    lines[-1] += mark
    if row["is_noisy"]:
        lines.append(f"±{row['interval']:.0%}")
        return grid.Entry(lines, ["#F6F6F6"], grid.NOISY_TEXT_COLOR, is_bold=row["is_winner"])
    if not ratio > 0:
        return grid.Entry(lines, ["#FFFFFF"], is_bold=row["is_winner"])
    norm = TwoSlopeNorm(0, -MAX_LOG2_RATIO, MAX_LOG2_RATIO)
    log2_ratio = float(np.clip(np.log2(ratio), -MAX_LOG2_RATIO, MAX_LOG2_RATIO))
    red, green, blue, _ = RATIO_COLORS(float(norm(log2_ratio)))
    return grid.Entry(lines, [(red, green, blue, 0.6)], is_bold=row["is_winner"])


class Footnotes:
    """Texts that a picture refers to by numbers, in the order of their first use."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers) + 1)

    def mark(self, text: str) -> str:
        return f"[{self.number(text)}]"

    def notes(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self.numbers.items()]


def without_times(cells: pd.DataFrame, shown: list[str]) -> list[str]:
    """A note for each backend that is not among the `shown`: why it has no time."""
    notes = []
    for backend in sorted_backends(cells["backend"]):
        if backend not in shown:
            of_backend = cells[cells["backend"] == backend]
            reasons = dict.fromkeys(untimed_reason(row) for _, row in of_backend.iterrows())
            notes.append(f"{backend}: {'; '.join(reasons)}")
    return notes
