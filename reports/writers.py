"""What compare, history and gate leave behind: a table, summary.md, verdict.json and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from reports.gate import Verdict
from reports.plots.changes import short
from reports.runs import markdown

# First what somebody must look at.
ORDER = (
    *("REGRESSION", "failing", "vanished", "no longer timed", "SLOW", "SLOWER", "STEP"),
    *("AMBIGUOUS", "SUSPECT slower", "IMPROVEMENT", "FAST", "FASTER", "SUSPECT faster"),
    *("noisy", "not comparable", "too few runs", "new", "note", "level", "same"),
)
QUIET = {"same", "level", "new", "too few runs"}
LARGEST = 900 * 1024  # bytes of a summary: GitHub takes 1 MiB for a step
PRINTED = 40  # rows on the terminal


def ranked(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows that matter most first."""
    place = {status: i for i, status in enumerate(ORDER)}
    size = cells["change"].abs() if "change" in cells else pd.Series(0.0, cells.index)
    keys = cells.assign(place=cells["status"].map(place), size=-size.fillna(0))
    return cells.loc[keys.sort_values(["place", "size"], kind="stable").index]


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """What a person reads of each row."""
    shown = {"status": cells["status"], "cell": [short(name) for name in cells.index]}
    shown["direction"] = cells["direction"].fillna("")
    for column, title, digits in (
        ("base_s", "before, us", "{:.1f}"),
        ("new_s", "after, us", "{:.1f}"),
        ("median_s", "median, us", "{:.1f}"),
    ):
        if column in cells:
            shown[title] = [digits.format(1e6 * v) if v > 0 else "" for v in cells[column]]
    for column, title in (
        *(("change", "change"), ("half", "± interval"), ("noise", "noise")),
        ("detectable", "detectable"),
    ):
        if column in cells:
            form = "{:+.1%}" if column == "change" else "{:.1%}"
            shown[title] = [form.format(v) if math.isfinite(v) else "" for v in cells[column]]
    if "n" in cells:
        shown["runs"] = cells["n"]
    shown["reason"] = cells["reason"].fillna("")
    return pd.DataFrame(shown)


def counted(verdict: Verdict) -> str:
    counts = verdict.cells["status"].value_counts()
    return ", ".join(f"{counts[status]} {status}" for status in ORDER if status in counts)


def summary(verdict: Verdict, title: str) -> str:
    """Markdown: the verdict and counts, what changed, the rest folded; never over LARGEST."""
    cells = ranked(verdict.cells)
    loud = cells[~cells["status"].isin(QUIET)]
    parts = [f"## {title}: {verdict.word}", counted(verdict)]
    parts += [f"- {note}" for note in verdict.notes]
    parts.append(markdown(table(loud)) if len(loud) else "No cell stands out.")
    rest = table(cells[cells["status"].isin(QUIET)])
    head = "\n\n".join(parts)
    if len(head.encode()) > LARGEST:
        head = head.encode()[: LARGEST - 100].decode(errors="ignore") + "\n\n(cut)"
        return head + "\n"
    folded = "<details><summary>{} cells more</summary>\n\n{}\n\n</details>"
    every = len(rest)
    while len(rest) and len((head + folded.format(0, markdown(rest))).encode()) > LARGEST - 100:
        rest = rest.iloc[: len(rest) // 2]
    shown = every if len(rest) == every else f"{len(rest)} of {every}"
    return f"{head}\n\n{folded.format(shown, markdown(rest))}\n" if every else head + "\n"


def finite(value):
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def record(verdict: Verdict, command: str) -> dict:
    """verdict.json: for programs, such as the nightly job."""
    cells = ranked(verdict.cells).drop(columns=["x", "row"], errors="ignore")
    rows = cells.reset_index().to_dict("records")
    return {
        "command": command,
        "verdict": verdict.word,
        "status": verdict.code,
        "counts": {k: int(n) for k, n in verdict.cells["status"].value_counts().items()},
        "notes": verdict.notes,
        "cells": [{key: finite(value) for key, value in row.items()} for row in rows],
    }


def tell(verdict: Verdict, command: str, title: str, folder: Path) -> None:
    """Print the table, write summary.md and verdict.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.md").write_text(summary(verdict, title), encoding="utf-8")
    text = json.dumps(record(verdict, command), indent=1, allow_nan=False)
    (folder / "verdict.json").write_text(text, encoding="utf-8")
    cells = ranked(verdict.cells)
    print(table(cells.head(PRINTED)).to_string(index=False))
    if len(cells) > PRINTED:
        print(f"... and {len(cells) - PRINTED} cells more, in {folder / 'summary.md'}")
    for note in verdict.notes:
        print(f"note: {note}")
    print(f"{title}: {verdict.word} ({counted(verdict)})")
