"""Texts that several pictures share, and how they are broken into lines."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from reports.plots.style import MIN_TEXT
from reports.runs import shape_of

PHASE_ABBREVIATIONS = {"forward": "fwd", "backward": "bwd"}
HOST_BOUND_MARK = "†"  # beside the time of a call whose host time is longer than its device time
THROTTLED_MARK = "‡"  # beside the time of a call during which the GPU limited its clock
MARKS = {
    HOST_BOUND_MARK: "host-bound: the host takes longer than the device",
    THROTTLED_MARK: "throttled: the GPU limited its clock",
}
NOT_IN_RUN = "not in this run"
CHARACTER = 0.068  # width of a character of the smallest text, inches
LINE = 0.148  # height of its lines, inches
LINE_LENGTH = 115  # characters across a picture, where a text may have many wide ones
SMALLEST, TEXT_TO_PATH = FontProperties(size=MIN_TEXT), TextToPath()  # measure texts

WORD = re.compile(r"[^ _\-,(]*[ _\-,(]?")  # and the character after which a line may end


def wrapped(text: str, length: int, max_lines: int = 20) -> list[str]:
    """The lines of a text, of at most `length` characters each.

    A line ends after a space, "_", "-", "," or "(", and within a longer word only if it must. What
    does not fit into `max_lines` is replaced by "…".
    """
    lines = [""]
    for word in WORD.findall(text):
        if len(lines[-1]) + len(word.rstrip()) > length and lines[-1]:
            lines.append("")
        while len(word.rstrip()) > length:
            lines[-1], word = word[:length], word[length:]
            lines.append("")
        lines[-1] += word
    lines = [line.strip() for line in lines if line.strip()] or [""]
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        lines[-1] = lines[-1][: length - 1] + "…"
    return lines


def balanced(text: str, length: int, max_lines: int) -> list[str]:
    """As `wrapped`, with lines of nearly equal length."""
    lines = wrapped(text, length, max_lines)
    longest_word = max(len(word.rstrip()) for word in WORD.findall(text))
    while length > longest_word and len(shorter := wrapped(text, length - 1)) == len(lines):
        lines, length = shorter, length - 1
    return lines


def text_width(text: str) -> float:
    """The width of a line of the smallest text, in inches."""
    width, _, _ = TEXT_TO_PATH.get_text_width_height_descent(text, SMALLEST, ismath=False)
    return float(width) / 72


def title_with_setup(cells: pd.DataFrame, title: str) -> str:
    """The title, and below it the shape, device and torch version of the cells."""
    first = cells.iloc[0]
    setup = f"{shape_of(first)}, {first['device']}, torch {first['torch']}"
    return "\n".join([*wrapped(title, LINE_LENGTH - 15), *wrapped(setup, LINE_LENGTH - 15)])


def milliseconds(seconds: float) -> str:
    """A time in ms with three significant digits: 0.0373 ms, 2.07 ms, 130 ms."""
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{float(f'{value:.3g}'):g} ms"


def marks(*, is_host_bound: bool, is_throttled: bool) -> str:
    """The marks of a timed cell, such as "†‡", or nothing."""
    return (HOST_BOUND_MARK if is_host_bound else "") + (THROTTLED_MARK if is_throttled else "")


def explained_marks(texts: Iterable[str]) -> list[str]:
    """A line for each mark that is in one of the texts."""
    shown = "".join(texts)
    return [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in shown]


def untimed_reason(cell: pd.Series) -> str:
    """The outcome and reason of an untimed cell."""
    return f"{cell['outcome']}: {cell['reason']}"
