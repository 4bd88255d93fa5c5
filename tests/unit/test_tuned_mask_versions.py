"""Options that were found for a mask of a file are not used when the mask in it has changed."""

import pytest

from maskbench.masks import Causal, SlidingWindow
from maskbench.records import Phase
from maskbench.suite import tuned
from maskbench.suite.device_name import device_name
from maskbench.suite.requested_masks import REQUESTED, MaskRequest, request_masks
from maskbench.suite.tuned import bind_tuned, existing_file, mask_digest, missing_options_reason
from maskbench.suite.workload import Shape, Workload
from maskbench.tuned_options import write_entry
from tests.unit.tuned_entries import entry, found

CAUSAL = "def m(b, h, q, k):\n    return q >= k\n"
WINDOW = "def m(b, h, q, k):\n    return (q >= k) & (q - k < 100)\n"
ANOTHER = "was searched for another version of the mask"


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "tuned")
    yield tmp_path / "tuned"
    REQUESTED.clear()


def workload(text, document_lengths=None):
    (name,) = request_masks(MaskRequest((text,), document_lengths))
    return Workload(name, 512, Shape(1, 1, 1, 16), "float32", "cpu", Phase.FORWARD)


@pytest.fixture
def files(tmp_path):
    """Two files of one name, as a file and its earlier version have, and their masks."""
    texts = []
    for name, content in {"a": CAUSAL, "b": WINDOW}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "mm.py").write_text(content)
        texts.append(f"{tmp_path / name / 'mm.py'}:m")
    return texts


def keep(given, store, **fields):
    made = entry(found(a=1), problem=tuned.problem_of(given), gpu=device_name("cpu"), **fields)
    return write_entry(made, store)


def digest_of(given):
    return mask_digest(given.build_mask(), "cpu")


def test_the_digest_is_of_what_the_mask_attends_to(files):
    assert digest_of(workload(files[0])) == mask_digest(Causal(seq_len=512), "cpu")
    assert digest_of(workload(files[1])) == mask_digest(SlidingWindow(99, 0, seq_len=512), "cpu")
    digests = {mask_digest(mask, "cpu") for mask in (Causal(seq_len=512), Causal(seq_len=384))}
    assert len(digests | {digest_of(workload(files[1]))}) == 3


def test_options_of_another_version_are_searched_again(store, files):
    first = workload(files[0])
    path = keep(first, store, mask_digest=digest_of(first))
    assert existing_file(first) == path
    assert missing_options_reason(first, True) is None
    second = workload(files[1])
    assert tuned.problem_of(second) == tuned.problem_of(first)
    assert existing_file(second) is None
    command = (
        f"search again: python -m pytest -m tune tests/test_tune.py --device cpu --masks {files[1]}"
    )
    assert f"{path}: {ANOTHER}; {command}" in missing_options_reason(second, True)
    assert missing_options_reason(second, False) == (
        f"{path}: {ANOTHER}; name flex_tuned in --backends to see how to search again"
    )
    with pytest.raises(tuned.OptionsNotFound, match=ANOTHER):
        bind_tuned(second)


def test_an_entry_without_a_digest_is_used(store, files):
    """As before digests were saved."""
    path = keep(workload(files[0]), store)
    assert existing_file(workload(files[1])) == path


def test_the_lengths_of_documents_are_part_of_the_version(store, tmp_path):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("256\n256\n")
    given = workload("multi_document_causal", str(lengths))
    path = keep(given, store, mask_digest=digest_of(given))
    assert existing_file(workload("multi_document_causal", str(lengths))) == path
    lengths.write_text("128\n384\n")
    changed = workload("multi_document_causal", str(lengths))
    assert ANOTHER in missing_options_reason(changed, True)


def test_a_mask_that_cannot_be_evaluated_fails_its_own_cell_only(store, tmp_path):
    """The lookup is part of the collection of all cells."""
    (tmp_path / "mm.py").write_text(
        "def m(b, h, q, k):\n    assert q.numel() <= 8\n    return q >= k\n"
    )
    broken = workload(f"{tmp_path / 'mm.py'}:m")
    path = keep(broken, store, mask_digest="of another mask")
    assert existing_file(broken) == path
