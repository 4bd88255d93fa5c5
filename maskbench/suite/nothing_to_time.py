"""A run whose options leave nothing to time: why."""

from __future__ import annotations

import pytest

from maskbench.suite.cell import known_skip_reason
from maskbench.suite.collection import CELL_KEY
from maskbench.suite.options import RunConfig

MAX_REASONS = 3  # that are shown


def why_nothing_is_timed(items: list[pytest.Item], run: RunConfig) -> str | None:
    """Why every item is a cell that will be skipped; None if one may be timed or is another test.

    A run that times nothing would end with status 0 otherwise, as if all were well.
    """
    reasons: dict[str, str] = {}
    for item in items:
        if CELL_KEY not in item.stash:
            return None
        workload, variant = item.stash[CELL_KEY]
        reason = known_skip_reason(workload, variant, run.backends_named)
        if reason is None:
            return None
        reasons.setdefault(reason, f"{workload} {variant}")
    lines = [f"{reason} ({cell})" for reason, cell in reasons.items()]
    left_out = len(lines) - MAX_REASONS
    more = f"; and {left_out} more reasons" if left_out > 0 else ""
    return f"no cell can be timed: {'; '.join(lines[:MAX_REASONS])}{more}" if lines else None
