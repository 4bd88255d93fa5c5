"""Saved runs with seeded noise, as of a GPU, and the verdict of the gate on them."""

import json

from reports.__main__ import main

CELL = "causal-flex-s512"
NIGHTS = 4  # of a history of a GPU
QUIET = 0.001  # noise between runs on a GPU


def run_gate(new, history, tmp_path, *more):
    """The exit status, and verdict.json if it was written. `new` is a file or several."""
    files = [str(path) for path in (new if isinstance(new, list) else [new])]
    code = main(["gate", *files, "--history", str(history), "-o", str(tmp_path / "out"), *more])
    verdict = tmp_path / "out" / "verdict.json"
    return code, json.loads(verdict.read_text()) if verdict.exists() else None


def status_of(verdict, part=CELL):
    """The statuses of the cells whose name contains `part`."""
    return {c["status"] for c in verdict["cells"] if part in c["fullname"]}


def cell_of(verdict, part=CELL):
    """The one cell whose name contains `part`."""
    (cell,) = (c for c in verdict["cells"] if part in c["fullname"])
    return cell


def other_gpu(run):
    """Change a saved run into one of another GPU."""
    run["machine_info"] |= {"gpu": "another GPU", "device": "cuda"}


def on_gpu(card="GPU-1", clock=1800.0, torch=None, change=None):
    """A change of a saved run into one of a GPU whose SM clock is `clock` MHz."""

    def edit(run):
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda", "gpu_uuid": card}
        for bench in run["benchmarks"]:
            bench["extra_info"]["call_clock_mhz"] = clock
        if torch:
            run["commit_info"]["torch"] = torch
        if change:
            change(run)

    return edit


def save_night(save_run, day, folder="night", scale=(), noise=QUIET, runs=3, **gpu):
    """Save the runs of one night on a GPU, 15 minutes apart, and return their paths."""
    return [
        save_run(day + i / 96, folder, scale, noise, on_gpu(**gpu), f"{day:07.2f}_{i}.json")
        for i in range(runs)
    ]


def save_nights(save_run, days=range(NIGHTS), **options):
    """A history of nights on a GPU; returns its folder."""
    for day in days:
        (path, *_) = save_night(save_run, day, "nights", **options)
    return path.parent
