"""Which share of the memory bandwidth decoding reaches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from maskbench.records import Outcome, Phase, UnreadableRun
from reports.markdown import percent
from reports.ranking import column
from reports.report import Report
from reports.runs import incomplete_notes, most_frequent_reason, read_cells

NAME = "reports decode"  # of the markers in the document
FASTEST = 4  # backends that are named
FROM_OTHER_RUNS_MARK = "*"
PROBLEM = ["mask", "batch", "heads", "kv_heads", "head_dim", "v_head_dim", "dtype"]
PROBLEM += ["seq_len", "q_len"]


def timed_decoding(cells: pd.DataFrame, names: str) -> pd.DataFrame:
    """The timed forward cells with fewer queries than keys. A cell of several files is the newest.

    Raises UnreadableRun, with the `names` of the files, if there is none.
    """
    is_decoding = (cells["direction"] == Phase.FORWARD.value) & (cells["q_len"] < cells["seq_len"])
    decoding = cells[is_decoding]
    timed = decoding[decoding["outcome"] == Outcome.TIMED.value]
    if timed.empty:
        reason = most_frequent_reason(decoding.to_dict("records"))
        text = "no decoding cell (fewer queries than keys, --q-lens) was timed"
        raise UnreadableRun(f"{names}: {text}{reason}")
    newest: pd.DataFrame = timed.sort_values("saved", kind="stable").drop_duplicates(
        "fullname", keep="last"
    )
    return newest


def with_copy_bandwidth(cells: pd.DataFrame, names: str) -> pd.DataFrame:
    """Adds `copy`, the bandwidth of a large copy in GB/s, and `is_from_other_runs` to the cells.

    A run that did not measure a copy gets the median of the other runs. Raises UnreadableRun, with
    the `names` of the files, if no run measured one.
    """
    measured = column(cells, "copy_gb_per_s")
    if measured.isna().all():
        text = "no run measured a copy (`copy_gb_per_s`); time the cells again"
        raise UnreadableRun(f"{names}: {text}")
    own = measured.groupby(cells["file"]).transform("median")
    copy = own.fillna(measured.median())
    table: pd.DataFrame = cells.assign(copy=copy, is_from_other_runs=own.isna())
    return table


def problem_row(cells: pd.DataFrame) -> dict[str, str]:
    """The fastest backends of a problem, with their bytes per second."""
    first = cells.iloc[0]
    heads = f"{first['heads']} on {first['kv_heads']}"
    of_v = f" (v {first['v_head_dim']})" if first["v_head_dim"] != first["head_dim"] else ""
    row = {"mask": first["mask"], "B": str(first["batch"]), "heads": heads}
    row |= {"D": f"{first['head_dim']}{of_v}", "dtype": first["dtype"]}
    row |= {"S": str(first["seq_len"]), "queries": str(first["q_len"])}
    fastest = cells.sort_values("median_s").head(FASTEST)
    for place, (_, cell) in enumerate(fastest.iterrows(), 1):
        share = percent(cell["gb_per_s"] / cell["copy"])
        mark = FROM_OTHER_RUNS_MARK if cell["is_from_other_runs"] else ""
        row[str(place)] = f"{cell['backend']}: {cell['gb_per_s']:.0f} GB/s, {share}{mark}"
    return row


def decode_report(paths: Iterable[Path]) -> Report:
    """A row for each problem with its fastest backends; for programs, a row for each cell.

    Raises
    ------
    UnreadableRun
        As `reports.runs.read_cells`, or if no cell with fewer queries than keys was timed, or no
        run has a copy's bandwidth.
    """
    paths = list(paths)
    names = ", ".join(map(str, paths))
    cells = read_cells(paths)
    newest = with_copy_bandwidth(timed_decoding(cells, names), names)
    rows = [problem_row(found) for _, found in newest.groupby(PROBLEM, sort=True)]
    text = (
        f"{cells['device'].iloc[0]}, torch {cells['torch'].iloc[0]}. "
        f"The {FASTEST} fastest backends, with the fewest bytes that "
        "a call can move per second, and that as a share of what a large copy reads and writes in "
        f"the same process (median: {newest['copy'].median():.0f} GB/s). "
        "Decoding writes little, so its share can be above 100 %."
    )
    if newest["is_from_other_runs"].any():
        text += f" {FROM_OTHER_RUNS_MARK} The copy is that of the other runs."
    notes = [f"note: {note}" for note in incomplete_notes(cells)]
    table = pd.DataFrame(rows).fillna("")
    return Report([text, *notes, table], {"decode": cell_data(newest)})


def cell_data(cells: pd.DataFrame) -> pd.DataFrame:
    """The bandwidth of each cell in GB/s, and its share of that of a copy, the fastest first."""
    ordered = cells.sort_values([*PROBLEM, "median_s"])
    ordered = ordered.assign(share=ordered["gb_per_s"] / ordered["copy"])
    columns = ["device", "torch", *PROBLEM, "backend", "median_s", "gb_per_s", "copy", "share"]
    table: pd.DataFrame = ordered[[*columns, "is_from_other_runs"]].rename(
        columns={"copy": "copy_gb_per_s", "is_from_other_runs": "copy_is_from_other_runs"}
    )
    return table
