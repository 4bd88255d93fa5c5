"""The comparison of two runs, and the trends of a history, as JSON for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbench.plain_text import plain_text
from maskbench.reading import SavedRun
from maskbench.records import UnreadableRun
from reports.acceptances import read_acceptances
from reports.comparability import ACCEPTANCES, Run, as_run
from reports.compare import compare_sides
from reports.history import Time, build_history, runs_of_last_machine
from reports.page.columns import Column, numbers, texts
from reports.verdict import Verdict
from reports.writers import ranked

MAX_TIMES = 200_000  # of a history; those of the newest runs are shown


def comparison(runs: list[SavedRun], history: list[Run]) -> dict[str, Any] | None:
    """The second run against the first, the largest change first.

    None if there are not two runs that timed the same cells. `problem` says why none of their cells
    are comparable. The first run that was named counts as the older one.
    """
    if len(runs) != 2:
        return None
    base, new = (as_run(run) for run in runs)
    if not base.rows.keys() & new.rows.keys():
        return None
    try:
        verdict = compare_sides([base], [new], history)
    except UnreadableRun as error:  # each cell is computed in another way than before
        return {"problem": plain_text(str(error))}
    by_size = verdict.cells["change"].abs().sort_values(ascending=False, kind="stable").index
    cells = ranked(verdict.cells.loc[by_size])
    return {
        "base": run_text(base),
        "new": run_text(new),
        "conclusion": verdict.conclusion,
        "notes": plain_notes(verdict),
        "cells": {
            **problem_columns(cells),
            "before": numbers(cells["base_s"]),
            "after": numbers(cells["new_s"]),
            "change": numbers(cells["change"]),
            "changeSeconds": numbers(cells["change_s"]),
            "half": numbers(cells["half"]),
        },
    }


def run_text(run: Run) -> str:
    """The file, torch and date of a run."""
    return plain_text(f"{run.path.name} (torch {run.torch}, {run.saved[:10]})")


def plain_notes(verdict: Verdict) -> list[str]:
    return [plain_text(note) for note in verdict.notes]


def problem_columns(cells: pd.DataFrame) -> dict[str, Column]:
    """What each row of a verdict is about, and what was found."""
    return {
        "name": texts(map(str, cells.index)),
        "status": texts(map(str, cells["status"])),
        "reason": texts(plain_text(str(reason)) for reason in cells["reason"].fillna("")),
        "mask": texts(map(str, cells["mask"])),
        "backend": texts(map(str, cells["backend"])),
        "direction": texts(map(str, cells["direction"])),
        "s": numbers(cells["seq_len"]),
    }


def trends(
    folder: Path, runs: list[Run], notes: list[str], acceptances: Path | None
) -> dict[str, Any]:
    """Each cell of a history over its runs, with steps and drift, and the accepted changes.

    Parameters
    ----------
    folder
        Where the history is.
    runs, notes
        What `load_history` returned for it.
    acceptances
        The file of accepted changes; None for the one in the folder.

    Raises
    ------
    UnreadableRun
        If the file of acceptances cannot be read.
    """
    verdict, series = build_history(runs)
    verdict.notes += notes
    cells = ranked(verdict.cells)
    times = {name: series[str(name)] for name in cells.index}
    points = [(run.saved, run.torch, run.path.name) for run in runs_of_last_machine(runs)[0]]
    if len(points) * len(cells) > MAX_TIMES:
        shown = max(2, MAX_TIMES // len(cells))
        verdict.notes.append(f"the newest {shown} of {len(points)} runs are shown")
        points = points[-shown:]
    place = {point: i for i, point in enumerate(points)}
    accepted = read_acceptances(acceptances or folder / ACCEPTANCES)
    return {
        "folder": plain_text(str(folder)),
        "conclusion": verdict.conclusion,
        "notes": plain_notes(verdict),
        "runs": {
            "saved": [saved[:16].replace("T", " ") for saved, _, _ in points],
            "torch": texts(torch for _, torch, _ in points),
            "file": texts(plain_text(file) for _, _, file in points),
        },
        "acceptances": [
            {
                "because": plain_text(each.because),
                "since": each.since[:16].replace("T", " "),
                "torch": plain_text(each.torch),
                "containing": plain_text(each.containing or ""),
            }
            for each in accepted
        ],
        "cells": {
            **problem_columns(cells),
            "change": numbers(cells["change"]),
            "noise": numbers(cells["noise"]),
            "runs": numbers(cells["runs"]),
            "median": numbers(cells["median_s"]),
        },
        "series": [
            cell_series(times[name], np.asarray(level_s), steps, place)
            for name, level_s, steps in zip(
                cells.index, cells["level_s"], cells["steps"], strict=True
            )
        ],
    }


def cell_series(
    past: list[Time],
    without_clock: np.ndarray,
    steps: list[int],
    place: dict[tuple[str, str, str], int],
) -> dict[str, Column]:
    """The times of one cell in the runs that have a place.

    `at` is the run of each time, `s` the median and `w` the median at one clock. `steps` are the
    first times of new levels.
    """
    kept = [i for i, time in enumerate(past) if (time.saved, time.torch, time.file) in place]
    times = [past[i] for i in kept]
    return {
        "at": numbers(place[time.saved, time.torch, time.file] for time in times),
        "s": numbers(time.median_s for time in times),
        "w": numbers(without_clock[kept]),
        "steps": numbers(kept.index(step) for step in steps if step in kept),
    }
