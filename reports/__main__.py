"""python -m reports plots|matrix|validation [RUN ...] [-o DIR]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import pandas as pd

from masks import PATTERNS
from reports.table import DIRECTIONS, UnreadableRun, load, newest, shape_of


def problems_of(runs: list[Path], folder: Path) -> list[tuple[pd.DataFrame, Path]]:
    """All cells of each shape and data type that has attention cells, with a folder for each."""
    table = load(runs)
    found = []
    for shape, cells in table.groupby(table.apply(shape_of, axis=1), sort=False):
        if cells["direction"].isin(DIRECTIONS).any():
            found.append((cells, shape.replace(" ", "_")))
    if not found:
        raise UnreadableRun(f"{', '.join(map(str, runs))}: has no forward or backward cell")
    alone = len(found) == 1
    return [(cells, folder if alone else folder / shape) for cells, shape in found]


def plots(runs: list[Path], folder: Path) -> int:
    """Draw a run: fastest backends, mask and timing of each mask, speed-up, tables."""
    from reports import fastest, mask_picture, matrix, overview, payback, timing_picture  # see main
    from reports.style import save

    drawn = 0
    for every, into in problems_of(runs, folder):
        cells = every[every["direction"].isin(DIRECTIONS)]
        for mask, part in cells.groupby("mask", sort=False):
            pictures = {"timing.png": timing_picture.draw(part)}
            if mask in PATTERNS:  # a saved mask may be gone since
                pictures = {"mask.png": mask_picture.draw(mask), **pictures}
            for name, figure in pictures.items():
                save(figure, into / mask / name)
            drawn += len(pictures)
            print(f"  {into / mask}: {', '.join(pictures)}", flush=True)
        overviews = {"table.png": overview.mask_by_backend(cells), "matrix.png": matrix.draw(cells)}
        if cells["is_timed"].any():
            overviews["fastest.png"] = fastest.draw(cells)
        for direction in DIRECTIONS:
            figure = overview.speed_up(cells, direction)
            if figure is not None:
                overviews[f"speedup_{direction}.png"] = figure
        paid = payback.draw(every)
        if paid is not None:
            overviews["payback.png"] = paid
        for name, figure in overviews.items():
            save(figure, into / name)
        drawn += len(overviews)
        print(f"  {into}: {', '.join(overviews)}", flush=True)
    print(f"{drawn} pictures of {', '.join(map(str, runs))} are in {folder}/")
    return 0


def matrix(runs: list[Path], folder: Path) -> int:
    """Print how each backend computes each mask, or why not, and draw it as matrix.png."""
    from reports import matrix  # see main
    from reports.style import save

    for every, into in problems_of(runs, folder):
        cells = every[every["direction"].isin(DIRECTIONS)]
        print(matrix.text(cells), end="\n\n")
        print(f"as a picture: {save(matrix.draw(cells), into / 'matrix.png')}")
    return 0


def validation(runs: list[Path], folder: Path) -> int:
    """Write validation.md: the clock, repeats, rounds and lengths, targets beside results."""
    from reports import validation  # see main

    text = validation.text(runs)
    path = folder / "validation.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\nas a file: {path}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (plots, matrix, validation):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
        command.add_argument("-o", metavar="DIR", type=Path, default=Path("plots"))
        command.set_defaults(run=run)
        command.description = (
            f"{run.__doc__} Several RUNs are one run, taken in parts (of validation: each is one). "
            "Default: the run saved last under .benchmarks/. Pictures go to DIR (default: plots)."
        )
    options = parser.parse_args(arguments)
    matplotlib.use("Agg")  # before pyplot is imported, by the modules that the commands import
    try:
        return options.run(options.runs or [newest()], options.o)
    except UnreadableRun as error:
        print(f"reports: {error}", file=sys.stderr)
    except OSError as error:
        print(f"reports: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
