"""A report: paragraphs and tables, for the terminal, for a document, or for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd

from reports.markdown import markdown_table, markdown_text
from reports.tables import TableFormat, table_text


@dataclass(frozen=True)
class Heading:
    """A heading of the Markdown level `level`."""

    text: str
    level: int


@dataclass(frozen=True)
class Label:
    """A line that introduces the table below it. It says nothing without the table."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph that has markup in Markdown, such as links."""

    text: str
    markdown: str


Part: TypeAlias = "str | Heading | Label | Paragraph | Sequence[str] | pd.DataFrame"
"""A text is a paragraph, a sequence of texts is a list."""


@dataclass(frozen=True)
class Report:
    """What a command prints, or writes into a document.

    Parameters
    ----------
    parts
        Paragraphs and tables for readers, in their order.
    data
        The tables for programs by name: numbers in base units where `parts` has texts.
    """

    parts: Sequence[Part]
    data: Mapping[str, pd.DataFrame]

    def markdown(self) -> str:
        """The report for a document."""
        return "\n\n".join(map(_markdown, self.parts))

    def text(self) -> str:
        """The report for a terminal."""
        return "\n\n".join(map(_text, self.parts))

    def paragraphs(self) -> list[str]:
        """The paragraphs, without headings, labels, lists and tables."""
        paragraphs = (part for part in self.parts if isinstance(part, str | Paragraph))
        return [part if isinstance(part, str) else part.text for part in paragraphs]

    def table(self) -> pd.DataFrame:
        """One table for programs. If there are several, its first column is the name of each."""
        if len(self.data) == 1:
            return next(iter(self.data.values()))
        named = []
        for name, table in self.data.items():
            named.append(table.astype(object))  # integers stay integers beside missing values
            named[-1].insert(0, "table", name)
        stacked: pd.DataFrame = pd.concat(named, ignore_index=True)
        return stacked


def _markdown(part: Part) -> str:
    if isinstance(part, pd.DataFrame):
        return markdown_table(part)
    if isinstance(part, Heading):
        return f"{'#' * part.level} {markdown_text(part.text)}"
    if isinstance(part, Paragraph):
        return part.markdown
    if isinstance(part, str | Label):
        return markdown_text(part if isinstance(part, str) else part.text)
    return "\n".join(f"- {markdown_text(line)}" for line in part)


def _text(part: Part) -> str:
    if isinstance(part, pd.DataFrame):
        return table_text(part, TableFormat.TEXT)
    if isinstance(part, Heading):
        return f"{part.text}\n{'-' * len(part.text)}"
    if isinstance(part, Paragraph | Label):
        return part.text
    if isinstance(part, str):
        return part
    return "\n".join(f"- {line}" for line in part)
