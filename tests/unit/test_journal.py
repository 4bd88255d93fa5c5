"""The journal: what is written, read and resumed."""

from __future__ import annotations

import errno
import functools
import os
from types import SimpleNamespace

import pytest

from maskbench import journal as journal_module
from maskbench.backends import registry
from maskbench.journal import (
    JournalFile,
    differences,
    drop_cut_off_line,
    is_locked,
    parse_journal,
    prune,
)
from maskbench.masks import Full
from maskbench.suite.replay import replay_timer
from maskbench.suite.requested_masks import REQUESTED, MaskRequest, request_masks
from maskbench.suite.run_journal import NEWEST_JOURNAL, RunJournal, code_digest, newest_unfinished
from masks import PATTERNS, MaskFamily
from tests.unit.journal_files import GRID, HEADER, timed, untimed, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def test_each_cell_is_there(path):
    write(path, ("timed", {"benchmark": timed("a")}), ("untimed", {"cell": untimed("b")}))
    journal = parse_journal(path.read_text())
    assert journal.timed == {"a": timed("a")}
    assert journal.untimed == {"b": untimed("b")}
    assert journal.not_run == []


def test_the_last_line_of_a_cell_counts(path):
    entries = [("untimed", {"cell": untimed("a")}), ("timed", {"benchmark": timed("a")})]
    journal = parse_journal(write(path, *entries).read_text())
    assert (list(journal.timed), list(journal.untimed)) == (["a"], [])
    path.unlink()
    journal = parse_journal(write(path, *reversed(entries)).read_text())
    assert (list(journal.timed), list(journal.untimed)) == ([], ["a"])


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_was_cut_off_is_ignored_and_removed(path, cut):
    write(path, ("timed", {"benchmark": timed("a")}), ("timed", {"benchmark": timed("b")}))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(parse_journal(path.read_text()).timed) == ["a"]
    drop_cut_off_line(path)
    file = JournalFile(path)
    file.append("timed", benchmark=timed("b"))
    file.close()
    assert list(parse_journal(path.read_text()).timed) == ["a", "b"]


def test_a_full_disk_leaves_no_part_of_a_line(path, monkeypatch):
    write(path)
    before = path.read_bytes()
    file = JournalFile(path)
    write_all = os.write
    monkeypatch.setattr(
        journal_module,
        "os",
        SimpleNamespace(**{**vars(os), "write": lambda d, b: write_all(d, b[:9])}),
    )
    with pytest.raises(OSError, match="No space left"):
        file.append("timed", benchmark=timed("a"))
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_written_says_so_once(path, monkeypatch):
    journal = RunJournal(path, GRID, is_shared=False)
    header = {name: value for name, value in HEADER.items() if name not in ("journal", "grid")}
    journal.begin(0, False, header)

    def fail(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(JournalFile, "append", fail)
    for _ in range(2):
        journal.append("timed", benchmark=timed("a"))
    assert journal.problem == f"{path}: Disk quota exceeded: later cells are not in the journal"


def test_resume_takes_the_newest_unfinished_run_of_the_same_grid(tmp_path):
    write(tmp_path / "1.jsonl", ("timed", {"benchmark": timed("a")}))
    write(tmp_path / "2.jsonl", ("end", {"interrupted": "SIGTERM"}))
    write(tmp_path / "3.jsonl", ("end", {"interrupted": None}))
    (tmp_path / "4.jsonl").write_text("")
    assert newest_unfinished(tmp_path, GRID) == (tmp_path / "2.jsonl", "")
    (tmp_path / "2.jsonl").unlink()
    assert newest_unfinished(tmp_path, GRID) == (tmp_path / "1.jsonl", "")


def test_resume_does_not_mix_versions(tmp_path):
    write(tmp_path / "1.jsonl")
    found, reason = newest_unfinished(tmp_path, {**GRID, "torch": "2.14.1"})
    assert found is None
    assert "torch: 2.13.0 and 2.14.1" in reason


@pytest.mark.parametrize("is_shared", [False, True], ids=["one GPU", "all GPUs"])
def test_resume_leaves_a_running_run_alone(is_shared, path, tmp_path):
    write(path)
    running = JournalFile(path, is_shared)
    assert is_locked(path)
    assert newest_unfinished(tmp_path, GRID)[0] is None
    running.close()
    assert newest_unfinished(tmp_path, GRID)[0] == path


@pytest.mark.parametrize("content", ["missing", "other grid", "damaged", "folder"])
def test_a_named_journal_that_does_not_fit_is_refused(path, content, tmp_path):
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        write(path)
    if content == "damaged":
        path.write_text("[]\n")
    option = SimpleNamespace(resume=str(path), benchmark_storage=f"file://{tmp_path}")
    wanted = {**GRID, "torch": "2.14.1"} if content == "other grid" else GRID
    with pytest.raises(pytest.UsageError, match=f"--resume {path}: "):
        RunJournal.choose(SimpleNamespace(option=option), wanted, None, False)


def test_a_named_journal_is_resumed(path, tmp_path):
    write(path, ("timed", {"benchmark": timed("a")}))
    option = SimpleNamespace(resume=str(path), benchmark_storage=f"file://{tmp_path}")
    journal, note = RunJournal.choose(SimpleNamespace(option=option), GRID, None, False)
    assert journal.path == path
    assert note == f"resuming {path}: 1 of 2 cells are there"


def test_without_a_journal_a_run_begins_anew(tmp_path):
    option = SimpleNamespace(resume=NEWEST_JOURNAL, benchmark_storage=f"file://{tmp_path}")
    journal, note = RunJournal.choose(SimpleNamespace(option=option), GRID, None, False)
    assert journal.earlier is None
    assert note.startswith("nothing to resume: no unfinished run in ")


def test_the_newest_journals_are_kept(tmp_path):
    for name in ("1", "2", "3", "4"):
        write(tmp_path / f"{name}.jsonl")
    running = JournalFile(tmp_path / "1.jsonl", is_shared=False)
    prune(tmp_path, keep=2)
    running.close()
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["1", "3", "4"]


def test_the_pieces_of_a_run_and_their_seconds(path):
    write(path, ("timed", {"benchmark": timed("a"), "pid": 1, "seconds": {"time": 1.0}}))
    file = JournalFile(path)
    file.append("piece", pid=2, worker=0)
    for total in (2.0, 3.0):  # each line has the seconds since its process started
        file.append("timed", benchmark=timed("b"), pid=2, seconds={"time": total})
    file.close()
    journal = parse_journal(path.read_text())
    assert journal.pieces == 2
    assert journal.seconds == {"time": 4.0}


def test_two_gpus_at_once_are_one_piece(path):
    write(path, ("piece", {"pid": 2, "worker": 1}))
    assert parse_journal(path.read_text()).pieces == 1


def test_differences_name_both_values():
    assert differences({"a": 1, "b": 2}, {"b": 3}) == ["a: 1 and None", "b: 2 and 3"]


def test_the_replay_timer_gives_the_exact_durations():
    durations = [0.1, 0.3, 1e-7]
    timer = replay_timer("cuda_kernel_timer", durations)
    starts_and_ends = [(timer(), timer()) for _ in durations]
    assert [end - start for start, end in starts_and_ends] == durations
    assert timer.__name__ == "cuda_kernel_timer"


def test_an_old_journal_survives_being_resumed(tmp_path):
    for number in range(25):
        write(tmp_path / f"{number:02}.jsonl", ("timed", {"benchmark": timed("a")}))
    journal = RunJournal(tmp_path / "00.jsonl", GRID, is_shared=False)
    journal.begin(0, False, {})
    journal.append("timed", benchmark=timed("b"))
    journal.close(delete=False)
    assert list(parse_journal((tmp_path / "00.jsonl").read_text()).timed) == ["a", "b"]


def test_processes_with_one_number_each_have_their_seconds(path):
    write(path, ("timed", {"benchmark": timed("a"), "pid": 1, "seconds": {"time": 1.0}}))
    again = [
        ("piece", {"pid": 1, "worker": 0}),
        ("end", {"interrupted": None, "seconds": {"time": 2.0}}),
    ]
    file = JournalFile(path)
    for kind, values in again:
        file.append(kind, **{"pid": 1, **values})
    file.close()
    assert parse_journal(path.read_text()).seconds == {"time": 3.0}


def test_a_shared_device_stays_noted(path):
    write(path, ("piece", {"pid": 2, "worker": 0, "shared_device": True}))
    assert parse_journal(path.read_text()).as_saved_run()["maskbench"]["shared_device"] is True


@pytest.mark.parametrize("module", ["a_package_that_is_missing.backend", "__main__"])
def test_the_code_of_any_plugin_has_a_digest(module, monkeypatch):
    before = code_digest()
    monkeypatch.setitem(registry.BACKENDS, "odd", registry.BackendSpec("odd", module))
    partial = functools.partial(lambda width, n, b, h: None, 3)
    monkeypatch.setitem(PATTERNS, "odd", MaskFamily(partial, Full(seq_len=32)))
    assert len(code_digest()) == len(before)


@pytest.mark.parametrize("name", ["mask.py", "lengths.txt"])
def test_the_files_of_requested_masks_are_in_the_digest(name, monkeypatch, tmp_path):
    """A run must not go on with another mask under the same name."""
    (tmp_path / "mask.py").write_text("def mine(b, h, q, k): return q >= k\n")
    (tmp_path / "lengths.txt").write_text("100\n")
    texts = f"{tmp_path}/mask.py:mine", "multi_document_causal"
    requested = MaskRequest(texts, str(tmp_path / "lengths.txt"))
    request_masks(requested)
    before = code_digest()
    assert code_digest() == before
    with (tmp_path / name).open("a") as file:
        file.write("\n")
    assert code_digest() != before
    REQUESTED.clear()


def test_the_code_of_a_plugin_is_in_the_digest(monkeypatch, tmp_path):
    path = tmp_path / "backend_of_a_user.py"
    path.write_text("BACKENDS = {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = registry.BackendSpec("odd", "backend_of_a_user")
    monkeypatch.setitem(registry.BACKENDS, "odd", spec)
    before = code_digest()
    path.write_text("BACKENDS = {'odd': None}\n")
    assert code_digest() != before
