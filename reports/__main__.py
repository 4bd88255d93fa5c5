"""python -m reports plots|matrix|validation|compare|history|gate"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import matplotlib
import pandas as pd

from maskbench.records import UnreadableRun
from masks import PATTERNS
from reports.runs import DIRECTIONS, STORAGE, load, newest, shape_of


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
    from reports.plots import break_even, fastest, matrix, overview, timing  # see main
    from reports.plots import mask as mask_plot
    from reports.plots.style import save

    drawn = 0
    for every, into in problems_of(runs, folder):
        cells = every[every["direction"].isin(DIRECTIONS)]
        for mask, part in cells.groupby("mask", sort=False):
            pictures = {"timing.png": timing.draw(part)}
            if mask in PATTERNS:  # a saved mask may be gone since
                pictures = {"mask.png": mask_plot.draw(mask), **pictures}
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
        paid = break_even.draw(every)
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
    from reports.plots import matrix  # see main
    from reports.plots.style import save

    for every, into in problems_of(runs, folder):
        cells = every[every["direction"].isin(DIRECTIONS)]
        print(matrix.text(cells), end="\n\n")
        print(f"as a picture: {save(matrix.draw(cells), into / 'matrix.png')}")
    return 0


def validation(runs: list[Path], folder: Path) -> int:
    """Write validation.md: the clock, repeats, rounds and lengths, targets beside results."""
    from reports.validation import validation_report  # see main

    text = validation_report(runs)
    path = folder / "validation.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\nas a file: {path}")
    return 0


def compare(base: Path, new: Path, history: Path | None, folder: Path) -> int:
    """Two runs side by side; without --history nothing is stronger than SUSPECT."""
    from reports.comparability import load_history, load_run
    from reports.compare import compare_runs  # see main

    one, other = load_run(base), load_run(new)
    past, notes = load_history(history, []) if history else ([], [])
    verdict = compare_runs(one, other, past)
    verdict.notes += notes
    title = f"{base.name} (torch {one.torch}) to {new.name} (torch {other.torch})"
    tell_changes(verdict, "compare", title, folder)
    return verdict.code


def tell_changes(verdict, command: str, title: str, folder: Path) -> None:
    """What compare and gate leave behind."""
    from reports import writers  # see main
    from reports.plots import changes as change_plots
    from reports.plots.style import save

    draw = {"changes.png": change_plots.changes, "heat.png": change_plots.heat}
    pictures = {name: drawn(verdict.cells, f"{command} {title}") for name, drawn in draw.items()}
    writers.write_verdict(verdict, command, f"{command} {title}", folder)
    found = [str(save(figure, folder / name)) for name, figure in pictures.items() if figure]
    print(f"in {folder}/: summary.md, verdict.json; {', '.join(found) or 'nothing to draw'}")


def gate(new: Path, history: Path, confirm: Path | None, strict: bool, folder: Path) -> int:
    """A verdict for CI. Exit status: 0 no regression, 1 confirmed regression, 2 bad usage or
    unreadable file, 3 (with --strict) nothing could be compared."""
    from reports.comparability import load_history, load_run  # see main
    from reports.gate import judge_run

    run, again = load_run(new), load_run(confirm) if confirm else None
    runs, notes = load_history(history, [run, again] if again else [run])
    verdict = judge_run(run, runs, again, strict)
    verdict.notes += notes
    tell_changes(verdict, "gate", f"{new.name} (torch {run.torch})", folder)
    if verdict.is_inconclusive:
        print(f"*** {verdict.word}: no cell could be judged, so this is no all-clear ***")
    return verdict.code


def history(folder: Path, into: Path) -> int:
    """All saved runs of one machine as trends, with the steps in them."""
    from reports import writers  # see main
    from reports.comparability import load_history
    from reports.history import build_history
    from reports.plots import changes as change_plots
    from reports.plots.style import save

    runs, notes = load_history(folder, [])
    verdict, trends = build_history(runs)
    verdict.notes += notes
    writers.write_verdict(verdict, "history", f"history of {folder}", into)
    pages = verdict.cells.groupby(["mask", "direction"], sort=False)
    for (mask, direction), cells in pages:
        figure = change_plots.trend(trends, cells, f"{mask} {direction}, {verdict.word}")
        save(figure, into / "trends" / f"{mask}_{direction}.png")
    print(f"in {into}/: summary.md, verdict.json, and {len(pages)} pictures in trends/")
    return 0


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (plots, matrix, validation):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
        command.set_defaults(run=lambda o, run=run: run(o.runs or [newest()], o.o))
        command.description = (
            f"{run.__doc__} Several RUNs are one run, taken in parts (of validation: each is one). "
            "Default: the run saved last under .benchmarks/. Pictures go to DIR (default: plots)."
        )
    command = commands.add_parser("compare", help=compare.__doc__, description=compare.__doc__)
    command.add_argument("base", metavar="BASE", type=Path)
    command.add_argument("new", metavar="NEW", type=Path)
    command.add_argument("--history", metavar="DIR", type=Path, help="runs that show the noise")
    command.set_defaults(run=lambda o: compare(o.base, o.new, o.history, o.o))
    command = commands.add_parser("history", help=history.__doc__, description=history.__doc__)
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=STORAGE)
    command.set_defaults(run=lambda o: history(o.folder, o.o))
    command = commands.add_parser("gate", help="A verdict for CI.", description=gate.__doc__)
    command.add_argument("new", metavar="NEW", type=Path)
    command.add_argument("--history", metavar="DIR", type=Path, default=STORAGE)
    command.add_argument("--confirm", metavar="RUN", type=Path, help="NEW's grid, run once more")
    command.add_argument("--strict", action="store_true", help="status 3 where nothing is judged")
    command.set_defaults(run=lambda o: gate(o.new, o.history, o.confirm, o.strict, o.o))
    for command in commands.choices.values():
        command.add_argument("-o", metavar="DIR", type=Path, default=Path("plots"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = parser_of().parse_args(arguments)
    matplotlib.use("Agg")  # before pyplot is imported, by the modules that the commands import
    try:
        return options.run(options)
    except UnreadableRun as error:
        print(f"reports: {error}", file=sys.stderr)
    except OSError as error:
        print(f"reports: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    except Exception:  # Python's own status for it, 1, would read as a regression
        traceback.print_exc()
    return 2


if __name__ == "__main__":
    sys.exit(main())
