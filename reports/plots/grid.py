"""A table as a picture: each cell is a text on a color. Wide tables are stacked in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.typing import ColorType

from reports.plots.labels import CHARACTER, LINE, LINE_LENGTH, balanced, text_width, wrapped
from reports.plots.limits import MAX_COLUMNS, MAX_NOTE_LINES, MAX_ROWS, first
from reports.plots.style import MIN_TEXT, TITLE, WIDTH

NO_TIME_COLOR = "#EEEEEE"  # behind a cell without a time
NOISY_TEXT_COLOR = "#6B6B6B"  # of a time with a wide interval; its contrast is above 4.5
LABEL_LENGTH = 22  # characters of a line of a row's label
LABEL_GAP = 0.08  # between a row's label and its cells, inches
HEAD_LENGTH = 9  # of a column's label, at least
TITLE_LINE = 0.19  # inches
GAP = 0.12  # between the title, the parts and the notes, inches
CELL_PADDING = 0.13  # of a row, inches
BAND = 0.07  # height of a band of colors, inches


@dataclass(frozen=True)
class Entry:
    """The text of a cell and the color behind it.

    Several colors are drawn as a band below the text, on white.
    """

    lines: Sequence[str]
    colors: Sequence[ColorType] = (NO_TIME_COLOR,)
    text_color: str = "black"
    is_bold: bool = False


def draw(
    rows: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[int, int], Entry],
    title: str,
    notes: Sequence[str] = (),
    min_width: float = 0.55,
) -> Figure:
    """Draw a table, or its first MAX_ROWS rows and MAX_COLUMNS columns.

    Parameters
    ----------
    rows, columns
        The labels of the rows and columns.
    cell
        `cell(row, column)`, with indices from 0, returns a cell.
    title
        The text above, with its line breaks.
    notes
        Texts below, each on lines of its own.
    min_width
        The least width of a column in inches. Columns that do not fit beside each other are drawn
        below, as another part with the same rows.
    """
    rows, rows_note = first(rows, MAX_ROWS, "rows")
    columns, columns_note = first(columns, MAX_COLUMNS, "columns")
    labels = [balanced(name, LABEL_LENGTH, 4) for name in rows]
    label_width = 2 * LABEL_GAP + max(
        (text_width(line) for lines in labels for line in lines), default=0
    )
    fitting = max(1, int((WIDTH - label_width) / min_width))
    per_part = -(-len(columns) // -(-len(columns) // fitting)) if columns else 1
    parts = [range(i, min(i + per_part, len(columns))) for i in range(0, len(columns), per_part)]
    width = (WIDTH - label_width) / per_part
    heads = [balanced(name, max(HEAD_LENGTH, int(width / CHARACTER)), 4) for name in columns]
    entries = [[cell(y, x) for x in range(len(columns))] for y in range(len(rows))]
    title_lines = f"{title}{rows_note}{columns_note}".split("\n")
    note_lines = [line for note in notes for line in wrapped(note, LINE_LENGTH)]
    if len(note_lines) > MAX_NOTE_LINES:
        left_out = len(note_lines) - MAX_NOTE_LINES
        note_lines = [*note_lines[:MAX_NOTE_LINES], f"… and {left_out} more lines"]

    def heights(part: range) -> list[float]:
        """Of the column labels and each row of a part."""
        tallest = [
            max([len(labels[y]), *(len(entries[y][x].lines) for x in part)])
            for y in range(len(rows))
        ]
        return [LINE * max(len(heads[x]) for x in part) + 0.05] + [
            LINE * lines + CELL_PADDING for lines in tallest
        ]

    top = TITLE_LINE * len(title_lines) + GAP
    total = top + sum(sum(heights(part)) + GAP for part in parts) + LINE * len(note_lines)
    figure = plt.figure(figsize=(WIDTH, total))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(total, 0)
    axes.set_axis_off()
    for i, line in enumerate(title_lines):
        _write(axes, WIDTH / 2, (i + 0.5) * TITLE_LINE, line, "center", fontsize=TITLE)
    y_start = top
    for part in parts:
        head, *row_heights = heights(part)
        for i, x in enumerate(part):
            _write(axes, label_width + (i + 0.5) * width, y_start + head / 2, heads[x], "center")
        y_start += head
        for y, height in enumerate(row_heights):
            _write(axes, label_width - LABEL_GAP, y_start + height / 2, labels[y], "right")
            for i, x in enumerate(part):
                place = (label_width + i * width, y_start)
                _draw_entry(axes, entries[y][x], place, width, height)
            y_start += height
        y_start += GAP
    for i, line in enumerate(note_lines):
        _write(axes, 0.02, y_start + (i + 0.5) * LINE, line, "left")
    return figure


def _draw_entry(
    axes: Axes, entry: Entry, place: tuple[float, float], width: float, height: float
) -> None:
    x, y = place
    share = width / len(entry.colors)
    top = y if len(entry.colors) == 1 else y + height - BAND
    for i, color in enumerate(entry.colors):
        corner = (x + i * share, top)
        axes.add_patch(Rectangle(corner, share, y + height - top, facecolor=color, lw=0))
    axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor="white", lw=2))
    _write(
        axes,
        *(x + width / 2, y + height / 2, entry.lines, "center"),
        color=entry.text_color,
        fontweight="bold" if entry.is_bold else "normal",
    )


def _write(
    axes: Axes, x: float, y: float, text: str | Sequence[str], align: str, **style: object
) -> None:
    """Write a line or lines, with their middle at a place in inches."""
    lines = text if isinstance(text, str) else "\n".join(text)
    style = {"fontsize": MIN_TEXT, "linespacing": 1.15, **style}
    axes.text(x, y, lines, ha=align, va="center", **style)  # type: ignore[arg-type]  # of any kind
