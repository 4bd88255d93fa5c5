"""What the gate says of the committed runs of four releases on an H100."""

import gzip
import json
from pathlib import Path

import pytest

from reports.__main__ import main
from tests.unit.seeded_runs import run_gate

RELEASES = Path(__file__).parents[2] / "reports" / "runs" / "releases_h100"
CELL = "test_forward[causal-flex-s4096"


def later(tmp_path, factor):
    """The runs of 2.14.1 a day later, with one cell slower."""
    paths = []
    for run in sorted(RELEASES.glob("2.14.1_*.json.gz")):
        saved = json.loads(gzip.decompress(run.read_bytes()))
        saved["datetime"] = saved["datetime"].replace("2026-11-26", "2026-11-27")
        for bench in saved["benchmarks"]:
            bench["stats"]["median"] *= factor if CELL in bench["fullname"] else 1.0001
        paths.append(tmp_path / run.name.removesuffix(".gz"))
        paths[-1].write_text(json.dumps(saved))
    return paths


def test_the_gate_names_what_2_14_1_made_slower_until_it_is_accepted(tmp_path):
    night = sorted(RELEASES.glob("2.14.1_*.json.gz"))
    accepted = ["--acceptances", str(tmp_path / "accepted.json")]
    code, verdict = run_gate(night, RELEASES, tmp_path, *accepted)
    slow = {c["fullname"]: c["change"] for c in verdict["cells"] if c["status"] == "REGRESSION"}
    assert (code, verdict["verdict"]) == (1, "REGRESSION")

    def change_of(part):
        (change,) = (change for name, change in slow.items() if part in name)
        return change

    assert change_of("test_forward[global_local_sliding_window-flex") == pytest.approx(
        0.33, abs=0.01
    )
    assert change_of("test_forward[causal_padding-flex") == pytest.approx(0.05, abs=0.01)
    assert change_of("test_forward[multi_document_causal-flex") == pytest.approx(0.024, abs=0.005)
    dense_bias = [name for name in slow if "test_backward" in name and "-sdpa" in name]
    assert len(dense_bias) == 20
    more = ["--history", str(RELEASES), *accepted, "--because", "torch 2.14.1 is wanted"]
    assert main(["accept", *map(str, night), *more]) == 0
    assert run_gate(night, RELEASES, tmp_path, *accepted)[0] == 0
    assert run_gate(later(tmp_path, 1.0), RELEASES, tmp_path, *accepted)[0] == 0
    code, verdict = run_gate(later(tmp_path, 1.02), RELEASES, tmp_path, *accepted)
    assert (code, verdict["counts"]["REGRESSION"]) == (1, 1)
    assert CELL in verdict["cells"][0]["fullname"]


def test_2_11_0_alone_is_enough_to_see_it(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for run in RELEASES.glob("2.11.0_*.json.gz"):
        (folder / run.name).write_bytes(run.read_bytes())
    code, verdict = run_gate(sorted(RELEASES.glob("2.14.1_*.json.gz")), folder, tmp_path)
    assert (code, verdict["verdict"]) == (1, "REGRESSION")
