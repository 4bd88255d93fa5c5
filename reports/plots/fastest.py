"""Which backends compute each mask fastest: a picture for readers who choose a backend."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from reports.plots import grid
from reports.plots.labels import (
    CHARACTER,
    PHASE_ABBREVIATIONS,
    explained_marks,
    marks,
    milliseconds,
    title_with_setup,
    wrapped,
)
from reports.plots.style import WIDTH, BackendStyle, backend_styles
from reports.ranking import NOISY_ABOVE, Measure, measures, winners
from reports.runs import DIRECTIONS

MAX_TIED = 4  # backends that an entry names
NOT_TIMED = grid.Entry(["not timed"])
LABELS = {
    Measure.DEVICE: "on the device",
    Measure.GRAPH: "CUDA graph",
    Measure.CALLED: "as called from Python",
}
MEANINGS = {
    Measure.DEVICE: "on the device: the time of the device alone",
    Measure.GRAPH: "CUDA graph: the longer of device and host time of a replay of the call",
    Measure.CALLED: "as called from Python: the longer of device and host time",
}


def draw(cells: pd.DataFrame, seq_len: int) -> Figure:
    """A row for each mask of one length, a column for each direction and measure of time.

    An entry names the fastest backend and those that are tied with it, on their colors. The
    attention cells have one shape and data type. Measures that no cell has are left out.
    """
    cells = cells[cells["seq_len"] == seq_len]
    found = {measure: winners(cells, measure) for measure in measures(cells)}
    columns = [
        (direction, measure)
        for direction in DIRECTIONS
        for measure, best in found.items()
        if direction in set(best["direction"])
    ]
    entries = {measure: best.set_index(["mask", "direction"]) for measure, best in found.items()}
    is_wall_time = Measure.CALLED not in found
    masks, styles = list(cells["mask"].unique()), backend_styles(cells["backend"])
    length = int(WIDTH * 0.8 / max(len(columns), 1) / CHARACTER) - 1

    def cell(y: int, x: int) -> grid.Entry:
        direction, measure = columns[x]
        if (masks[y], direction) not in entries[measure].index:
            return NOT_TIMED
        return winner_entry(entries[measure].loc[(masks[y], direction)], length, styles)

    drawn = [cell(y, x) for y in range(len(masks)) for x in range(len(columns))]
    shown = [] if is_wall_time else dict.fromkeys(measure for _, measure in columns)
    notes = [MEANINGS[measure] for measure in shown]
    notes += explained_marks(line for entry in drawn for line in entry.lines)
    notes.append("a = b: a tie, as the 95 % confidence intervals overlap (band: their colors)")
    if any(best["over_flex"].notna().any() for best in found.values()):
        notes.append("×: times FlexAttention's, by the same measure")
    if any(best["is_noisy"].any() for best in found.values()):
        notes.append(f"pale grey, with ±: the interval of the fastest is over ±{NOISY_ABOVE:.0%}")
    title = title_with_setup(cells, f"Fastest exact backends at S = {seq_len}")
    names = dict.fromkeys(LABELS, "wall time") if is_wall_time else LABELS
    labels = [f"{PHASE_ABBREVIATIONS[d]} {names[measure]}" for d, measure in columns]
    return grid.draw(masks, labels, cell, title, notes, min_width=1.0)


def winner_entry(row: pd.Series, length: int, styles: dict[str, BackendStyle]) -> grid.Entry:
    """The entry of a row of `winners`, with lines of at most `length` characters."""
    names = list(row["backends"][:MAX_TIED])
    shown = [styles[name] for name in names]
    more = len(row["backends"]) - len(names)
    text = " = ".join([*names, *([f"{more} more"] if more else [])])
    ratio = f" {row['over_flex']:.2f}×" if row["over_flex"] > 0 else ""  # NaN without flex
    mark = marks(is_host_bound=row["is_host_time"], is_throttled=bool(row["throttle"]))
    time = f"{milliseconds(row['seconds'])}{ratio}{mark}"
    lines = [*wrapped_at_equals(text, length), *wrapped(time, length)]
    if row["is_noisy"]:
        lines.append(f"±{row['interval']:.0%}")
        return grid.Entry(lines, text_color=grid.NOISY_TEXT_COLOR)
    return grid.Entry(
        lines, [to_rgba(style.color, 0.35 if len(shown) == 1 else 0.7) for style in shown]
    )


def wrapped_at_equals(text: str, length: int) -> list[str]:
    """The lines of a text of tied names, broken after "=" signs."""
    lines = [""]
    for name in text.replace(" = ", " =\n").split("\n"):
        if lines[-1] and len(lines[-1]) + 1 + len(name) > length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {name}".strip()
    return [part for line in lines for part in wrapped(line, length)]
