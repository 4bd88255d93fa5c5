"""Tables, pictures and verdicts from saved runs: python -m reports COMMAND"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import matplotlib

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun
from reports.drawing import matrix, plots
from reports.output_files import distinct_names, write_whole
from reports.runs import STORAGE, newest
from reports.terminal import allow_all_characters, complain, say

if TYPE_CHECKING:
    from reports.comparability import Run
    from reports.verdict import Verdict

# The commands import what they need. matplotlib.pyplot takes a second to import, and main()
# selects matplotlib's backend before that.


def validation(runs: list[Path], folder: Path) -> int:
    """Write validation.md: clock, repeatability, rounds and lengths, with the targets."""
    from reports.validation import validation_report

    text = validation_report(runs)
    path = write_whole(folder / "validation.md", text)
    say(f"{text}\nas a file: {path}")
    return 0


def compare(base: Path, new: Path, history: Path | None, folder: Path) -> int:
    """Compare two runs. Without --history, a change is at most SUSPECT."""
    from reports.comparability import incomplete_note, load_history, load_run
    from reports.compare import compare_runs

    base_run, new_run = load_run(base), load_run(new)
    runs, notes = load_history(history, []) if history else ([], [])
    verdict = compare_runs(base_run, new_run, runs)
    verdict.notes += [*incomplete_note(base_run), *incomplete_note(new_run), *notes]
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
    require_whole(run)
    if confirming_run:
        require_whole(confirming_run)
    runs, notes = load_history(history, [run, confirming_run] if confirming_run else [run])
    verdict = judge_run(run, runs, confirming_run, strict)
    verdict.notes += notes
    write_changes(verdict, "gate", f"gate {new.name} (torch {run.torch})", folder)
    if verdict.is_inconclusive:
        say(f"*** {verdict.conclusion}: no cell could be judged, so this is no all-clear ***")
    return verdict.exit_status


def require_whole(run: Run) -> None:
    """Raises UnreadableRun if the run ended early: its missing cells may be the slow ones."""
    if run.incomplete:
        raise UnreadableRun(
            f"{run.path}: {run.incomplete}; end the run with --resume, then judge it"
        )


def write_changes(verdict: Verdict, command: str, title: str, folder: Path) -> None:
    """Write the tables and pictures of `compare` and `gate`."""
    from reports import writers
    from reports.plots import changes
    from reports.plots.style import save

    title = plain_text(title)  # it has the names of files
    figures = {
        "changes.png": changes.draw_changes(verdict.cells, title),
        "heat.png": changes.draw_heat_map(verdict.cells, title),
    }
    writers.write_verdict(verdict, command, title, folder)
    saved = [str(save(figure, folder / name)) for name, figure in figures.items() if figure]
    say(f"in {folder}/: summary.md, verdict.json; {', '.join(saved) or 'nothing to draw'}")


def history(storage: Path, folder: Path, part_of_name: str | None) -> int:
    """Draw all saved runs of one machine as trends, with the steps in them."""
    from reports import writers
    from reports.comparability import load_history
    from reports.history import build_history, cells_to_draw
    from reports.plots import changes
    from reports.plots.style import save

    runs, notes = load_history(storage, [])
    verdict, trends = build_history(runs, part_of_name)
    verdict.notes += notes
    drawn = cells_to_draw(verdict.cells)
    if left_out := len(verdict.cells) - len(drawn):
        advice = "-k TEXT draws the cells with that text in their names"
        verdict.notes.append(f"{left_out} cells are left out of the pictures; {advice}")
    writers.write_verdict(verdict, "history", f"history of {storage}", folder)
    pages = [
        ((str(mask), str(direction)), cells)
        for (mask, direction), cells in drawn.groupby(["mask", "direction"], sort=False)
    ]
    names = distinct_names(page for page, _ in pages)
    for page, cells in pages:
        figure = changes.draw_trends(trends, cells, f"{' '.join(page)}, {verdict.conclusion}")
        save(figure, folder / "trends" / f"{names[page]}.png")
    say(f"in {folder}/: summary.md, verdict.json, and {len(pages)} pictures in trends/")
    return 0


def releases(runs: list[Path], file: Path) -> int:
    """Write what changed between releases of torch into a document, between its markers."""
    from reports.generated import replace_generated
    from reports.releases import NAME, releases_report

    path = replace_generated(file, NAME, releases_report(runs))
    say(f"between the markers of {path}: what changed between releases")
    return 0


class Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print."""

    def error(self, message: str) -> NoReturn:
        super().error(plain_text(message))


def make_parser() -> argparse.ArgumentParser:
    """The parser. Its result has `run`, a function that takes the result and runs the command."""
    parser = Parser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(function: Callable[..., int], note: str = "") -> argparse.ArgumentParser:
        text = f"{function.__doc__}{note}"
        summary = f"{function.__doc__}".split(" Exit ")[0]
        command = commands.add_parser(function.__name__, help=summary, description=text)
        command.add_argument(
            "-o", metavar="DIR", type=Path, default=Path("plots"), help="output folder"
        )
        return command

    def add_selection(command: argparse.ArgumentParser) -> None:
        text = "only the cells with TEXT in their node ids"
        command.add_argument("-k", metavar="TEXT", dest="part_of_name", help=text)

    parts = " Several files are read as the parts of one run."
    default = " Default: the run saved last under .benchmarks/."
    for function in (plots, matrix):
        command = add(function, parts + default)
        command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
        add_selection(command)
        command.set_defaults(run=lambda o, f=function: f(o.runs or [newest()], o.o, o.part_of_name))
    command = add(validation, " Each file is a run." + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    command.set_defaults(run=lambda o: validation(o.runs or [newest()], o.o))
    command = add(compare)
    command.add_argument("base", metavar="BASE", type=Path)
    command.add_argument("new", metavar="NEW", type=Path)
    command.add_argument("--history", metavar="DIR", type=Path, help="runs that show the noise")
    command.set_defaults(run=lambda o: compare(o.base, o.new, o.history, o.o))
    command = add(history)
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=STORAGE)
    add_selection(command)
    command.set_defaults(run=lambda o: history(o.folder, o.o, o.part_of_name))
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
    command = commands.add_parser(
        "releases", help=releases.__doc__, description=f"{releases.__doc__} Each file is a run."
    )
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    default_file = Path("docs/releases.md")
    text = f"the document (default: {default_file})"
    command.add_argument("-o", metavar="FILE", type=Path, default=default_file, help=text)
    command.set_defaults(run=lambda o: releases(o.runs, o.o))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    allow_all_characters()
    options = make_parser().parse_args(arguments)
    matplotlib.use("Agg")  # needs no display
    try:
        status: int = options.run(options)
        return status
    except UnreadableRun as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename or 'output'}: {error.strerror}")
    except Exception:  # Python would exit with status 1, which means a regression
        traceback.print_exc()
    return 2


if __name__ == "__main__":
    sys.exit(main())
