"""Damaged journals: what is refused, and what is left out and named."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from maskbench.journal import JournalFile, UnreadableJournal, parse_journal
from maskbench.suite.run_journal import NEWEST_JOURNAL, RunJournal
from tests.unit.journal_files import GRID, HEADER, timed, write
from tests.unit.pytest_process import pytest_inline, strict_json
from tests.unit.saving_plugin import FORWARD
from tests.unit.saving_plugin import GRID as SMALL_GRID


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "not JSON\n",
        "[]\n",
        '{"kind": "timed"}\n',
        '{"kind": "run", "journal": 2}\n',
        json.dumps({"kind": "run", **HEADER, "planned": 3}) + "\n",
        json.dumps({"kind": "run", **HEADER, "planned": [{}]}) + "\n",
        json.dumps({"kind": "run", **HEADER, "datetime": None}) + "\n",
        "[" * 100_000 + "\n",
    ],
)
def test_what_is_no_journal_has_a_reason(text):
    with pytest.raises(
        UnreadableJournal, match=r"line \d+ is not a valid|does not begin|no complete line"
    ):
        parse_journal(text)


WRONG_TIMES = [
    ("stats", 3),
    ("stats", {}),
    ("stats", {"data": "fast", "iterations": 1}),
    ("stats", {"data": [None], "iterations": 1}),
    ("stats", {"data": [], "iterations": 1}),
    ("stats", {"data": [0.1], "iterations": "1"}),
    ("stats", {"data": [0.1], "iterations": 0}),
    ("options", None),
    ("options", {"timer": 1}),
    ("extra_info", []),
    ("fullname", ["b"]),
]


DAMAGED_LINES = [
    *(b"", b"not JSON", b"[]", b"\0" * 4096, b"\xff\xfe", b"[" * 100_000, b'{"kind": "new"}'),
    *(b'{"kind": "timed", "benchmark": 3}', b'{"kind": "untimed", "cell": {"fullname": "b"}}'),
    *(b'{"kind": "piece"}', b'{"kind": "end", "interrupted": 3}'),
    b'{"kind": "died", "fullname": "b"}',
    '{"kind": "untimed", "cell": {"fullname": "b", "outcome": "failed", "reason": "ü"}}'.encode(),
    *(
        json.dumps({"kind": "timed", "benchmark": {**timed("b"), name: value}}).encode()
        for name, value in WRONG_TIMES
    ),
    json.dumps({"kind": "timed", "benchmark": timed("b"), "seconds": {"time": "x"}}).encode(),
    json.dumps({"kind": "timed", "benchmark": timed("b"), "seconds": 3}).encode(),
]


@pytest.mark.parametrize("line", DAMAGED_LINES, ids=lambda line: line[:60].decode(errors="replace"))
def test_a_damaged_line_is_left_out_and_named(line, path):
    write(path, ("timed", {"benchmark": timed("a")}))
    path.write_bytes(path.read_bytes() + line + b"\n")
    file = JournalFile(path)
    file.append("end", interrupted=None)
    file.close()
    journal = parse_journal(path.read_bytes())
    assert journal.damaged == [4]
    assert (list(journal.timed), journal.not_run) == (["a"], ["b"])
    assert journal.is_finished
    reason = journal.as_saved_run()["maskbench"]["interrupted"]
    assert reason == "damaged lines of the journal are left out: 4"


def test_a_resumed_run_names_the_damaged_lines(path, tmp_path):
    write(path, ("timed", {"benchmark": timed("a")}))
    with path.open("a") as file:
        file.write("x\ny\n")
    option = SimpleNamespace(resume=NEWEST_JOURNAL, benchmark_storage=f"file://{tmp_path}")
    (tmp_path / "journals").mkdir()
    path.rename(tmp_path / "journals" / path.name)
    _, note = RunJournal.choose(SimpleNamespace(option=option), GRID, None, False)
    assert note.endswith("1 of 2 cells are there; damaged lines of the journal are left out: 4, 5")


def test_a_resumed_run_times_the_cell_of_a_damaged_line_again(tmp_path):
    """Also with times of a wrong type, which would fail in pytest-benchmark's hands."""
    storage = f"--benchmark-storage=file://{tmp_path}"
    pytest_inline(*SMALL_GRID, storage, FORWARD)
    (journal,) = tmp_path.rglob("*.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [entry["kind"] for entry in entries[2:5]] == ["timed"] * 3
    entries[3]["benchmark"]["stats"] = 3
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    target = tmp_path / "run.json"
    text = pytest_inline(
        *SMALL_GRID, storage, f"--resume={journal}", f"--benchmark-json={target}", FORWARD
    )
    assert "3 of 4 cells are there; damaged lines of the journal are left out: 4" in text
    assert len(strict_json(target)["benchmarks"]) == 4
