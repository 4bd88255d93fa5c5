"""python -m reports plots [RUN ...] [-o DIR]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

from masks import PATTERNS
from reports.table import UnreadableRun, load, newest, shape_of


def plots(runs: list[Path], folder: Path) -> int:
    """Draw a run: mask.png and timing.png a mask, speed-up and the mask x backend table."""
    from reports import mask_picture, overview, timing_picture  # after the backend is set
    from reports.style import save

    table = load(runs)
    attention = table[table["direction"].isin(timing_picture.DIRECTIONS)]
    if attention.empty:
        raise UnreadableRun(f"{', '.join(map(str, runs))}: has no forward or backward cell")
    problems = attention.groupby(attention.apply(shape_of, axis=1), sort=False)
    drawn = 0
    for shape, cells in problems:
        into = folder if len(problems) == 1 else folder / shape.replace(" ", "_")
        for mask, part in cells.groupby("mask", sort=False):
            pictures = {"timing.png": timing_picture.draw(part)}
            if mask in PATTERNS:  # a saved mask may be gone since
                pictures = {"mask.png": mask_picture.draw(mask), **pictures}
            for name, figure in pictures.items():
                save(figure, into / mask / name)
            drawn += len(pictures)
            print(f"  {into / mask}: {', '.join(pictures)}", flush=True)
        for direction in timing_picture.DIRECTIONS:
            figure = overview.speed_up(cells, direction)
            if figure is not None:
                save(figure, into / f"speedup_{direction}.png")
                drawn += 1
        save(overview.mask_by_backend(cells), into / "table.png")
        drawn += 1
    print(f"{drawn} pictures of {', '.join(map(str, runs))} are in {folder}/")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("plots", help=plots.__doc__)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    command.add_argument("-o", metavar="DIR", type=Path, default=Path("plots"))
    command.description = (
        "Several RUNs are one run, taken in parts. Default: the run saved last under "
        ".benchmarks/. Pictures go to DIR (default: plots)."
    )
    options = parser.parse_args(arguments)
    matplotlib.use("Agg")
    try:
        return plots(options.runs or [newest()], options.o)
    except UnreadableRun as error:
        print(f"reports: {error}", file=sys.stderr)
    except OSError as error:
        print(f"reports: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
