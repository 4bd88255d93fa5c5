"""Tables, pictures and verdicts from saved runs: python -m reports COMMAND"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import matplotlib

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun
from reports.documents import (
    accuracy,
    decode,
    gate_accuracy,
    kernel_options,
    mask_mod_variants,
    options,
    published,
    ranking,
    releases,
    tuned_gains,
    validation,
)
from reports.drawing import matrix, plots
from reports.output_files import require_folder
from reports.runs import STORAGE, newest
from reports.tables import TableFormat
from reports.terminal import allow_all_characters, complain, say, table_printer
from reports.tracking import accept, compare, gate, history


def page(runs: list[Path], history: Path | None, acceptances: Path | None, folder: Path) -> int:
    """Write one HTML file with the fastest backends, masks, cells, trends and a comparison."""
    from reports.page.build import write_page

    path = write_page(runs, history, acceptances, folder)
    say(f"{path}: {path.stat().st_size / 1e6:.2f} MB, of {', '.join(map(str, runs))}")
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
        function: Callable[..., int], note: str = "", has_folder: bool = True
    ) -> argparse.ArgumentParser:
        text = f"{function.__doc__}{note}"
        summary = f"{function.__doc__}".split(" Exit ")[0]
        command = commands.add_parser(function.__name__, help=summary, description=text)
        if has_folder:
            text = "output folder (default: %(default)s)"
            command.add_argument("-o", metavar="DIR", type=Path, default=Path("plots"), help=text)
        return command

    def add_document(function: Callable[..., int], note: str = "") -> argparse.ArgumentParser:
        command = add(function, note, has_folder=False)
        text = "write Markdown between the markers of this document instead of printing it"
        command.add_argument("-o", dest="document", metavar="FILE", type=Path, help=text)
        add_format(command)
        return command

    def add_selection(command: argparse.ArgumentParser) -> None:
        text = "only the cells with TEXT in their node ids"
        command.add_argument("-k", metavar="TEXT", dest="part_of_name", help=text)

    def add_format(command: argparse.ArgumentParser) -> None:
        text = (
            "how the report is printed (default: %(default)s); with csv and json, only one table "
            "is on stdout, with markdown the whole report"
        )
        command.add_argument(
            "--format", choices=[form.value for form in TableFormat], default="text", help=text
        )

    def add_acceptances(command: argparse.ArgumentParser) -> None:
        text = "accepted changes (default: acceptances.json in the history's folder)"
        command.add_argument("--acceptances", metavar="FILE", type=Path, help=text)

    def add_night(command: argparse.ArgumentParser) -> None:
        command.add_argument("new", metavar="RUN", nargs="+", type=Path, help="the runs of a night")
        command.add_argument("--history", metavar="DIR", type=Path, default=STORAGE)
        add_acceptances(command)

    parts = " Several files are read as the parts of one run."
    default = " Default: the run saved last under .benchmarks/."
    command = add(plots, parts + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    add_selection(command)
    command.set_defaults(run=lambda o: plots(o.runs or [newest()], o.o, o.part_of_name))
    command = add(matrix, parts + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    add_selection(command)
    add_format(command)
    command.set_defaults(run=lambda o: matrix(o.runs or [newest()], o.o, o.part_of_name, o.printer))
    command = add_document(ranking, parts + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    add_selection(command)
    command.set_defaults(
        run=lambda o: ranking(o.runs or [newest()], o.document, o.part_of_name, o.printer)
    )
    command = add(page, parts + " Those of another device or torch are another run." + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    text = "runs that are shown as trends"
    command.add_argument("--history", metavar="DIR", type=Path, help=text)
    add_acceptances(command)
    command.set_defaults(run=lambda o: page(o.runs or [newest()], o.history, o.acceptances, o.o))
    command = add_document(validation, " Each file is a run." + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    command.set_defaults(run=lambda o: validation(o.runs or [newest()], o.document, o.printer))
    command = add_document(mask_mod_variants, parts + default)
    command.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    command.set_defaults(
        run=lambda o: mask_mod_variants(o.runs or [newest()], o.document, o.printer)
    )
    command = add_document(accuracy, " Each file is a run.")
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: accuracy(o.runs, o.document, o.printer))
    command = add_document(decode, " Each file is a run.")
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: decode(o.runs, o.document, o.printer))
    command = add_document(published, parts)
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: published(o.runs, o.document, o.printer))
    command = add(compare)
    command.add_argument("base", metavar="BASE", nargs="+", type=Path)
    command.add_argument(
        "--new", metavar="NEW", nargs="+", type=Path, help="default: the last file"
    )
    command.add_argument("--history", metavar="DIR", type=Path, help="runs that show the noise")
    add_format(command)
    comparing = command
    command.set_defaults(run=lambda o: compare(*two_sides(comparing, o), o.history, o.o, o.printer))
    command = add(history)
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=STORAGE)
    add_selection(command)
    add_format(command)
    command.set_defaults(run=lambda o: history(o.folder, o.o, o.part_of_name, o.printer))
    command = add(gate)
    add_night(command)
    command.add_argument(
        "--strict", action="store_true", help="exit with status 3 if no cell could be judged"
    )
    add_format(command)
    command.set_defaults(
        run=lambda o: gate(o.new, o.history, o.acceptances, o.strict, o.o, o.printer)
    )
    command = add_document(gate_accuracy)
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: gate_accuracy(o.runs, o.document, o.printer))
    command = add(accept, has_folder=False)
    add_night(command)
    add_selection(command)
    command.add_argument("--because", metavar="TEXT", required=True, help="the reason")
    command.set_defaults(
        run=lambda o: accept(o.new, o.history, o.acceptances, o.because, o.part_of_name)
    )
    command = add_document(releases, " Each file is a run.")
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: releases(o.runs, o.document, o.printer))
    command = add_document(kernel_options)
    command.set_defaults(run=lambda o: kernel_options(o.document, o.printer))
    text = " Files of the same GPU and torch are read as the parts of one run."
    command = add_document(tuned_gains, text)
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    command.set_defaults(run=lambda o: tuned_gains(o.runs, o.document, o.printer))
    command = add(options, has_folder=False)
    command.add_argument("mask", metavar="MASK", help="a mask, as in --masks or in node ids")
    command.set_defaults(run=lambda o: options(o.mask))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    allow_all_characters()
    parser = make_parser()
    options = parser.parse_args(arguments)
    form = TableFormat(getattr(options, "format", "text"))
    if form.is_for_programs and getattr(options, "document", None):
        parser.error(f"-o writes Markdown: leave out -o, and --format {form} goes to stdout")
    matplotlib.use("Agg")  # needs no display
    try:
        if folder := getattr(options, "o", None):
            require_folder(folder)
        with table_printer(form) as options.printer:
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
