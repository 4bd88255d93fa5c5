"""All runs of one machine as trends: the level of each cell, and where it stepped."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from reports.comparability import Run, cell_difference, differences, soft_differences
from reports.gate import Verdict
from reports.steps import NOTE, STEP, noise_of, steps


def series(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """For each cell its comparable times, oldest first: saved, torch, median_s."""
    found: dict[str, list] = {}
    for run in runs:
        for name, row in run.timed.iterrows():
            past = found.setdefault(name, [])
            if past and cell_difference(past[-1]["row"], row):
                past.clear()  # what came before is of something else
            past.append(
                {"saved": run.saved, "torch": run.torch, "median_s": row["median_s"], "row": row}
            )
    return {name: pd.DataFrame(past) for name, past in found.items()}


def of_one_machine(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs of the last run's machine, and a note on each other kind."""
    last, notes = runs[-1], []
    alike = [run for run in runs if not differences(run, last)]
    if len(alike) < len(runs):
        other = next(run for run in runs if differences(run, last))
        what = "; ".join(differences(other, last))
        notes.append(f"{len(runs) - len(alike)} runs of another machine are left out ({what})")
    for before, after in pairwise(alike):
        notes += [f"{after.path.name}: {what}" for what in soft_differences(before, after)]
    return alike, notes


def history(runs: list[Run]) -> tuple[Verdict, dict[str, pd.DataFrame]]:
    """A row a cell with its steps; and the series that were looked at."""
    alike, notes = of_one_machine(runs)
    trends, rows = series(alike), []
    for name, past in trends.items():
        row = past["row"].iloc[-1]
        about = {n: row[n] for n in ("mask", "backend", "direction", "seq_len")}
        xs = np.log(past["median_s"].to_numpy())
        found, noted = steps(xs, STEP), steps(xs, NOTE)
        edges = [0, *noted, len(past)]
        texts = [told(past, *edges[i : i + 3]) for i in range(len(noted))]
        rows.append(
            {
                "fullname": name,
                **about,
                "runs": len(past),
                "median_s": past["median_s"].iloc[-1],
                "noise": noise_of(xs) if len(xs) > 2 else np.nan,
                "steps": found,
                "status": "STEP" if found else "note" if noted else "level",
                "reason": "; ".join(texts),
            }
        )
    cells = pd.DataFrame(rows).set_index("fullname")
    word = f"{(cells['status'] == 'STEP').sum()} of {len(cells)} cells with a step of {STEP:.0%}"
    return Verdict(cells, f"{word} in {len(alike)} runs", 0, notes), trends


def told(past: pd.DataFrame, start: int, at: int, end: int) -> str:
    """The step at `at` in words, from the level since `start` to that until `end`."""
    before, after = (
        past["median_s"].iloc[part].median() for part in (slice(start, at), slice(at, end))
    )
    torch = past["torch"].iloc[at - 1], past["torch"].iloc[at]
    where = f"torch {torch[0]} to {torch[1]}" if torch[0] != torch[1] else f"torch {torch[1]}"
    return f"{after / before - 1:+.1%} at run {at + 1}, {past['saved'].iloc[at][:10]} ({where})"
