"""The commands that draw one run: plots and matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from maskbench.records import UnreadableRun
from masks import PATTERNS
from reports.output_files import distinct_names
from reports.runs import DIRECTIONS, incomplete_notes, load, shape_of
from reports.tables import TableFormat
from reports.terminal import TablePrinter, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PICTURES = 120  # of a command; they take about a minute
SHAPE = ["batch", "heads", "kv_heads", "head_dim", "v_head_dim", "dtype", "seq_len", "q_len"]
PROBLEM = ["mask", "backend", "direction", "seq_len"]  # of a cell, within one shape


def load_by_shape(
    runs: list[Path], folder: Path, part_of_name: str | None
) -> list[tuple[pd.DataFrame, Path]]:
    """The cells of each shape and data type with attention cells, and a folder for each.

    Several shapes get subfolders of `folder`. Only cells with `part_of_name` in their node id are
    used, if it is given.

    Raises
    ------
    UnreadableRun
        If a file is not a saved run, or if there is no forward or backward cell.
    """
    cells = load(runs)
    for note in incomplete_notes(cells):
        say(f"note: {note}")
    names = ", ".join(map(str, runs))
    if part_of_name is not None:
        cells = cells[cells["fullname"].str.contains(part_of_name, regex=False)]
        names += f" with {part_of_name!r} in their names"
    cells = cells.assign(shape=[shape_of(row) for _, row in cells[SHAPE].iterrows()])
    shapes = cells["shape"][cells["direction"].isin(DIRECTIONS)]
    if shapes.empty:
        advice = "; name a run that has some" if part_of_name is None else ""
        raise UnreadableRun(f"{names}: has no forward or backward cell{advice}")
    if shapes.nunique() == 1:
        return [(cells[cells["shape"] == shapes.iloc[0]], folder)]
    folders = distinct_names((shape.replace(" ", "_"),) for shape in shapes)
    parts = cells[cells["shape"].isin(shapes)].groupby("shape", sort=False)
    return [(part, folder / folders[shape.replace(" ", "_"),]) for shape, part in parts]


def attention_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The forward and backward cells, without those that time block masks or compilation.

    Raises
    ------
    UnreadableRun
        If two cells with different node ids have the same fields.
    """
    attention: pd.DataFrame = cells[cells["direction"].isin(DIRECTIONS)]
    twice = attention[attention.duplicated(PROBLEM, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice[PROBLEM] == first[PROBLEM]).all(axis=1)]
        names = " and ".join(same["fullname"].iloc[:2])
        raise UnreadableRun(f"{first['file']}: {names} have the same fields")
    return attention


def plots(runs: list[Path], folder: Path, part_of_name: str | None) -> int:
    """Draw a run: fastest backends, mask and timing of each mask, speed-up, tables."""
    from reports.plots import mask, timing
    from reports.ranking_table import noise_note

    count = left_out = 0
    for cells, subfolder in load_by_shape(runs, folder, part_of_name):
        attention = attention_cells(cells)
        if noise := noise_note(attention):
            say(f"note: {noise}")
        if count < MAX_PICTURES:
            count += save_all(overview_figures(cells), subfolder)
        names = distinct_names((name,) for name in attention["mask"])
        for (name,), file_name in names.items():
            if count >= MAX_PICTURES:
                left_out += 1
                continue
            of_mask = attention[attention["mask"] == name]
            figures = {"timing.png": timing.draw(of_mask)}
            pattern = name.partition("(")[0]  # without its parameters
            if pattern in PATTERNS:  # a mask of an older run may no longer exist
                figures = {"mask.png": mask.draw(pattern), **figures}
            count += save_all(figures, subfolder / file_name)
    say(f"{count} pictures of {', '.join(map(str, runs))} are in {folder}/")
    if left_out:
        advice = "-k TEXT draws the cells with that text in their names"
        say(f"note: {left_out} masks have no pictures of their own; {advice}")
    return 0


def overview_figures(cells: pd.DataFrame) -> dict[str, Figure]:
    """The pictures that show all masks, by file name."""
    from reports.plots import break_even, fastest, matrix, speed_up, table
    from reports.plots.limits import spread_out

    attention = attention_cells(cells)
    timed = attention[attention["is_timed"]]
    figures: dict[str, Figure | None] = {"matrix.png": matrix.draw(attention)}
    for seq_len in spread_out(sorted(timed["seq_len"].unique())):
        figures[f"fastest_s{seq_len}.png"] = fastest.draw(attention, seq_len)
        for direction in DIRECTIONS:
            name = f"table_{direction}_s{seq_len}.png"
            figures[name] = table.draw(attention, seq_len, direction)
    for direction in DIRECTIONS:
        figures[f"speedup_{direction}.png"] = speed_up.draw(attention, direction)
    figures["payback.png"] = break_even.draw(cells)
    return {name: figure for name, figure in figures.items() if figure is not None}


def save_all(figures: dict[str, Figure], folder: Path) -> int:
    """Save the figures by file name and return their number."""
    from reports.plots.style import save

    for name, figure in figures.items():
        save(figure, folder / name)
    say(f"  {folder}: {', '.join(figures)}")
    return len(figures)


def matrix(runs: list[Path], folder: Path, part_of_name: str | None, printer: TablePrinter) -> int:
    """Print how each backend computes each mask, or why not, and draw it as matrix.png."""
    from reports.plots import matrix
    from reports.plots.style import save

    shapes = load_by_shape(runs, folder, part_of_name)
    drawn = [(attention_cells(cells), subfolder) for cells, subfolder in shapes[:MAX_PICTURES]]
    if printer.form is not TableFormat.TEXT:
        printer.write(pd.concat(matrix.table(attention) for attention, _ in drawn))
    for attention, subfolder in drawn:
        if printer.form is TableFormat.TEXT:
            say(f"{matrix.text(attention)}\n")
        say(f"as a picture: {save(matrix.draw(attention), subfolder / 'matrix.png')}")
    if len(shapes) > MAX_PICTURES:
        advice = "-k TEXT shows the cells with that text in their names"
        say(f"note: {len(shapes) - MAX_PICTURES} shapes are left out; {advice}")
    return 0
