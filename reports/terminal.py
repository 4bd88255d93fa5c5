"""What the commands print. Its texts are from saved runs and file names, made by others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from typing import TextIO

import pandas as pd

from maskbench.plain_text import plain_text
from reports.tables import TableFormat, table_text


def allow_all_characters() -> None:
    """Print an escape for each character that the terminal's encoding lacks, such as ASCII's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines, to stdout if no stream is given."""
    print("\n".join(map(plain_text, text.split("\n"))), flush=True, file=stream)


def complain(text: str) -> None:
    """Print an error or a warning as one line."""
    print(plain_text(f"reports: {text}"), file=sys.stderr, flush=True)


class TablePrinter:
    """Prints the tables of a command in the format that the user chose."""

    def __init__(self, form: TableFormat = TableFormat.TEXT) -> None:
        self.form, self.stream = form, sys.stdout

    def write(self, table: pd.DataFrame) -> None:
        """Print a table."""
        say(table_text(table, self.form), self.stream)


@contextmanager
def table_printer(form: TableFormat) -> Iterator[TablePrinter]:
    """A printer for a command. All else that it says goes to stderr, unless the format is text."""
    printer = TablePrinter(form)
    with redirect_stdout(sys.stdout if form is TableFormat.TEXT else sys.stderr):
        yield printer
