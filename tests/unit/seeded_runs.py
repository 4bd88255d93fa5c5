"""The gate on runs made of a real one (the fixtures make and history), and what it said."""

import json

from reports.__main__ import main

CELL = "causal-flex-s512"


def run_gate(new, history, tmp_path, *more):
    code = main(["gate", str(new), "--history", str(history), "-o", str(tmp_path / "out"), *more])
    verdict = tmp_path / "out" / "verdict.json"
    return code, json.loads(verdict.read_text()) if verdict.exists() else None


def status_of(verdict, part=CELL):
    return {c["status"] for c in verdict["cells"] if part in c["fullname"]}


def other_card(run):
    run["machine_info"] |= {"gpu": "another card", "device": "cuda"}
