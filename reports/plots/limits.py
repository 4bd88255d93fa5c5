"""How much a picture shows, so that it can be drawn and read whatever was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

MAX_ROWS, MAX_COLUMNS = 60, 40  # of a table
MAX_NOTE_LINES = 80  # below a table
MAX_BACKENDS = 40  # bars or lines
MAX_PANELS = 48
MAX_LENGTHS = 12  # sequence lengths with a column or a tick of their own

T = TypeVar("T")


def first(found: Sequence[T], limit: int, what: str) -> tuple[list[T], str]:
    """At most `limit` of the items, and a note such as " (40 of 100 masks)", empty for all."""
    note = f" ({limit} of {len(found)} {what})" if len(found) > limit else ""
    return list(found[:limit]), note


def spread_out(lengths: Sequence[int]) -> list[int]:
    """At most MAX_LENGTHS of the sorted lengths, from the shortest to the longest."""
    places = np.linspace(0, len(lengths) - 1, min(MAX_LENGTHS, len(lengths)))
    return [lengths[int(place)] for place in places.round()]
