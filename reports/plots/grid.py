"""A table as a picture: rows, columns, and a text on a colour in each cell."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

NOTHING = "#EEEEEE"  # behind a cell without a time


def draw(
    rows: list[str],
    columns: list[str],
    cell: Callable[[int, int], tuple[str, object]],
    title: str,
    width: float = 1.65,
    height: float = 0.62,
) -> Figure:
    """`cell(row, column)` gives a cell's text and colour; `width` and `height` are inches each."""
    figure, axes = plt.subplots(
        figsize=(width * len(columns) + 1.6, height * len(rows) + 0.9), layout="constrained"
    )
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    for y in range(len(rows)):
        for x in range(len(columns)):
            text, colour = cell(y, x)
            box = plt.Rectangle((x, y), 1, 1, facecolor=to_rgba(colour), edgecolor="white", lw=2)
            axes.add_patch(box)
            lines = text.split("\n")
            roomy = len(lines) < 3 and max(map(len, lines)) <= 17 * width
            size = 7 if roomy else 5.5
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=size)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=9)
    return figure
