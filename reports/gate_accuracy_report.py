"""The tables of `reports.gate_accuracy` as a report."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd

from reports.comparability import Run
from reports.gate_accuracy import detection, drift, false_alarms, side_by_side
from reports.markdown import percent
from reports.report import Label, Part, Report
from reports.runs import incomplete_note

NAME = "reports gate_accuracy"  # of the markers in the document
MIN_SHARE = 0.4  # of the cells, for a run to count
LONG = 16384  # tokens; cells as long often meet the power limit


def accuracy_report(all_runs: Sequence[Run]) -> Report:
    """All tables.

    Parameters
    ----------
    all_runs
        Runs of unchanged code, oldest first. The cells that most of them have are judged, and
        those of LONG tokens apart.
    """
    runs = with_cells(all_runs, common_cells(all_runs))
    bound = ["at most (95 %)"]
    unchanged, scaled, methods = false_alarms(runs), detection(runs), side_by_side(runs)
    notes = [note for run in runs for note in incomplete_note(run.path, run.incomplete)]
    parts: list[Part] = [described(runs), *(f"note: {note}" for note in notes)]
    parts += [Label("Nothing changed:"), with_percent(unchanged, bound)]
    parts += [Label("Cells scaled:"), shown_detection(scaled), drift(runs)]
    parts += [Label("Other methods, in seconds:"), shown_methods(methods)]
    data = {"nothing changed": unchanged, "cells scaled": scaled, "other methods": methods}
    lengths = pd.concat([run.timed["seq_len"] for run in all_runs])
    if long := with_cells(all_runs, set(lengths.index[lengths >= LONG])):
        unchanged = data["nothing changed, long"] = false_alarms(long)
        text = f"Cells of {LONG} tokens, many of them at the power limit: {described(long)}"
        parts += [text, with_percent(unchanged, bound)]
    return Report(parts, data)


def with_cells(runs: Sequence[Run], names: Collection[str]) -> list[Run]:
    """The runs with these cells only; a run that has fewer than MIN_SHARE of them is left out."""
    found = [replace(run, cells=run.cells[run.cells.index.isin(names)]) for run in runs]
    return [run for run in found if run.rows and len(run.rows) >= MIN_SHARE * len(names)]


def common_cells(runs: Sequence[Run]) -> list[str]:
    """The cells that most of the runs have timed."""
    counts = pd.Series([name for run in runs for name in run.rows]).value_counts()
    return list(counts.index[counts > len(runs) / 2])


def described(runs: Sequence[Run]) -> str:
    """What the runs are."""
    cells = sorted({len(run.rows) for run in runs})
    whole = sum(len(run.rows) == cells[-1] for run in runs)
    cards = {run.gpu_uuid for run in runs}
    days = sorted({run.saved[:10] for run in runs})
    rest = f" and the others of {cells[0]} or more" if whole < len(runs) else ""
    return (
        f"{len(runs)} runs, {whole} of {cells[-1]} cells{rest}, each in a fresh process, on"
        f" {len(cards)} cards, {days[0]} to {days[-1]}, {runs[-1].device},"
        f" torch {runs[-1].torch}."
    )


def with_percent(table: pd.DataFrame, columns: Collection[str], digits: int = 1) -> pd.DataFrame:
    """The table with shares as texts in percent, "" for NaN."""
    texts = {
        column: ["" if math.isnan(share) else percent(share, digits) for share in table[column]]
        for column in columns
    }
    shown: pd.DataFrame = table.assign(**texts)
    return shown


def shown_detection(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `detection` for readers."""
    shown = with_percent(with_percent(table, ["found"]), ["target"], 0)
    scales = [
        "the change stated as detectable" if math.isnan(scale) else f"x{scale:.3f}".rstrip("0")
        for scale in table["scale"]
    ]
    result: pd.DataFrame = pd.DataFrame(
        {
            "scaled by": scales,
            "target": shown["target"].replace("", "stated"),
            "found": shown["found"] + " of " + table["cells"].map(str),
        }
    )
    return result


def shown_methods(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `side_by_side` for readers."""
    nights = table["red nights"].map(str) + " of " + table["nights"].map(str)
    shares = table.columns.drop(["method", "red nights", "nights"])
    shown = with_percent(table.assign(**{"red nights": nights}), shares)
    result: pd.DataFrame = shown.drop(columns="nights")
    return result
