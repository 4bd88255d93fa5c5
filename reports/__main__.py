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


def compare(base: list[Path], new: list[Path], history: Path | None, folder: Path) -> int:
    """Compare runs of two versions. With one run on each side, a change is at most SUSPECT."""
    from reports.comparability import incomplete_note, load_history, load_run
    from reports.compare import compare_sides
    from reports.nights import as_night

    base_runs, base_notes = as_night([load_run(path) for path in base])
    new_runs, new_notes = as_night([load_run(path) for path in new])
    sides = [*base_runs, *new_runs]
    runs, notes = load_history(history, sides) if history else ([], [])
    verdict = compare_sides(base_runs, new_runs, runs)
    incomplete = [note for run in sides for note in incomplete_note(run)]
    verdict.notes += [*base_notes, *new_notes, *incomplete, *notes]
    title = f"compare {described(base_runs)} to {described(new_runs)}"
    write_changes(verdict, "compare", title, folder)
    return verdict.exit_status


def gate(
    new: list[Path], history: Path, acceptances: Path | None, strict: bool, folder: Path
) -> int:
    """Judge the runs of a night by earlier runs, for CI. Exit status: 0 no regression, 1 a
    regression or cells that are no longer timed, 2 bad usage or unreadable file, 3 (with --strict)
    nothing could be compared."""
    from reports.acceptances import read_acceptances
    from reports.comparability import ACCEPTANCES, load_history, load_run
    from reports.gate import judge_night
    from reports.nights import as_night

    night, notes = as_night([load_run(path) for path in new])
    for run in night:
        require_whole(run)
    accepted = read_acceptances(acceptances or history / ACCEPTANCES)
    runs, history_notes = load_history(history, night)
    verdict = judge_night(night, runs, accepted, strict)
    verdict.notes += [*notes, *history_notes]
    write_changes(verdict, "gate", f"gate {described(night)}", folder)
    if verdict.is_inconclusive:
        say(f"*** {verdict.conclusion}: no cell could be judged, so this is no all-clear ***")
    if verdict.exit_status == 1:
        say("a change that is meant: python -m reports accept RUN... --because TEXT")
    return verdict.exit_status


def accept(
    new: list[Path],
    history: Path,
    acceptances: Path | None,
    because: str,
    part_of_name: str | None,
    folder: Path,
) -> int:
    """Accept the times of runs as the new baseline. Cells that they lack are not expected."""
    from reports.acceptances import accept_night
    from reports.comparability import ACCEPTANCES, load_history, load_run
    from reports.nights import as_night

    night, notes = as_night([load_run(path) for path in new])
    for run in night:
        require_whole(run)
    path = acceptances or history / ACCEPTANCES
    runs = load_history(history, night)[0] if history.is_dir() else []
    known = {name for run in (*runs, *night) for name in run.rows}
    added = accept_night(night, known, because, part_of_name, path)
    cells = sum(part_of_name is None or part_of_name in name for name in known)
    for note in notes:
        say(f"note: {plain_text(note)}")
    say(f"{path}: {cells} cells are accepted as they are in {described(night)}: {added.because}")
    return 0


def gate_accuracy(runs: list[Path], page: Path) -> int:
    """Measure on runs of unchanged code how often the gate is wrong, and write the tables into a
    page, between its markers. It takes minutes."""
    from reports.comparability import load_run
    from reports.gate_accuracy import accuracy_report
    from reports.generated import generated_part, replace_generated
    from reports.other_methods import require_packages

    require_packages()
    generated_part(page, "reports gate_accuracy")  # fails now rather than after minutes
    loaded = sorted((load_run(path) for path in runs), key=lambda run: run.saved)
    say(f"in {replace_generated(page, 'reports gate_accuracy', accuracy_report(loaded))}")
    return 0


def described(runs: list[Run]) -> str:
    """The files and the torch of one night, for titles."""
    names = ", ".join(run.path.name for run in runs)
    return f"{names} (torch {runs[0].torch})"


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


def releases(runs: list[Path], page: Path) -> int:
    """Write what changed between releases of torch into a document, between its markers."""
    from reports.generated import replace_generated
    from reports.releases import NAME, releases_report

    path = replace_generated(page, NAME, releases_report(runs))
    say(f"between the markers of {path}: what changed between releases")
    return 0


def two_sides(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[list[Path], list[Path]]:
    """The files of both sides of compare."""
    if options.new:
        return options.base, options.new
    if len(options.base) != 2:
        parser.error("name two files, or several on each side: compare BASE... --new NEW...")
    return options.base[:1], options.base[1:]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print."""

    def error(self, message: str) -> NoReturn:
        super().error(plain_text(message))


def make_parser() -> argparse.ArgumentParser:
    """The parser. Its result has `run`, a function that takes the result and runs the command."""
    parser = Parser(prog="python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        function: Callable[..., int], note: str = "", page: Path | None = None
    ) -> argparse.ArgumentParser:
        text = f"{function.__doc__}{note}"
        summary = f"{function.__doc__}".split(" Exit ")[0]
        command = commands.add_parser(function.__name__, help=summary, description=text)
        if page:
            text = f"the page with the markers (default: {page})"
            command.add_argument("-o", metavar="FILE", type=Path, default=page, help=text)
        else:
            text = "output folder"
            command.add_argument("-o", metavar="DIR", type=Path, default=Path("plots"), help=text)
        return command

    def add_selection(command: argparse.ArgumentParser) -> None:
        text = "only the cells with TEXT in their node ids"
        command.add_argument("-k", metavar="TEXT", dest="part_of_name", help=text)

    def add_night(command: argparse.ArgumentParser) -> None:
        command.add_argument("new", metavar="RUN", nargs="+", type=Path, help="the runs of a night")
        command.add_argument("--history", metavar="DIR", type=Path, default=STORAGE)
        text = "accepted changes (default: acceptances.json in the history's folder)"
        command.add_argument("--acceptances", metavar="FILE", type=Path, help=text)

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
    command.add_argument("base", metavar="BASE", nargs="+", type=Path)
    command.add_argument(
        "--new", metavar="NEW", nargs="+", type=Path, help="default: the last file"
    )
    command.add_argument("--history", metavar="DIR", type=Path, help="runs that show the noise")
    command.set_defaults(run=lambda o: compare(*two_sides(command, o), o.history, o.o))
    command = add(history)
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=STORAGE)
    add_selection(command)
    command.set_defaults(run=lambda o: history(o.folder, o.o, o.part_of_name))
    command = add(gate)
    add_night(command)
    command.add_argument(
        "--strict", action="store_true", help="exit with status 3 if no cell could be judged"
    )
    command.set_defaults(run=lambda o: gate(o.new, o.history, o.acceptances, o.strict, o.o))
    command = add(gate_accuracy, page=Path("docs/regressions.md"))
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: gate_accuracy(o.runs, o.o))
    command = add(accept)
    add_night(command)
    add_selection(command)
    command.add_argument("--because", metavar="TEXT", required=True, help="the reason")
    command.set_defaults(
        run=lambda o: accept(o.new, o.history, o.acceptances, o.because, o.part_of_name, o.o)
    )
    command = add(releases, " Each file is a run.", page=Path("docs/releases.md"))
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
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
