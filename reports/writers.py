"""Writes the results of compare, history and gate: a table, summary.md and verdict.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbench.plain_text import plain_text
from reports.markdown import markdown_table, markdown_text
from reports.output_files import write_whole
from reports.runs import cell_label
from reports.tables import TableFormat, json_value
from reports.terminal import TablePrinter, say
from reports.verdict import Status, Verdict

QUIET = {
    Status.SAME,
    Status.LEVEL,
    Status.NEW,
    Status.TOO_FEW_RUNS,
    Status.WITHIN_NOISE,
    Status.ACCEPTED,
}
SAME_RANK = {Status.FASTER: Status.SLOWER, Status.SUSPECT_FASTER: Status.SUSPECT_SLOWER}
MAX_SUMMARY_BYTES = 900 * 1024  # GitHub accepts 1 MiB per step
PRINTED_ROWS = 40
COMMENT_ROWS = 5
COMMENT_NOTES = 10
COMMENT_MARKER = "<!-- maskbench -->"  # by which nightly.yml finds its comment
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#999999"  # of a badge, which also says it in words
TIME_COLUMNS = {"base_s": "before, us", "new_s": "after, us", "median_s": "median, us"}
SHARE_COLUMNS = {
    "change": ("change", "{:+.1%}"),
    "change_s": ("in seconds", "{:+.1%}"),
    "half": ("± interval", "{:.1%}"),
    "noise": ("noise", "{:.1%}"),
    "detectable": ("detectable", "{:.1%}"),
}


def ranked(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows by the order of their statuses, then by the size of their change."""
    order = list(Status)
    place = {status.value: order.index(SAME_RANK.get(status, status)) for status in Status}
    size = cells["change"].abs() if "change" in cells else pd.Series(0.0, cells.index)
    keys = cells.assign(place=cells["status"].map(place), size=-size.fillna(0))
    ordered: pd.DataFrame = cells.loc[keys.sort_values(["place", "size"], kind="stable").index]
    return ordered


def one_row_per_group(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows, with one for all cells that were lost as a group, named after the group."""
    if "group" not in cells:
        return cells
    groups = cells["group"].fillna("").to_numpy()
    is_grouped = groups != ""
    repeated = is_grouped & cells.duplicated(["group", "status"]).to_numpy()
    names = np.where(is_grouped, groups, cells.index)
    times = [column for column in TIME_COLUMNS if column in cells]
    shown: pd.DataFrame = cells.set_axis(names)
    shown.loc[is_grouped, times] = math.nan  # those of one cell say nothing of the group
    once: pd.DataFrame = shown[~repeated]
    return once


def display_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The columns for readers, as text."""
    cells = one_row_per_group(cells)
    shown: dict[str, Any] = {"status": cells["status"]}
    shown["cell"] = [cell_label(str(name)) for name in cells.index]
    directions = cells["direction"].fillna("")
    if "group" in cells:  # a group may have both
        directions = directions.where(cells["group"].fillna("") == "", "")
    shown["direction"] = directions
    for column, title in TIME_COLUMNS.items():
        if column in cells:
            shown[title] = [f"{1e6 * v:.1f}" if v > 0 else "" for v in cells[column]]
    for column, (title, form) in SHARE_COLUMNS.items():
        if column in cells:
            shown[title] = [form.format(v) if math.isfinite(v) else "" for v in cells[column]]
    if "detectable" in cells:  # of few nights on a CPU it can be any number
        is_large = (cells["detectable"] >= 1).to_numpy()
        shown["detectable"] = np.where(is_large, "over 100%", shown["detectable"])
    if "n" in cells:
        shown["runs"] = [f"{n:.0f}" if n > 0 else "" for n in cells["n"]]
    shown["reason"] = cells["reason"].fillna("")
    table: pd.DataFrame = pd.DataFrame(shown)
    return table


def counted(verdict: Verdict) -> str:
    """The number of cells of each status."""
    counts = dict(verdict.cells["status"].value_counts())
    return ", ".join(f"{counts[status]} {status}" for status in Status if status in counts)


def summary(verdict: Verdict, title: str) -> str:
    """summary.md: the verdict, the counts, what changed, and the other cells folded.

    It has at most MAX_SUMMARY_BYTES: other cells are left out first.
    """
    cells = ranked(verdict.cells)
    is_quiet = cells["status"].isin(QUIET)
    parts = [f"## {markdown_text(title)}: {verdict.conclusion}", counted(verdict)]
    parts += [f"- {markdown_text(note)}" for note in verdict.notes]
    changed = display_table(cells[~is_quiet])
    parts.append(markdown_table(changed) if len(changed) else "No cell stands out.")
    head = "\n\n".join(parts)
    if len(head.encode()) > MAX_SUMMARY_BYTES:
        return head.encode()[: MAX_SUMMARY_BYTES - 100].decode(errors="ignore") + "\n\n(cut)\n"
    rest = display_table(cells[is_quiet])
    folded = "<details><summary>{} more cells</summary>\n\n{}\n\n</details>"
    total, allowed = len(rest), MAX_SUMMARY_BYTES - 100
    while len(rest) and len((head + folded.format(0, markdown_table(rest))).encode()) > allowed:
        rest = rest.iloc[: len(rest) // 2]
    shown = total if len(rest) == total else f"{len(rest)} of {total}"
    return f"{head}\n\n{folded.format(shown, markdown_table(rest))}\n" if total else head + "\n"


def comment(verdict: Verdict, title: str) -> str:
    """comment.md, for a pull request: the verdict, the counts and the five largest changes.

    Changes that stand out come before those within the noise. The text is far below the 64 KiB
    that GitHub accepts.
    """
    is_quiet = verdict.cells["status"].isin(QUIET)
    notable = display_table(ranked(verdict.cells[~is_quiet]))
    changed = verdict.cells[is_quiet & verdict.cells["change"].notna()]
    largest = changed["change"].abs().sort_values(ascending=False, kind="stable").index
    quiet = display_table(verdict.cells.loc[largest[: max(0, COMMENT_ROWS - len(notable))]])
    cells = pd.concat([notable.head(COMMENT_ROWS), quiet])
    parts = [COMMENT_MARKER, f"**{markdown_text(title[:1000])}: {verdict.conclusion}**"]
    parts.append(counted(verdict))
    parts += [f"- {markdown_text(note[:500])}" for note in verdict.notes[:COMMENT_NOTES]]
    if len(cells):
        parts.append(markdown_table(cells.map(lambda value: str(value)[:300])))
    if len(notable) > COMMENT_ROWS:
        parts.append(f"{len(notable) - COMMENT_ROWS} more rows are in summary.md of the job.")
    return "\n\n".join(parts) + "\n"


def badge(verdict: Verdict) -> dict[str, str | int]:
    """badge.json, for the endpoint badge of https://shields.io."""
    color = VERMILLION if verdict.exit_status else GREY if verdict.is_inconclusive else BLUE
    return {
        "schemaVersion": 1,
        "label": "maskbench",
        "message": verdict.conclusion.lower(),
        "color": color,
    }


def verdict_data(verdict: Verdict) -> pd.DataFrame:
    """The cells for programs, the most important first."""
    cells = ranked(verdict.cells).drop(columns="level_s", errors="ignore")
    table: pd.DataFrame = cells.reset_index()
    return table


def verdict_json(verdict: Verdict, command: str) -> dict[str, Any]:
    """verdict.json, for programs such as a nightly job."""
    rows = verdict_data(verdict).to_dict("records")
    return {
        "command": command,
        "verdict": verdict.conclusion,
        "status": verdict.exit_status,
        "counts": {k: int(n) for k, n in verdict.cells["status"].value_counts().items()},
        "notes": [plain_text(note) for note in verdict.notes],
        "cells": [{str(key): json_value(value) for key, value in row.items()} for row in rows],
    }


def write_verdict(
    verdict: Verdict, command: str, title: str, folder: Path, printer: TablePrinter
) -> None:
    """Print the table, or in Markdown the summary. Write summary.md and verdict.json into `folder`.

    For the gate, write comment.md and badge.json, too.
    """
    markdown = summary(verdict, title)
    write_whole(folder / "summary.md", markdown)
    if command == "gate":
        write_whole(folder / "badge.json", json.dumps(badge(verdict)))
        write_whole(folder / "comment.md", comment(verdict, title))
    text = json.dumps(verdict_json(verdict, command), indent=1, allow_nan=False)
    write_whole(folder / "verdict.json", text)
    if printer.form is TableFormat.MARKDOWN:
        say(markdown.rstrip(), printer.stream)
    elif printer.form.is_for_programs:
        printer.write(verdict_data(verdict))
    else:
        rows = display_table(ranked(verdict.cells))
        printer.write(rows.head(PRINTED_ROWS))
        if len(rows) > PRINTED_ROWS:
            more = len(rows) - PRINTED_ROWS
            say(f"... and {more} more rows, in {folder / 'summary.md'}")
    for note in verdict.notes:
        say(f"note: {plain_text(note)}")
    say(f"{plain_text(title)}: {verdict.conclusion} ({counted(verdict)})")
