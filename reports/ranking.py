"""Which backends are fastest, by which time, with ties, and how near they are to the peak.

A ranking is made for each problem: a mask, direction, sequence length, shape and data type. There
are three, one for each `Measure`. Backends whose intervals overlap with that of the fastest are
tied with it, so the winner of a problem is a set of backends.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from maskbench.records import TextEnum
from maskbench.timing.statistics import NOISY_ABOVE
from reports.runs import DIRECTIONS

__all__ = [
    "HOST_INTERVAL",
    "NOISY_ABOVE",
    "PROBLEM",
    "Measure",
    "attention_times",
    "is_noisy",
    "measures",
    "peak_seconds",
    "peak_shares",
    "rank_cells",
    "winners",
]

PROBLEM = [
    *("mask", "direction", "seq_len", "q_len", "batch", "heads", "kv_heads", "head_dim"),
    *("v_head_dim", "dtype"),
]
# Half-width of the interval of a host time, relative to it. Saved runs have the median of at most
# 10 host times, without an interval. Over the processes in reports/runs/repeats, the ratio of two
# host times is within a factor of 2 of its mean in 95 % of the pairs. Two intervals of 1/3 overlap
# if the ratio is below 2.
HOST_INTERVAL = 1 / 3


class Measure(TextEnum):
    """The time that a ranking compares."""

    DEVICE = "on the device"  # the saved median
    GRAPH = "with CUDA graphs"  # the longer of the device and the host time of a graph's replay
    CALLED = "as called from Python"  # the longer of the device and the host time of the call


def measures(cells: pd.DataFrame) -> list[Measure]:
    """The measures that give an answer of their own for some of the cells.

    On a CPU the saved time is wall time, which has the host's work in it.
    """
    timed = cells[cells["is_timed"]]
    found = [Measure.DEVICE]
    if column(timed, "graph_median_s").notna().any():
        found.append(Measure.GRAPH)
    if timed["timer"].ne("perf_counter").any():
        found.append(Measure.CALLED)
    return found


def attention_times(cells: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The time of each cell by one measure, and its confidence interval.

    Parameters
    ----------
    cells : DataFrame
        Rows of `reports.runs.load`.
    measure : Measure
        The time to return.

    Returns
    -------
    DataFrame
        With the index of `cells`. `seconds` is the time, NaN for a cell that was not timed or has
        no CUDA graph. `interval` is the half-width of its confidence interval, relative to it.
        `is_host_time` is whether it is a time of the host.

    Notes
    -----
    Device times have the interval of the median that is saved with the cell. That of a graph's
    replay is taken to be that of the call, which runs the same kernels. Host times have
    `HOST_INTERVAL`. On a CPU the wall time has both, so that all measures of a call are equal.
    """
    device_s, host_s = cells["median_s"], pd.Series(np.nan, cells.index)
    if measure is Measure.CALLED:
        host_s = (column(cells, "host_us") / 1e6).where(cells["host_bound"].eq(True))
    elif measure is Measure.GRAPH:
        device_s, host_s = column(cells, "graph_median_s"), column(cells, "graph_host_s")
    is_host = host_s > device_s
    seconds = device_s.where(~is_host, host_s)
    interval = cells["interval"].where(~is_host, HOST_INTERVAL)
    table: pd.DataFrame = pd.DataFrame(
        {"seconds": seconds, "interval": interval, "is_host_time": is_host}
    )
    return table


def is_noisy(cells: pd.DataFrame) -> pd.Series:
    """Whether the interval of a timed cell's device time is wider than +-`NOISY_ABOVE`."""
    noisy: pd.Series = cells["interval"] > NOISY_ABOVE
    return noisy


def peak_shares(cells: pd.DataFrame) -> pd.DataFrame:
    """The share of the device's peak that each cell reaches, by the nearer of two limits.

    Returns
    -------
    DataFrame
        With the index of `cells`. `peak_share` is the larger of two quotients, NaN if neither peak
        was measured. `peak_limit` names it:

        - "compute" is `tflops` / `gemm_tflops`: the FLOPs of the attended pairs per second of
          device time, divided by those of a large matrix product in the same data type.
        - "memory" is `gb_per_s` / `copy_gb_per_s`: the fewest bytes that the call can move per
          second of device time, divided by the bytes that a large copy on the device reads and
          writes.

    Notes
    -----
    Both peaks are measured once in the process that timed the cell, on its card. They are not
    scaled to the SM clock of the cell. A large matrix product reaches the power cap of a GPU, so
    its clock is often lower than that of a short call. The share of the short call is then too high
    by the ratio of the two clocks.
    """
    shares: pd.DataFrame = pd.DataFrame(
        {
            "compute": column(cells, "tflops") / column(cells, "gemm_tflops"),
            "memory": column(cells, "gb_per_s") / column(cells, "copy_gb_per_s"),
        }
    )
    peak_share = shares.max(axis=1)
    limit = np.where(shares["memory"].eq(peak_share), "memory", "compute")
    peak_limit = pd.Series(limit, cells.index).where(peak_share.notna(), "")
    table: pd.DataFrame = pd.DataFrame({"peak_share": peak_share, "peak_limit": peak_limit})
    return table


def peak_seconds(cells: pd.DataFrame) -> pd.Series:
    """The device time in seconds that each cell would have at a share of 1, NaN without a peak."""
    seconds: pd.Series = cells["median_s"] * peak_shares(cells)["peak_share"]
    return seconds


def rank_cells(cells: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The timed attention cells, those of a problem from the fastest to the slowest.

    Masks are in the order of `cells`, and the forward of a mask comes before its backward.

    Parameters
    ----------
    cells : DataFrame
        Rows of `reports.runs.load`. Cells that do not time attention are left out, and so are
        those that have no time by this measure.
    measure : Measure
        The time that is compared.

    Returns
    -------
    DataFrame
        The columns of `cells` and these:

        - `seconds`, `interval` and `is_host_time`, of `attention_times`
        - `is_winner`: whether the interval overlaps that of the fastest cell of the problem
        - `over_flex`: `seconds` over those of the backend `flex`, NaN without it
        - `is_noisy`: whether `seconds` is a noisy device time
        - `peak_share` and `peak_limit`, of `peak_shares`
    """
    timed = cells[cells["is_timed"] & cells["direction"].isin(DIRECTIONS)]
    times = attention_times(timed, measure)
    noisy = is_noisy(timed) & ~times["is_host_time"]
    timed = timed.assign(is_noisy=noisy, **times, **peak_shares(timed))
    timed = timed[timed["seconds"].notna()]
    masks, directions = (pd.Index(names) for names in (timed["mask"].unique(), DIRECTIONS))
    timed = timed.assign(
        mask_place=masks.get_indexer(timed["mask"]),
        direction_place=directions.get_indexer(timed["direction"]),
    ).sort_values(["mask_place", "direction_place", "seq_len"], kind="stable")
    order = timed.groupby(PROBLEM, sort=False).ngroup()
    timed = timed.assign(order=order).sort_values(["order", "seconds"], kind="stable")
    first = timed.groupby("order")[["seconds", "interval"]].transform("first")
    lowest = timed["seconds"] * (1 - timed["interval"])
    flex = timed[timed["backend"] == "flex"].set_index("order")["seconds"]
    timed["is_winner"] = lowest <= first["seconds"] * (1 + first["interval"])
    timed.loc[~timed.duplicated("order"), "is_winner"] = True
    timed["over_flex"] = timed["seconds"] / timed["order"].map(flex)
    places = ["order", "mask_place", "direction_place"]
    result: pd.DataFrame = timed.drop(columns=places).reset_index(drop=True)
    return result


def winners(cells: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The fastest cell of each problem, with the backends that are tied with it.

    Parameters
    ----------
    cells, measure
        As for `rank_cells`.

    Returns
    -------
    DataFrame
        A row for each problem that was timed: the columns of `rank_cells` for its fastest cell.
        `backends` is the tuple of the backends that are tied, from the fastest to the slowest.
    """
    ranked = rank_cells(cells, measure)
    tied = ranked[ranked["is_winner"]].groupby(PROBLEM, sort=False)["backend"].agg(tuple)
    fastest = ranked.drop_duplicates(PROBLEM)
    backends = tied.reindex(pd.MultiIndex.from_frame(fastest[PROBLEM])).to_numpy()
    result: pd.DataFrame = fastest.assign(backends=backends).reset_index(drop=True)
    return result


def column(cells: pd.DataFrame, name: str) -> pd.Series:
    """The numbers of a field that older runs lack; NaN where it is missing."""
    values = cells[name] if name in cells else pd.Series(np.nan, cells.index)
    numbers: pd.Series = pd.to_numeric(values)
    return numbers
