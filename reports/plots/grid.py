"""A table as a picture: each cell is a text on a color."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.typing import ColorType

from reports.plots.limits import MAX_COLUMNS, MAX_ROWS, first

NO_TIME_COLOR = "#EEEEEE"  # behind a cell without a time


def draw(
    rows: list[str],
    columns: list[str],
    cell: Callable[[int, int], tuple[str, ColorType]],
    title: str,
    cell_width: float = 1.65,
    cell_height: float = 0.62,
) -> Figure:
    """Draw a table, or its first MAX_ROWS rows and MAX_COLUMNS columns.

    Parameters
    ----------
    rows, columns
        The labels of the rows and columns.
    cell
        `cell(row, column)`, with indices from 0, returns the text and the color of a cell.
    cell_width, cell_height
        The size of a cell in inches.
    """
    rows, rows_note = first(rows, MAX_ROWS, "rows")
    columns, columns_note = first(columns, MAX_COLUMNS, "columns")
    figure, axes = plt.subplots(
        figsize=(cell_width * len(columns) + 1.6, cell_height * len(rows) + 0.9),
        layout="constrained",
    )
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    for y in range(len(rows)):
        for x in range(len(columns)):
            text, color = cell(y, x)
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", lw=2))
            lines = text.split("\n")
            fits = len(lines) < 3 and max(map(len, lines)) <= 17 * cell_width
            size = 7 if fits else 5.5
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=size)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title + rows_note + columns_note, fontsize=9)
    return figure
