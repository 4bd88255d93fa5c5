"""Which share of the memory bandwidth decoding reaches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from maskbench.reading import read_run
from maskbench.records import Outcome, Phase, UnreadableRun
from reports.markdown import percent
from reports.report import Report
from reports.runs import cells_table

NAME = "reports decode"  # of the markers in the document
FASTEST = 4  # backends that are named
FROM_OTHER_RUNS_MARK = "*"
PROBLEM = ["mask", "batch", "heads", "kv_heads", "head_dim", "dtype", "seq_len", "q_len"]


def with_copy_bandwidth(cells: pd.DataFrame) -> pd.DataFrame:
    """Adds `copy`, the bandwidth of a large copy in GB/s, and `is_from_other_runs` to the cells.

    A run that did not measure a copy gets the median of the other runs.
    """
    if "copy_gb_per_s" not in cells:
        raise UnreadableRun("no run measured a copy (`copy_gb_per_s`); time the cells again")
    own = cells.groupby("file")["copy_gb_per_s"].transform("median")
    copy = own.fillna(cells["copy_gb_per_s"].median())
    table: pd.DataFrame = cells.assign(copy=copy, is_from_other_runs=own.isna())
    return table


def problem_row(cells: pd.DataFrame) -> dict[str, str]:
    """The fastest backends of a problem, with their bytes per second."""
    first = cells.iloc[0]
    heads = f"{first['heads']} on {first['kv_heads']}"
    row = {"mask": first["mask"], "B": str(first["batch"]), "heads": heads}
    row |= {"S": str(first["seq_len"]), "queries": str(first["q_len"])}
    mark = FROM_OTHER_RUNS_MARK if first["is_from_other_runs"] else ""
    fastest = cells.sort_values("median_s").head(FASTEST)
    for place, (_, cell) in enumerate(fastest.iterrows(), 1):
        share = percent(cell["gb_per_s"] / cell["copy"])
        row[str(place)] = f"{cell['backend']}: {cell['gb_per_s']:.0f} GB/s, {share}{mark}"
    return row


def decode_report(paths: Iterable[Path]) -> Report:
    """A row for each problem with its fastest backends; for programs, a row for each cell.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, the devices differ, no run has a copy's bandwidth, or no cell has
        fewer queries than keys.
    """
    runs = [read_run(path) for path in paths]
    devices = sorted({run.device for run in runs})
    if len(devices) > 1:
        raise UnreadableRun(f"the runs are of different devices: {', '.join(devices)}")
    cells = pd.concat([cells_table(run) for run in runs if run.cells], ignore_index=True)
    timed = cells[cells["outcome"] == Outcome.TIMED.value]
    timed = timed[timed["direction"] == Phase.FORWARD.value]
    timed = with_copy_bandwidth(timed[timed["q_len"] < timed["seq_len"]])
    if timed.empty:
        raise UnreadableRun("no cell of these runs has fewer queries than keys")
    newest = timed.sort_values("saved").drop_duplicates("fullname", keep="last")
    rows = [problem_row(found) for _, found in newest.groupby(PROBLEM, sort=True)]
    text = (
        f"{devices[0]}. The {FASTEST} fastest backends, with the fewest bytes that "
        "a call can move per second, and that as a share of what a large copy reads and writes in "
        f"the same process (median: {newest['copy'].median():.0f} GB/s). "
        "Decoding writes little, so its share can be above 100 %."
    )
    if newest["is_from_other_runs"].any():
        text += f" {FROM_OTHER_RUNS_MARK} The copy is that of the other runs."
    return Report([text, pd.DataFrame(rows).fillna("")], {"decode": cell_data(newest)})


def cell_data(cells: pd.DataFrame) -> pd.DataFrame:
    """The bandwidth of each cell in GB/s, and its share of that of a copy, the fastest first."""
    ordered = cells.sort_values([*PROBLEM, "median_s"])
    ordered = ordered.assign(share=ordered["gb_per_s"] / ordered["copy"])
    columns = ["device", "torch", *PROBLEM, "backend", "median_s", "gb_per_s", "copy", "share"]
    table: pd.DataFrame = ordered[[*columns, "is_from_other_runs"]].rename(
        columns={"copy": "copy_gb_per_s", "is_from_other_runs": "copy_is_from_other_runs"}
    )
    return table
