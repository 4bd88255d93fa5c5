"""The gains of `flex_tuned` as tables and as sentences."""

from __future__ import annotations

import pandas as pd

from reports.markdown import percent
from reports.ranges import range_text
from reports.ranking_table import time_text
from reports.report import Heading, Part, Report
from reports.runs import DIRECTIONS, shape_of
from reports.tuned_forms import TUNED
from reports.tuned_gains import FLEX, SLOWER_ABOVE, compare_tuned, slower_cells, untimed_note

NAME = "reports tuned_gains"  # of the markers in a document
NOT_TIMED = "not timed"


def gains_table(gains: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare_tuned` for readers. "~" is before a time whose interval is wide."""
    table: pd.DataFrame = pd.DataFrame([gains_row(row) for _, row in gains.iterrows()])
    return table


def gains_row(row: pd.Series) -> dict[str, object]:
    """The texts of a mask, direction and length."""
    return {
        **{"mask": row["mask"], "direction": row["direction"], "S": row["seq_len"]},
        FLEX: known_time_text(row["flex_s"], row["flex_is_noisy"]),
        TUNED: known_time_text(row["tuned_s"], row["tuned_is_noisy"]),
        "options": ", ".join(filter(None, (row["options"], row["found_elsewhere"]))),
        "gain": ratio_text(row["gain"], row["gain_interval"]),
        "fastest peer": row["fastest_peer"] or NOT_TIMED,
        "time of the peer": known_time_text(row["peer_s"], row["peer_is_noisy"]),
        f"{TUNED} over the peer": standing_text(row),
    }


def known_time_text(seconds: float, is_noisy: bool) -> str:
    return time_text(seconds, is_noisy) if seconds > 0 else NOT_TIMED


def ratio_text(ratio: float, interval: float) -> str:
    """A ratio with the half-width of its interval; `interval` is relative to it."""
    return f"{ratio:.3f} ± {ratio * interval:.3f}" if ratio > 0 else ""


def standing_text(row: pd.Series) -> str:
    """Such as "1.31", "0.87 (ahead)", "1.00 (tie)" or "1.00 (same kernel)"."""
    if not row["over_peer"] > 0:
        return ""
    word = f" ({row['standing']})" if row["standing"] != "behind" else ""
    return f"{row['over_peer']:.2f}{word}"


# --- sentences ---


def setup_text(cell: pd.Series) -> str:
    """The GPU, shape and version of torch of a cell."""
    return f"{cell['device']}: {shape_of(cell)}, torch {cell['torch']}"


def summary_lines(cells: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    """The gains and the fastest peers of each direction, the noise, and what has no time."""
    lines = []
    for direction in DIRECTIONS:
        own = gains[gains["direction"] == direction]
        sentences = [line for line in (gain_sentence(own), peer_sentence(own)) if line]
        if sentences:
            lines.append(f"{direction.capitalize()}: {' '.join(sentences)}")
    return [*lines, *filter(None, (noise_sentence(gains), untimed_note(cells)))]


def gain_sentence(gains: pd.DataFrame) -> str | None:
    """The median and the range of the gains, and what was replayed; None without any."""
    compared = gains[gains["gain"].notna()]
    if compared.empty:
        return None
    kinds = compared["options"].value_counts()
    replayed = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    return f"the gain is {range_text(compared['gain'], '{:.2f}'.format)} (options: {replayed})."


def peer_sentence(gains: pd.DataFrame) -> str | None:
    """How often `flex_tuned` is ahead of the fastest peer, and its time over that of the peer."""
    compared = gains[gains["standing"] != ""]
    if compared.empty:
        return None
    counts = compared["standing"].value_counts()
    ahead, tied, behind, same = (
        counts.get(word, 0) for word in ("ahead", "tie", "behind", "same kernel")
    )
    same_text = f" and calls the same kernel in {same}" if same else ""
    return (
        f"{TUNED} is ahead of the fastest peer in {ahead} of {len(compared)}, tied with it in "
        f"{tied}, behind it in {behind}{same_text}. Its time over that of the peer is "
        f"{range_text(compared['over_peer'], '{:.2f}'.format)}."
    )


def noise_sentence(gains: pd.DataFrame) -> str | None:
    """The gains of the cells that run the same kernel as `flex`; None without any."""
    same = gains[(gains["options"] == "default") & gains["gain"].notna()]
    if same.empty:
        return None
    return (
        f"With the default options {TUNED} runs the same kernel as {FLEX}, so these gains are "
        f"noise: {range_text(same['gain'], '{:.3f}'.format)}."
    )


def verdict_lines(gains: pd.DataFrame) -> list[str]:
    """Whether a cell of `flex_tuned` is slower than `flex`, and then a line for each."""
    number = int(gains["gain"].notna().sum())
    if not number:
        return [f"No cell of {TUNED} can be compared with {FLEX}, which has no time here."]
    slower, limit = slower_cells(gains), f"than {FLEX} by more than {percent(SLOWER_ABOVE)}"
    if slower.empty:
        return [f"No cell of {TUNED} is slower {limit} (cells compared: {number})."]
    lines = [slower_line(row) for _, row in slower.iterrows()]
    verdict = f"Slower {limit}: {len(slower)} of {number} cells of {TUNED}."
    return [" ".join(filter(None, (verdict, cycles_sentence(gains)))), *lines]


def cycles_sentence(gains: pd.DataFrame) -> str | None:
    """How many cells are slower in SM cycles, which do not depend on the clock; None without any.

    A difference in time alone is one of the clock: the cells run one after the other.
    """
    over_flex = 1 / gains["gain_in_cycles"].dropna()
    if over_flex.empty:
        return None
    slower = int((over_flex > 1 + SLOWER_ABOVE).sum())
    return (
        f"In SM cycles, which do not depend on the clock, {slower} of {len(over_flex)} are; the "
        f"largest ratio is {over_flex.max():.3f}."
    )


def slower_line(row: pd.Series) -> str:
    """A cell with its time over that of `flex`, and the same in SM cycles if they were measured."""
    over_flex = ratio_text(1 / row["gain"], row["gain_interval"])
    line = f"{row['mask']} {row['direction']}, S = {row['seq_len']}, options {row['options']}: "
    line += f"{over_flex} times the time of {FLEX}"
    if row["gain_in_cycles"] > 0:  # NaN if they were not measured
        line += f", {1 / row['gain_in_cycles']:.3f} times its SM cycles"
    return f"{line} ({setup_text(row)})"


# --- the report ---


def gains_report(shapes: list[pd.DataFrame]) -> Report:
    """The tables of all GPUs, versions of torch and shapes, then the verdict."""
    parts: list[Part] = []
    found = [compare_tuned(cells) for cells in shapes]
    for cells, gains in zip(shapes, found, strict=True):
        parts += [Heading(setup_text(cells.iloc[0]), 3), summary_lines(cells, gains)]
        if len(gains):
            parts.append(gains_table(gains))
    every = pd.concat(found, ignore_index=True)
    verdict, *slower = verdict_lines(every)
    parts += [verdict, slower] if slower else [verdict]
    return Report(parts, {"gains": every})
