"""Published throughputs and speed-ups beside those of runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from maskbench.records import UnreadableRun
from reports.published_speed_ups import speed_ups
from reports.published_throughputs import throughputs
from reports.report import Part, Report
from reports.runs import incomplete_notes, load, shape_of

NAME = "reports published"  # of the markers in the document


def published_report(paths: list[Path]) -> Report:
    """The published throughputs, then the published speed-ups, of which the runs have cells.

    Raises
    ------
    UnreadableRun
        As `reports.runs.load`, or if no cell is of a published case.
    """
    cells = load(paths)
    timed = cells[cells["is_timed"] & (cells["q_len"] == cells["seq_len"])]
    timed = timed.assign(shape=[shape_of(cell) for _, cell in timed.iterrows()])
    setup = f"{cells['device'].iloc[0]}, torch {cells['torch'].iloc[0]}"
    found = [throughputs(timed, setup), speed_ups(timed, setup)]
    parts: list[Part] = [f"note: {note}" for note in incomplete_notes(cells)]
    data: dict[str, pd.DataFrame] = {}
    for section in found:
        if section is not None:
            parts += section.parts
            data |= section.data
    if not data:
        names = ", ".join(map(str, paths))
        raise UnreadableRun(f"{names}: no cell is of a published case")
    return Report(parts, data)
