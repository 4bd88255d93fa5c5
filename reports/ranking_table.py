"""The rankings of a run as tables, for readers and for programs."""

from __future__ import annotations

import pandas as pd

from reports.markdown import markdown_text, percent
from reports.plots.labels import milliseconds
from reports.ranges import range_text
from reports.ranking import (
    NOISY_ABOVE,
    PROBLEM,
    Measure,
    is_noisy,
    measures,
    peak_shares,
    winners,
)
from reports.report import Paragraph, Part, Report
from reports.runs import DIRECTIONS, shape_of

NAME = "reports ranking"  # of the markers in a document
KEY = ["mask", "direction", "seq_len"]  # of a row, within one shape
DATA = [
    *("device", "torch", *PROBLEM, "measure", "fastest", "seconds", "interval", "is_noisy"),
    *("is_host_time", "over_flex", "peak_share", "peak_limit"),
]


def ranking_data(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem and measure, for programs.

    `fastest` has the backends that are tied, joined by "=". The other columns are those of
    `reports.ranking.winners`. Cells of several shapes can be in one table.
    """
    found = pd.concat(winners(cells, measure).assign(measure=measure.value) for measure in Measure)
    table: pd.DataFrame = found.assign(fastest=found["backends"].map("=".join))[DATA]
    return table


def ranking_table(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each mask, direction and length of one shape, for readers.

    Each measure that was taken has two columns: the backends that are tied, and the time of the
    fastest. "~" is before a time whose interval is wide. If a peak was measured, the last columns
    are the time that the fastest on the device would take at the peak, and the share of the peak
    that it reaches.
    """
    found = {measure: winners(cells, measure) for measure in measures(cells)}
    device = found[Measure.DEVICE].set_index(KEY)
    columns: dict[str, pd.Series] = {}
    for measure, best in found.items():
        best = best.set_index(KEY)
        name = f" {measure}" if Measure.CALLED in found else ""  # on a CPU it is wall time
        columns[f"fastest{name}"] = best["backends"].map(" = ".join)
        columns[f"time{name}"] = best.apply(
            lambda row: time_text(row["seconds"], row["is_noisy"]), axis=1
        )
    if device["peak_share"].notna().any():
        columns["time at the peak"] = device.apply(peak_time_text, axis=1)
        columns["share of the peak"] = device.apply(share_text, axis=1)
    table = pd.DataFrame(columns).reindex(device.index).fillna("").reset_index()
    result: pd.DataFrame = table.rename(columns={"seq_len": "S"})
    return result


def time_text(seconds: float, is_noisy: bool) -> str:
    """The time in milliseconds, with "~" before it if its interval is wide."""
    return f"{'~' if is_noisy else ''}{milliseconds(seconds)}"


def peak_time_text(row: pd.Series) -> str:
    """The device time that the fastest would have at the peak; "" if no peak was measured."""
    return milliseconds(row["seconds"] * row["peak_share"]) if row["peak_share"] > 0 else ""


def share_text(row: pd.Series) -> str:
    if not row["peak_share"] > 0:
        return "not measured"
    return f"{percent(row['peak_share'])} of the {row['peak_limit']} peak"


def setup_text(cells: pd.DataFrame) -> str:
    """The shape, device and version of torch of the cells, as a sentence."""
    first = cells.iloc[0]
    return f"{shape_of(first)}, {first['device']}, torch {first['torch']}."


def run_notes(cells: pd.DataFrame) -> list[str]:
    """How near the fastest are to the peak, what the run lacks, and how many cells are noisy."""
    device, graph = winners(cells, Measure.DEVICE), winners(cells, Measure.GRAPH)
    sentences = []
    sentences.append(peak_note(device))
    if graph.empty and Measure.CALLED in measures(cells):  # a CPU has no CUDA graphs
        sentences.append("CUDA graphs were not timed in this run.")
    if noise := noise_note(cells):
        sentences.append(noise)
    return sentences


def peak_note(fastest: pd.DataFrame) -> str:
    """The share of the peak that the fastest on the device reach in each direction."""
    parts = []
    for direction in DIRECTIONS:
        shares = fastest["peak_share"][fastest["direction"] == direction].dropna()
        if len(shares):
            parts.append(f"{direction} {range_text(shares, percent)}")
    if not parts:
        return "The share of the peak was not measured in this run."
    return f"The fastest on the device reach this share of the peak: {'; '.join(parts)}."


def noise_note(cells: pd.DataFrame) -> str | None:
    """How many of the timed attention cells are noisy, and whether another run was beside them;
    None if none is and there was none."""
    timed = cells[cells["is_timed"] & cells["direction"].isin(DIRECTIONS)]
    notes = []
    if number := int(is_noisy(timed).sum()):
        noisy = f"{number} of {len(timed)} cells are noisy"
        notes.append(f"{noisy} (95 % interval over ±{NOISY_ABOVE:.0%}): is the machine busy?")
    if timed["shared_device"].any():
        notes.append("Another run used the device at the same time.")
    return " ".join(notes) or None


def explanation(shapes: list[pd.DataFrame]) -> str:
    """What the tables of these cells mean."""
    text = "Backends whose 95 % confidence intervals overlap are tied (=)."
    if any(peak_shares(cells)["peak_share"].notna().any() for cells in shapes):
        text += (
            " The compute peak is the FLOP/s of a large matrix product, the memory peak the bytes "
            "per second of a large copy, both measured in the same process. The time at the peak "
            "is the longer of two: that of the FLOPs of the attended pairs at the compute peak, "
            "and that of the fewest bytes that the call can move at the memory peak. The share of "
            "the peak is this time over that of the fastest on the device."
        )
    return text


def ranking_report(shapes: list[pd.DataFrame]) -> Report:
    """The tables of all shapes, each with its shape, device and torch above it."""
    parts: list[Part] = []
    for cells in shapes:
        sentences = [setup_text(cells), *run_notes(cells)]
        parts.append(Paragraph("\n".join(sentences), markdown_text(" ".join(sentences))))
        parts.append(ranking_table(cells))
    return Report([*parts, explanation(shapes)], {"ranking": ranking_data(pd.concat(shapes))})
