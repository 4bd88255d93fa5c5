"""Small journals that tests write."""

from __future__ import annotations

from maskbench.journal import JournalFile

GRID = {"cells": "2", "torch": "2.13.0"}
HEADER = {
    **{"journal": 1, "grid": GRID, "planned": ["a", "b"], "datetime": "2026-11-26T00:00:00+00:00"},
    **{"machine_info": {}, "commit_info": {}, "maskbench": {"format": 3}},
}


def timed(name, seconds=0.001):
    stats = {"data": [seconds], "iterations": 1}
    return {"fullname": name, "stats": stats, "options": {"timer": "time"}, "extra_info": {}}


def untimed(name, reason="it broke"):
    return {"fullname": name, "outcome": "failed", "reason": reason}


def write(path, *entries):
    """A journal with these lines after the first two."""
    file = JournalFile(path)
    file.append("run", **HEADER)
    file.append("piece", pid=1, worker=0)
    for kind, values in entries:
        file.append(kind, **values)
    file.close()
    return path
