"""The files that keep the options that a search found."""

import json

import msgspec
import pytest

from maskbench.tuned_options import (
    FlexOptions,
    Lookup,
    Timed,
    UnusableEntry,
    find_entry,
    read_entry,
    write_entry,
)
from tests.unit.tuned_entries import PROBLEM, entry, found

TORCH = entry().torch


def test_an_entry_is_read_as_it_was_written(tmp_path):
    written = entry(found(fwd_BLOCK_M=64, fwd_PRESCALE_QK=True, BACKEND="TRITON"), found())
    path = write_entry(written, tmp_path)
    assert path == tmp_path / "gpu" / "causal-forward-s512-b1h2d16-float32.json"
    assert read_entry(path) == written
    options = read_entry(path).found[0].options
    assert options == FlexOptions(
        (("fwd_BLOCK_M", 64), ("fwd_PRESCALE_QK", True), ("BACKEND", "TRITON"))
    )
    assert str(options) == "fwd_BLOCK_M=64, fwd_PRESCALE_QK=True, BACKEND=TRITON"


def test_an_entry_without_the_newer_fields_is_read(tmp_path):
    path = write_entry(entry(found()), tmp_path)
    content = json.loads(path.read_text())
    del content["screening"], content["max_autotune_interval"], content["mask_digest"]
    path.write_text(json.dumps(content))
    read = read_entry(path)
    assert (read.screening, read.max_autotune_interval, read.mask_digest) == ([], None, None)
    assert read.found == [found()]


def test_torchs_own_search_leads_only_beyond_the_noise_of_both():
    """The interval of `found` is 0.4 %."""
    other = found(1.2)
    assert entry(max_autotune_gain=1.26).max_autotune_speedup(other) == pytest.approx(1.05)
    assert entry(max_autotune_gain=1.21).max_autotune_speedup(other) is None
    noisy = entry(max_autotune_gain=1.26, max_autotune_interval=0.05)
    assert noisy.max_autotune_speedup(other) is None
    assert entry(max_autotune_gain=0.8).max_autotune_speedup(None) is None
    assert entry(max_autotune_gain=1.02).max_autotune_speedup(None) == pytest.approx(1.02)
    assert entry(max_autotune_gain=None).max_autotune_speedup(other) is None


def test_problems_that_differ_have_files_that_differ():
    fields = {"mask": "m(left=3)", "direction": "backward", "seq_len": 513, "q_len": 16, "batch": 2}
    fields |= {"heads": 4, "kv_heads": 1, "head_dim": 32, "v_head_dim": 64, "dtype": "float16"}
    others = [msgspec.structs.replace(PROBLEM, **{k: v}) for k, v in fields.items()]
    others.append(msgspec.structs.replace(PROBLEM, mask="m_left_3_"))
    names = {p.file_name for p in [PROBLEM, *others]}
    assert len(names) == len(others) + 1
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.") for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: b"", "is damaged"),
        (lambda text: b"\xff" + text, "is damaged"),
        (lambda text: text.replace(b'"format": 1', b'"format": 2'), "is of format 2"),
        (lambda text: text.replace(b'"gain": 1.25', b'"gain": "fast"'), "is damaged"),
        (lambda text: text.replace(b'"gain": 1.25', b'"gain": 0'), "is damaged"),
        (lambda text: text.replace(b'"seconds": 0.002', b'"seconds": 0'), "is damaged"),
        (lambda text: text.replace(b'"seconds": 1.5', b'"seconds": 0'), "is damaged"),
        (lambda text: text.replace(b'"default_s": 0.0025', b'"default_s": 0'), "is damaged"),
        (lambda text: text.replace(b'_gain": 1.1', b'_gain": 0'), "is damaged"),
        (lambda text: b"[]", "is damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_ignored_with_its_reason(tmp_path, change, message):
    path = write_entry(entry(found(), screening=[Timed("default", 1.5)]), tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UnusableEntry, match=message):
        read_entry(path)
    lookup = find_entry(PROBLEM, "gpu", TORCH, tmp_path)
    assert lookup.entry is None
    (line,) = lookup.unusable
    assert str(path) in line
    assert message in line


def test_a_file_of_another_problem_is_ignored_with_its_reason(tmp_path):
    full = msgspec.structs.replace(PROBLEM, mask="full")
    path = write_entry(entry(found(), problem=full), tmp_path)
    path.rename(path.parent / PROBLEM.file_name)
    lookup = find_entry(PROBLEM, "gpu", TORCH, tmp_path)
    assert lookup.entry is None
    (line,) = lookup.unusable
    assert line.endswith(
        "is of full-forward-s512-b1h2d16-float32, not of causal-forward-s512-b1h2d16-float32"
    )


def test_a_folder_in_the_place_of_a_file_is_ignored_with_its_reason(tmp_path):
    folder = tmp_path / "gpu" / PROBLEM.file_name
    folder.mkdir(parents=True)
    lookup = find_entry(PROBLEM, "gpu", TORCH, tmp_path)
    assert lookup.entry is None
    assert lookup.unusable == (f"{folder}: cannot be read: Is a directory",)


def test_the_entry_of_this_gpu_is_preferred_then_this_torch_then_the_newest(tmp_path):
    def looked_up(gpu):
        lookup = find_entry(PROBLEM, gpu, TORCH, tmp_path)
        return lookup.entry and (lookup.entry.gpu, lookup.entry.torch)

    assert looked_up("gpu") is None
    write_entry(entry(gpu="a", torch="2.9.0", saved="2026-03"), tmp_path)
    write_entry(entry(gpu="b", torch="2.9.0", saved="2026-05"), tmp_path)
    assert looked_up("gpu") == ("b", "2.9.0")
    write_entry(entry(gpu="c", saved="2026-01"), tmp_path)
    assert looked_up("gpu") == ("c", TORCH)
    write_entry(entry(gpu="gpu", torch="2.9.0"), tmp_path)
    assert looked_up("gpu") == ("gpu", "2.9.0")
    assert looked_up("a") == ("a", "2.9.0")


def test_an_entry_of_another_problem_is_not_used(tmp_path):
    """Two names can be made into one file name on a file system that ignores case."""
    path = write_entry(entry(), tmp_path)
    content = json.loads(path.read_text())
    content["problem"]["mask"] = "Causal"
    problem = msgspec.structs.replace(PROBLEM, mask="Causal")
    path.write_text(json.dumps(content))
    lookup = find_entry(PROBLEM, "gpu", TORCH, tmp_path)
    assert lookup == Lookup(path, None, (f"{path}: is of {problem}, not of {PROBLEM}",))


def test_an_entry_that_cannot_be_replaced_stays_whole(tmp_path, monkeypatch):
    path = write_entry(entry(found()), tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        write_entry(entry(), tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
