"""The lengths of packed documents: the packing, the distributions, and the errors of files."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbench.suite import document_lengths
from maskbench.suite.document_lengths import DISTRIBUTIONS, read_document_lengths

WriteFile = Callable[[str | bytes], str]


@pytest.fixture
def lengths_file(tmp_path: Path) -> WriteFile:
    """Writes a file of lengths and returns its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "lengths.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_documents_keep_their_order_and_a_cut_one_continues(lengths_file: WriteFile) -> None:
    path = lengths_file("3\n4\n9\n2\n")
    assert read_document_lengths(path, seq_len=6, batch=3) == ((3, 3), (1, 5), (4, 2))


def test_a_document_may_span_several_sequences(lengths_file: WriteFile) -> None:
    assert read_document_lengths(lengths_file("10\n2"), 4, 3) == ((4,), (4,), (2, 2))


def test_a_document_that_ends_with_the_sequence_leaves_no_empty_rest(
    lengths_file: WriteFile,
) -> None:
    assert read_document_lengths(lengths_file("4\n1\n3"), 4, 2) == ((4,), (1, 3))


def test_a_file_with_too_few_tokens_starts_again(lengths_file: WriteFile) -> None:
    assert read_document_lengths(lengths_file("2\n3"), 6, 2) == ((2, 3, 1), (1, 3, 2))


@pytest.mark.parametrize(
    "content",
    [
        *("2\n3", "2\n3\n", "2\r\n3\r\n\r\n", " 2\n003 ", "\ufeff2\n3"),
        *("[2, 3]", "\n[2,\n3]\n", "\ufeff[2, 3]"),
    ],
)
def test_lines_and_json_are_read_alike(lengths_file: WriteFile, content: str) -> None:
    assert read_document_lengths(lengths_file(content), 5, 1) == ((2, 3),)


@given(
    name=st.sampled_from(sorted(DISTRIBUTIONS)),
    seq_len=st.integers(1, 5000),
    batch=st.integers(1, 4),
)
def test_each_sequence_adds_up_to_its_length(name: str, seq_len: int, batch: int) -> None:
    sequences = read_document_lengths(name, seq_len, batch)
    assert [sum(documents) for documents in sequences] == [seq_len] * batch
    assert min(map(min, sequences)) >= 1


@given(lengths=st.lists(st.integers(1, 50), min_size=1), seq_len=st.integers(1, 60))
def test_packing_preserves_the_bounds_of_documents(lengths: list[int], seq_len: int) -> None:
    batch = -(-sum(lengths) // seq_len)
    packed = document_lengths._pack(iter([*lengths, seq_len]), seq_len, batch)

    def ends(parts: list[int]) -> set[int]:
        return {sum(parts[: i + 1]) for i in range(len(parts))}

    of_sequences = {seq_len * (i + 1) for i in range(batch)}
    assert ends([part for documents in packed for part in documents]) == (
        ends(lengths) | of_sequences
    )


def test_numbers_of_a_distribution_never_change() -> None:
    # Saved runs are compared by these lengths. Change them only with the format of saved runs.
    assert read_document_lengths("equal", 4096, 1) == ((512,) * 8,)
    assert read_document_lengths("uniform", 4096, 1)[0][:4] == (685, 560, 630, 193)
    assert read_document_lengths("lognormal", 8192, 1) == ((2972, 505, 1071, 3644),)


def test_a_larger_batch_begins_with_the_smaller_one() -> None:
    for name in DISTRIBUTIONS:
        assert read_document_lengths(name, 1000, 4)[:2] == read_document_lengths(name, 1000, 2)


def test_equal_documents_are_never_cut() -> None:
    assert (
        read_document_lengths("equal", 1003, 3) == ((125, 125, 126, 125, 125, 126, 125, 126),) * 3
    )
    assert read_document_lengths("equal", 3, 2) == ((1, 1, 1),) * 2


def test_uniform_lengths_reach_a_quarter_of_the_sequence() -> None:
    drawn = document_lengths.DISTRIBUTIONS["uniform"](40)
    assert {next(drawn) for _ in range(500)} == set(range(1, 11))


def test_lognormal_lengths_have_the_documented_median_and_mean() -> None:
    drawn = document_lengths.DISTRIBUTIONS["lognormal"](4096)
    lengths = [next(drawn) for _ in range(100_000)]
    assert statistics.median(lengths) == pytest.approx(300, rel=0.02)
    assert statistics.mean(lengths) == pytest.approx(698, rel=0.03)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("\ufeff", "is empty"),
        ("5\n\n6", "line 2: '' is not a whole number of 1 or more"),
        ("5\n0", "line 2: '0' is not a whole number of 1 or more"),
        ("-5", "line 1: '-5' is not a whole number"),
        ("5\n6\n7.0", "line 3: '7.0' is not a whole number"),
        ("1e3", "line 1: '1e3' is not a whole number"),
        ("5, 6", "line 1: '5, 6' is not a whole number"),
        ("٣", "line 1: '٣' is not a whole number"),
        ("5\n6\x1b[2J", r"line 2: '6\x1b[2J' is not a whole number"),
        ("x" * 100, f"line 1: '{'x' * 40}' is not a whole number"),
        ("5\n2147483648", "line 2: '2147483648' is more than 2147483647"),
        ("9" * 5000, "is more than 2147483647"),
        (b"5\n6\n\xff", "line 3 is not UTF-8 text"),
        ("5\n6".encode("utf-16"), "line 1 is not UTF-8 text"),
        ("[]", "the JSON list is empty"),
        ('{"lengths": [5]}', "the JSON is not a list of numbers"),
        ('"lognormal"', "the JSON is not a list of numbers"),
        ("[5, 6.5]", "entry 2 of the JSON list is not a whole number from 1 to 2147483647"),
        ("[0]", "entry 1 of the JSON list is not"),
        ("[2147483648]", "entry 1 of the JSON list is not"),
        ("[true]", "entry 1 of the JSON list is not"),
        ('["5"]', "entry 1 of the JSON list is not"),
        ("[" * 100_000, "entry 1 of the JSON list is not"),
        ("[5,\n6,\nx]", "line 3: is not JSON or is truncated"),
        ("[5,\n6", "line 2: is not JSON or is truncated"),
        ("[5]\n6", "line 2: is not JSON or is truncated"),
    ],
)
def test_a_wrong_file_is_refused(
    lengths_file: WriteFile, content: str | bytes, message: str
) -> None:
    path = lengths_file(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_document_lengths(path, 64, 1)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_json_file_must_be_json(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text("5")
    with pytest.raises(ValueError, match=r"lengths\.json: the JSON is not a list of numbers"):
        read_document_lengths(str(path), 64, 1)


def test_a_missing_file_names_the_distributions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file, nor one of .* equal, uniform, lognormal"):
        read_document_lengths(str(tmp_path / "lognormall"), 64, 1)


@pytest.mark.parametrize("name", [".", "/dev/null"])
def test_only_a_regular_file_is_read(name: str) -> None:
    with pytest.raises(ValueError, match="is not a file"):
        read_document_lengths(name, 64, 1)


def test_a_path_that_the_system_refuses_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"cannot be read|no such file"):
        read_document_lengths("x" * 5000, 64, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(lengths_file: WriteFile) -> None:
    path = lengths_file("5")
    os.chmod(path, 0)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
        read_document_lengths(path, 64, 1)


@pytest.mark.parametrize("content", ["5\n6\n7\n8", "[5, 6, 7, 8]"])
def test_too_many_lengths_are_refused(
    lengths_file: WriteFile, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(document_lengths, "MAX_LINES", 3)
    with pytest.raises(ValueError, match=r"only 3 lines|more than 3 numbers"):
        read_document_lengths(lengths_file(content), 64, 1)


def test_a_file_of_too_many_bytes_is_refused(
    lengths_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_lengths, "MAX_BYTES", 3)
    assert read_document_lengths(lengths_file("5\n6"), 11, 1) == ((5, 6),)
    with pytest.raises(ValueError, match="too large, has more than 3 bytes"):
        read_document_lengths(lengths_file("5\n6\n"), 11, 1)
