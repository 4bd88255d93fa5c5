"""Tables, pictures and verdicts from saved runs: python -m reports COMMAND"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd

from maskbench.records import UnreadableRun
from masks import PATTERNS
from reports.runs import DIRECTIONS, STORAGE, load, newest, shape_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.verdict import Verdict

# The commands import what they need. matplotlib.pyplot takes a second to import, and main()
# selects matplotlib's backend before that.


def load_by_shape(runs: list[Path], folder: Path) -> list[tuple[pd.DataFrame, Path]]:
    """The cells of each shape and data type with attention cells, and a folder for each.

    Several shapes get subfolders of `folder`. Raises UnreadableRun if a file is not a saved run,
    or if there is no forward or backward cell.
    """
    cells = load(runs)
    found = [
        (part, shape.replace(" ", "_"))
        for shape, part in cells.groupby(cells.apply(shape_of, axis=1), sort=False)
        if part["direction"].isin(DIRECTIONS).any()
    ]
    if not found:
        raise UnreadableRun(f"{', '.join(map(str, runs))}: has no forward or backward cell")
    if len(found) == 1:
        return [(found[0][0], folder)]
    return [(part, folder / name) for part, name in found]


def attention_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The forward and backward cells, without those that time block masks or compilation."""
    attention: pd.DataFrame = cells[cells["direction"].isin(DIRECTIONS)]
    return attention


def plots(runs: list[Path], folder: Path) -> int:
    """Draw a run: fastest backends, mask and timing of each mask, speed-up, tables."""
    from reports.plots import mask, timing

    count = 0
    for cells, subfolder in load_by_shape(runs, folder):
        attention = attention_cells(cells)
        for name in attention["mask"].unique():
            of_mask = attention[attention["mask"] == name]
            figures = {"timing.png": timing.draw(of_mask)}
            if name in PATTERNS:  # a mask of an older run may no longer exist
                figures = {"mask.png": mask.draw(name), **figures}
            count += save_all(figures, subfolder / name)
        count += save_all(overview_figures(cells), subfolder)
    print(f"{count} pictures of {', '.join(map(str, runs))} are in {folder}/")
    return 0


def overview_figures(cells: pd.DataFrame) -> dict[str, Figure]:
    """The pictures that show all masks, by file name."""
    from reports.plots import break_even, fastest, matrix, overview

    attention = attention_cells(cells)
    figures: dict[str, Figure | None] = {
        "table.png": overview.draw_table(attention),
        "matrix.png": matrix.draw(attention),
        "fastest.png": fastest.draw(attention) if attention["is_timed"].any() else None,
    }
    for direction in DIRECTIONS:
        figures[f"speedup_{direction}.png"] = overview.draw_speed_up(attention, direction)
    figures["payback.png"] = break_even.draw(cells)
    return {name: figure for name, figure in figures.items() if figure is not None}


def save_all(figures: dict[str, Figure], folder: Path) -> int:
    """Save the figures by file name and return their number."""
    from reports.plots.style import save

    for name, figure in figures.items():
        save(figure, folder / name)
    print(f"  {folder}: {', '.join(figures)}", flush=True)
    return len(figures)


def matrix(runs: list[Path], folder: Path) -> int:
    """Print how each backend computes each mask, or why not, and draw it as matrix.png."""
    from reports.plots import matrix
    from reports.plots.style import save

    for cells, subfolder in load_by_shape(runs, folder):
        attention = attention_cells(cells)
        print(matrix.text(attention), end="\n\n")
        print(f"as a picture: {save(matrix.draw(attention), subfolder / 'matrix.png')}")
    return 0


def validation(runs: list[Path], folder: Path) -> int:
    """Write validation.md: clock, repeatability, rounds and lengths, with the targets."""
    from reports.validation import validation_report

    text = validation_report(runs)
    path = folder / "validation.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\nas a file: {path}")
    return 0


def compare(base: Path, new: Path, history: Path | None, folder: Path) -> int:
    """Compare two runs. Without --history, a change is at most SUSPECT."""
    from reports.comparability import load_history, load_run
    from reports.compare import compare_runs

    base_run, new_run = load_run(base), load_run(new)
    runs, notes = load_history(history, []) if history else ([], [])
    verdict = compare_runs(base_run, new_run, runs)
    verdict.notes += notes
    names = f"{base.name} (torch {base_run.torch}) to {new.name} (torch {new_run.torch})"
    write_changes(verdict, "compare", f"compare {names}", folder)
    return verdict.exit_status


def gate(new: Path, history: Path, confirm: Path | None, strict: bool, folder: Path) -> int:
    """Judge a run by the runs before it, for CI. Exit status: 0 no regression, 1 confirmed
    regression, 2 bad usage or unreadable file, 3 (with --strict) nothing could be compared."""
    from reports.comparability import load_history, load_run
    from reports.gate import judge_run

    run = load_run(new)
    confirming_run = load_run(confirm) if confirm else None
    runs, notes = load_history(history, [run, confirming_run] if confirming_run else [run])
    verdict = judge_run(run, runs, confirming_run, strict)
    verdict.notes += notes
    write_changes(verdict, "gate", f"gate {new.name} (torch {run.torch})", folder)
    if verdict.is_inconclusive:
        print(f"*** {verdict.conclusion}: no cell could be judged, so this is no all-clear ***")
    return verdict.exit_status


def write_changes(verdict: Verdict, command: str, title: str, folder: Path) -> None:
    """Write the tables and pictures of `compare` and `gate`."""
    from reports import writers
    from reports.plots import changes
    from reports.plots.style import save

    figures = {
        "changes.png": changes.draw_changes(verdict.cells, title),
        "heat.png": changes.draw_heat_map(verdict.cells, title),
    }
    writers.write_verdict(verdict, command, title, folder)
    saved = [str(save(figure, folder / name)) for name, figure in figures.items() if figure]
    print(f"in {folder}/: summary.md, verdict.json; {', '.join(saved) or 'nothing to draw'}")


def history(storage: Path, folder: Path) -> int:
    """Draw all saved runs of one machine as trends, with the steps in them."""
    from reports import writers
    from reports.comparability import load_history
    from reports.history import build_history
    from reports.plots import changes
    from reports.plots.style import save

    runs, notes = load_history(storage, [])
    verdict, trends = build_history(runs)
    verdict.notes += notes
    writers.write_verdict(verdict, "history", f"history of {storage}", folder)
    pages = verdict.cells.groupby(["mask", "direction"], sort=False)
    for (mask, direction), cells in pages:
        figure = changes.draw_trends(trends, cells, f"{mask} {direction}, {verdict.conclusion}")
        save(figure, folder / "trends" / f"{mask}_{direction}.png")
    print(f"in {folder}/: summary.md, verdict.json, and {len(pages)} pictures in trends/")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser. Its result has `run`, a function that takes the result and runs the command."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(function: Callable[..., int], note: str = "") -> argparse.ArgumentParser:
        text = f"{function.__doc__}{note}"
        summary = f"{function.__doc__}".split(" Exit ")[0]
        command = commands.add_parser(function.__name__, help=summary, description=text)
        command.add_argument(
            "-o", metavar="DIR", type=Path, default=Path("plots"), help="output folder"
        )
        return command

    parts = " Several files are read as the parts of one run."
    default = " Default: the run saved last under .benchmarks/."
    for function, note in ((plots, parts), (matrix, parts), (validation, " Each file is a run.")):
        command = add(function, note + default)
        command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
        command.set_defaults(run=lambda o, f=function: f(o.runs or [newest()], o.o))
    command = add(compare)
    command.add_argument("base", metavar="BASE", type=Path)
    command.add_argument("new", metavar="NEW", type=Path)
    command.add_argument("--history", metavar="DIR", type=Path, help="runs that show the noise")
    command.set_defaults(run=lambda o: compare(o.base, o.new, o.history, o.o))
    command = add(history)
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=STORAGE)
    command.set_defaults(run=lambda o: history(o.folder, o.o))
    command = add(gate)
    command.add_argument("new", metavar="NEW", type=Path)
    command.add_argument("--history", metavar="DIR", type=Path, default=STORAGE)
    command.add_argument(
        "--confirm", metavar="RUN", type=Path, help="a second run of the same grid and code"
    )
    command.add_argument(
        "--strict", action="store_true", help="exit with status 3 if no cell could be judged"
    )
    command.set_defaults(run=lambda o: gate(o.new, o.history, o.confirm, o.strict, o.o))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    options = make_parser().parse_args(arguments)
    matplotlib.use("Agg")  # needs no display
    try:
        status: int = options.run(options)
        return status
    except UnreadableRun as error:
        print(f"reports: {error}", file=sys.stderr)
    except OSError as error:
        print(f"reports: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    except Exception:  # Python would exit with status 1, which means a regression
        traceback.print_exc()
    return 2


if __name__ == "__main__":
    sys.exit(main())
