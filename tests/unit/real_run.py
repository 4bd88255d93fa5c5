"""A run that was saved on a CPU, and copies of it that a test has edited."""

import json
from pathlib import Path

RUN = Path(__file__).parent / "data" / "cpu_run.json"
TEXT = RUN.read_text()


def saved_as(path, change):
    """Save a copy of the test data that `change` has edited, and return its path."""
    run = json.loads(TEXT)
    change(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))
    return path


def all_cells(run):
    return [bench["extra_info"] for bench in run["benchmarks"]] + run["maskbench"]["untimed"]


def few_cells(run, masks=("causal",)):
    """Leave the shortest cells of some masks."""

    def is_wanted(cell):
        return cell["mask"] in masks and cell["seq_len"] == 512

    run["benchmarks"] = [b for b in run["benchmarks"] if is_wanted(b["extra_info"])]
    run["maskbench"]["untimed"] = [c for c in run["maskbench"]["untimed"] if is_wanted(c)]
