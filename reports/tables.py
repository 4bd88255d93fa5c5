"""A table as text, CSV, JSON or Markdown: what `--format` chooses."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from maskbench.records import TextEnum
from reports.markdown import markdown_table


class TableFormat(TextEnum):
    """The values of `--format`."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"

    @property
    def is_for_programs(self) -> bool:
        return self in (TableFormat.CSV, TableFormat.JSON)


def table_text(table: pd.DataFrame, form: TableFormat) -> str:
    """The table in a format, without its index.

    JSON is a list with an object for each row. NaN and infinity are null in JSON and empty in CSV.
    """
    if form is TableFormat.MARKDOWN:
        return markdown_table(table)
    if form is TableFormat.TEXT:
        return str(table.to_string(index=False))
    rows = [
        {str(name): json_value(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    if form is TableFormat.JSON:
        return json.dumps(rows, indent=1, allow_nan=False)
    finite = pd.DataFrame(rows, columns=table.columns, dtype=object)
    return str(finite.to_csv(index=False)).rstrip("\n")


def json_value(value: Any) -> Any:
    """A value that JSON has: no numpy types, and null for NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
