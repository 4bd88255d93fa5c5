"""False alarms and power of the gate, measured on real runs.

Each run is judged against all other runs except the next one, which confirms it. False alarms are
counted in the unchanged runs. Power is measured in the same runs with some cells scaled.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from reports.baseline import join_baseline
from reports.comparability import Run
from reports.gate import apply_t_test, judge_cells, judge_confirmation
from reports.markdown import markdown_table, percent
from reports.runs import cell_label
from reports.verdict import Status

TARGETS = {1.08: 0.80, 1.10: 0.95, 1.15: 0.99}  # scale: share of the scaled cells to be found
QUIET_NOISE = 0.015  # the targets are for cells with at most this noise between runs
STRIDE = 30  # every 30th cell is scaled at a time, so that the median over all cells hardly changes
MIN_RUNS = 12

Pair = tuple[pd.DataFrame, pd.DataFrame]  # the cells of a run and of the run that confirms it


def confirmed_pairs(runs: list[Run]) -> list[Pair]:
    """The cells of each run and of the next run, each joined with the history of all others."""
    found = []
    for i, run in enumerate(runs):
        confirm = runs[(i + 1) % len(runs)]
        others = [other for other in runs if other is not run and other is not confirm]
        confirming = join_baseline(confirm, others, use_fastest_round=True)
        found.append((join_baseline(run, others), confirming))
    return found


def confirmed_slow(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Whether each cell of the first run is slow in both runs."""
    again = second["status"].reindex(first.index)
    return (first["status"] == Status.SLOW) & (again == Status.SLOW)


def false_alarms(pairs: list[Pair], gpus: int) -> str:
    """How often the gate reports a regression where nothing changed."""
    slow = fast = runs_with_alarm = alarms = count = 0
    for pair in pairs:
        first, second = map(apply_t_test, pair)
        confirmed = confirmed_slow(first, second)
        slow += int((first["status"] == Status.SLOW).sum())
        fast += int((first["status"] == Status.FAST).sum())
        runs_with_alarm += int(confirmed.any())
        alarms += int(confirmed.sum())
        count += len(first)
    size = f"{len(pairs)}, {count // len(pairs)}"
    share = percent(alarms / count, 2)
    rows = [
        ["runs judged, cells", f"{MIN_RUNS} or more, 60 or more", size],
        ["GPUs", "2 or more", gpus],
        ["runs with a confirmed regression", "at most 2 %", f"{runs_with_alarm} of {len(pairs)}"],
        ["cells with one", "at most 0.05 %", f"{alarms} of {count} ({share})"],
        ["SLOW and FAST, unconfirmed", "about as often", f"{slow} and {fast}"],
    ]
    return markdown_table(pd.DataFrame(rows, columns=["what", "target", "reached"]))


def scaled(cells: pd.DataFrame, chosen: pd.Index, factor: float) -> pd.DataFrame:
    """The cells as if the chosen ones had taken `factor` times as long."""
    changed: pd.DataFrame = cells.copy()
    here = changed.index.isin(chosen)
    changed.loc[here, "x"] += np.log(factor)
    changed.loc[here, "median_s"] *= factor
    return changed


def detection(pairs: list[Pair], stride: int = STRIDE) -> str:
    """The share of scaled cells that are found, and of other cells that are reported."""
    rows = []
    for factor, target in TARGETS.items():
        hits: list[bool] = []
        quiet: list[bool] = []
        false, others = 0, 0
        for pair in pairs:
            names = pair[0].index
            for start in range(min(stride, len(names))):
                chosen = names[start::stride]
                first, second = (apply_t_test(scaled(c, chosen, factor)) for c in pair)
                confirmed = confirmed_slow(first, second)
                hits += confirmed[chosen].tolist()
                judged = first.loc[chosen, "status"] != Status.NOISY
                quiet += (judged & (first.loc[chosen, "noise"] <= QUIET_NOISE)).tolist()
                false += int(confirmed.drop(chosen).sum())
                others += len(confirmed) - len(chosen)
        found = np.array(hits)[np.array(quiet)]
        rows.append(
            [
                *(f"x{factor:.2f}", f"{target:.0%}"),
                *(f"{percent(found, 1)} of {len(found)}", f"{percent(hits, 1)} of {len(hits)}"),
                f"{false} of {others}",
            ]
        )
    columns = [
        *("scaled by", "target", "found, noise up to 1.5 %", "found, all"),
        "other cells reported",
    ]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def slower_code(slower: list[Run], runs: list[Run]) -> str:
    """The verdicts on runs of slower code, each confirmed by the next."""
    rows = []
    for run, confirm in pairwise(slower):
        first, second = judge_cells(run, runs), judge_confirmation(confirm, runs)
        confirmed = confirmed_slow(first, second)
        once = int((~confirmed & (first["status"] == Status.SLOW)).sum())
        for name in first.index[confirmed]:
            change = f"{first.loc[name, 'change']:+.0%}"
            median = f"{1e6 * first.loc[name, 'median_s']:.0f}"
            rows.append([cell_label(name), run.cells.loc[name, "direction"], median, change])
        text = f"{int(confirmed.sum())} of {len(first)} cells are a REGRESSION, {once} SLOW once."
    table = pd.DataFrame(rows, columns=["cell", "direction", "median, us", "change"])
    return f"{text}\n\n{markdown_table(table)}"


def power_report(runs: list[Run], slower: list[Run]) -> str | None:
    """All tables as Markdown; None for fewer runs than MIN_RUNS.

    Parameters
    ----------
    runs
        Runs of the same code and cells.
    slower
        Runs of code that was made slower on purpose.
    """
    if len(runs) < MIN_RUNS:
        return None
    pairs, gpus = confirmed_pairs(runs), len({run.gpu_uuid for run in runs})
    parts = [f"Nothing changed:\n\n{false_alarms(pairs, gpus)}"]
    parts.append(f"Cells scaled:\n\n{detection(pairs)}")
    if len(slower) > 1:
        parts.append(f"Slower code (`-p tests.unit.slower_mask`): {slower_code(slower, runs)}")
    return "\n\n".join(parts)
