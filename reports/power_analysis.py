"""What the gate says of real runs in which nothing changed, and of the same with a cell scaled.

Each run is gated against all others but the one that confirms it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from reports.comparability import Run
from reports.gate import against, judged, repeated, tested
from reports.plots.changes import short
from reports.runs import markdown, percent

SCALES = {1.08: 0.80, 1.10: 0.95, 1.15: 0.99}  # and the share that is to be found
QUIET_NOISE = 0.015  # between runs, up to which these shares are promised
APART = 30  # every so many cells are scaled at a time: few enough that the others stay the suite
FEWEST = 12  # runs


def pairs(runs: list[Run]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Of each run and the next its cells beside those of all other runs."""
    found = []
    for i, run in enumerate(runs):
        confirm = runs[(i + 1) % len(runs)]
        others = [other for other in runs if other is not run and other is not confirm]
        found.append((against(run, others), against(confirm, others, by_fastest_round=True)))
    return found


def found_in(first: pd.DataFrame, second: pd.DataFrame, status: str) -> pd.Series:
    return (first["status"] == status) & (second["status"].reindex(first.index) == status)


def nothing_changed(cells: list[tuple[pd.DataFrame, pd.DataFrame]], cards: int) -> str:
    """How often the gate is red where nothing changed."""
    slow = fast = red = confirmed = count = 0
    for one, other in cells:
        first, second = tested(one), tested(other)
        both = found_in(first, second, "SLOW")
        slow, fast = (
            slow + (first["status"] == "SLOW").sum(),
            fast + (first["status"] == "FAST").sum(),
        )
        red, confirmed, count = red + both.any(), confirmed + both.sum(), count + len(first)
    rows = [
        [
            "runs gated, cells",
            f"{FEWEST} or more, 60 or more",
            f"{len(cells)}, {count // len(cells)}",
        ],
        ["cards", "2 or more", cards],
        ["confirmed red suites", "at most 2 %", f"{red} of {len(cells)}"],
        [
            "confirmed red cells",
            "at most 0.05 %",
            f"{confirmed} of {count} ({percent(confirmed / count, 2)})",
        ],
        ["SLOW and FAST, unconfirmed", "about as often", f"{slow} and {fast}"],
    ]
    return markdown(pd.DataFrame(rows, columns=["what", "target", "reached"]))


def scaled(cells: pd.DataFrame, chosen: pd.Index, factor: float) -> pd.DataFrame:
    """As if these cells had taken `factor` times as long."""
    changed = cells.copy()
    here = changed.index.isin(chosen)
    changed.loc[here, "x"] += np.log(factor)
    changed.loc[here, "median_s"] *= factor
    return changed


def detection(cells: list[tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """The share of scaled cells that are found, and of the others that are called slow."""
    rows = []
    for factor, target in SCALES.items():
        hits, quiet, false, others = [], [], 0, 0
        for one, other in cells:
            for start in range(APART):
                chosen = one.index[start::APART]
                first, second = (tested(scaled(c, chosen, factor)) for c in (one, other))
                red = found_in(first, second, "SLOW")
                hits += red[chosen].tolist()
                judged = first.loc[chosen, "status"] != "noisy"
                quiet += (judged & (first.loc[chosen, "noise"] <= QUIET_NOISE)).tolist()
                false, others = false + red.drop(chosen).sum(), others + len(red) - len(chosen)
        found = np.array(hits)[np.array(quiet)]
        rows.append(
            [
                f"x{factor:.2f}",
                f"{target:.0%}",
                f"{percent(found, 1)} of {len(found)}",
                f"{percent(hits, 1)} of {len(hits)}",
                f"{false} of {others}",
            ]
        )
    columns = ["scaled by", "target", "found, noise up to 1.5 %", "found, all", "others called red"]
    return markdown(pd.DataFrame(rows, columns=columns))


def slowdown(slower: list[Run], runs: list[Run]) -> str:
    """What the gate says of runs of slower code, each confirmed by the next."""
    rows = []
    for run, confirm in pairwise(slower):
        first, second = judged(run, runs), repeated(confirm, runs)
        red = found_in(first, second, "SLOW")
        other = first.index[~red & (first["status"] == "SLOW")]
        for name in first.index[red]:
            direction = run.cells.loc[name, "direction"]
            change = f"{first.loc[name, 'change']:+.0%}"
            median = f"{1e6 * first.loc[name, 'median_s']:.0f}"
            rows.append([short(name), direction, median, change])
        said = f"{int(red.sum())} of {len(first)} cells are a REGRESSION, {len(other)} SLOW once."
    table = pd.DataFrame(rows, columns=["cell", "direction", "median, us", "change"])
    return f"{said}\n\n{markdown(table)}"


def text(runs: list[Run], slower: list[Run]) -> str | None:
    """The tables; None of fewer runs than they take. `slower` are runs of slower code."""
    if len(runs) < FEWEST:
        return None
    cells, cards = pairs(runs), len({run.card for run in runs})
    parts = [f"Nothing changed:\n\n{nothing_changed(cells, cards)}"]
    parts.append(f"Cells scaled:\n\n{detection(cells)}")
    if len(slower) > 1:
        parts.append(f"Slower code (`-p tests.unit.slower_mask`): {slowdown(slower, runs)}")
    return "\n\n".join(parts)
