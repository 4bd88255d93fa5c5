"""Published throughputs and speed-ups beside those of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from maskbench.records import UnreadableRun
from reports.published_speed_ups import shown_speed_ups, speed_up_head, speed_up_rows
from reports.published_throughputs import shown_throughputs, throughput_head, throughput_rows
from reports.report import Paragraph, Part, Report
from reports.runs import incomplete_notes, load, shape_of

NAME = "reports published"  # of the markers in the document


class Section(NamedTuple):
    """One kind of published results.

    Parameters
    ----------
    rows
        From the timed cells whose queries are the whole sequence, with their `shape` as a text, to
        rows for programs: two for each published case here, forward and then backward.
    head
        From the device and torch of the cells to the paragraph above the table.
    shown
        From the two rows of a case to one row of texts.
    """

    rows: Callable[[pd.DataFrame], list[dict[str, Any]]]
    head: Callable[[str], Paragraph]
    shown: Callable[[dict[str, Any], dict[str, Any]], dict[str, str]]


SECTIONS = {
    "throughputs": Section(throughput_rows, throughput_head, shown_throughputs),
    "speed-ups": Section(speed_up_rows, speed_up_head, shown_speed_ups),
}


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
    parts: list[Part] = [f"note: {note}" for note in incomplete_notes(cells)]
    data: dict[str, pd.DataFrame] = {}
    for name, section in SECTIONS.items():
        if rows := section.rows(timed):
            data[name] = pd.DataFrame(rows)
            pairs = zip(rows[::2], rows[1::2], strict=True)
            parts += [section.head(setup), pd.DataFrame(section.shown(*pair) for pair in pairs)]
    if not data:
        names = ", ".join(map(str, paths))
        raise UnreadableRun(f"{names}: no cell is of a published case")
    return Report(parts, data)
