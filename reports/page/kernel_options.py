"""FlexAttention's fastest kernel options that were found for the masks of a page."""

from __future__ import annotations

from typing import Any

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun
from maskbench.tuned_options import FOLDER, TunedEntry
from reports.kernel_options import lengths_text, load_entries, shape_text, snippet
from reports.page.columns import rounded


def found_options(masks: set[str]) -> list[dict[str, Any]]:
    """The entries of these masks in reports/tuned: what was found, and code to paste."""
    try:
        entries = load_entries(FOLDER)
    except UnreadableRun:  # none were searched yet, or none can be read
        return []
    return [entry_facts(entry) for entry in entries if entry.problem.mask in masks]


def entry_facts(entry: TunedEntry) -> dict[str, Any]:
    problem = entry.problem
    return {
        "mask": problem.mask,
        "direction": problem.direction,
        "title": f"{problem.direction}, {lengths_text(problem)}, {shape_text(problem)}",
        "where": plain_text(f"{entry.gpu.replace('_', ' ')}, torch {entry.torch}"),
        "found": [
            {
                "options": plain_text(str(found.options)),
                "gain": rounded(found.gain),
                "interval": rounded(found.interval),
            }
            for found in entry.found
        ],
        "snippet": snippet(entry),
    }
