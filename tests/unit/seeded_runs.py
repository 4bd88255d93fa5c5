"""Helpers that run the gate on the fixtures `save_run` and `history`, and read its verdict."""

import json

from reports.__main__ import main

CELL = "causal-flex-s512"


def run_gate(new, history, tmp_path, *more):
    """The exit status, and verdict.json if it was written."""
    code = main(["gate", str(new), "--history", str(history), "-o", str(tmp_path / "out"), *more])
    verdict = tmp_path / "out" / "verdict.json"
    return code, json.loads(verdict.read_text()) if verdict.exists() else None


def status_of(verdict, part=CELL):
    """The statuses of the cells whose name contains `part`."""
    return {c["status"] for c in verdict["cells"] if part in c["fullname"]}


def other_gpu(run):
    """Change a saved run into one of another GPU."""
    run["machine_info"] |= {"gpu": "another GPU", "device": "cuda"}
