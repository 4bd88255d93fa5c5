"""The lengths of the documents that are packed into each sequence of a batch.

They come from a file, or from a named distribution with a fixed seed.
"""

from __future__ import annotations

import codecs
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, pairwise
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

MAX_LINES = 10_000_000
MAX_LENGTH = 2**31 - 1  # masks compute with int32
MAX_DIGITS = len(str(MAX_LENGTH))
MAX_BYTES = 16 * MAX_LINES  # a length has up to 10 digits, a comma and a line break
MAX_SHOWN = 40  # characters of a wrong line in a message
SEED = 0

# Wikipedia articles per range of tokens (https://huggingface.co/datasets/seonglae/wikipedia_token):
# 82.38 % are below 1024, 93.12 % below 2048, 97.78 % below 4096 and 99.42 % below 8192. These are
# on a line of slope 1.3 in a log-normal probability plot, with a median of about 300. The mean of
# this distribution, 698 tokens, is also that of FineWeb: 140 million tokens in 200000 documents
# (https://huggingface.co/datasets/ServiceNow/fineweb-sample).
LOGNORMAL_MEDIAN = 300.0  # tokens
LOGNORMAL_SIGMA = 1.3  # standard deviation of the natural logarithm of the length

JsonLengths = list[Annotated[int, msgspec.Meta(ge=1, le=MAX_LENGTH)]]


class UnusableLengths(ValueError):
    """Lengths that cannot be used. The message says which file, and why."""


def read_document_lengths(text: str, seq_len: int, batch: int) -> tuple[tuple[int, ...], ...]:
    """The lengths of the documents in each of `batch` sequences of `seq_len` tokens.

    The documents fill the sequences in their order, as in the pre-training of GPT-3
    (https://arxiv.org/abs/2005.14165, section 2.2). A document that does not fit is cut, and its
    rest is the first document of the next sequence. If a file has too few tokens, it is read again
    from its first document.

    Parameters
    ----------
    text
        A distribution, or else the path of a file with a whole number on each line or with a JSON
        list of whole numbers. The distributions are

        - "equal": 8 documents, whose lengths differ by at most one token;
        - "uniform": every length from 1 to seq_len / 4 is equally likely;
        - "lognormal": many short and few long documents, as on the web. The median is 300 tokens,
          the mean 698, and sigma 1.3. Lengths do not grow with `seq_len`.
    seq_len, batch
        Whole numbers of 1 or more.

    Returns
    -------
    tuple of `batch` tuples
        The lengths in tokens. Each inner tuple adds up to `seq_len`.

    Raises
    ------
    UnusableLengths
        If there is no such file or it is not a regular file, cannot be read, is empty, is not
        UTF-8, has more than 10 million lines, or has a line or JSON entry that is not a whole
        number from 1 to 2**31 - 1.
    """
    if not text:
        raise UnusableLengths(f"names no file and none of {', '.join(DISTRIBUTIONS)}")
    distribution = DISTRIBUTIONS.get(text)
    lengths = distribution(seq_len) if distribution else cycle(_read_lengths(Path(text)))
    return _pack(lengths, seq_len, batch)


def _pack(lengths: Iterator[int], seq_len: int, batch: int) -> tuple[tuple[int, ...], ...]:
    """Fill `batch` sequences with documents from an endless iterator of lengths."""
    sequences = []
    rest = 0  # tokens of the current document that are in no sequence yet
    for _ in range(batch):
        documents = []
        room = seq_len
        while room:
            rest = rest or next(lengths)
            part = min(rest, room)
            documents.append(part)
            room -= part
            rest -= part
        sequences.append(tuple(documents))
    return tuple(sequences)


def _equal(seq_len: int) -> Iterator[int]:
    bounds = [seq_len * i // 8 for i in range(9)]
    lengths = [end - start for start, end in pairwise(bounds)]
    return cycle(length for length in lengths if length)  # below 8 tokens, some have none


# RandomState, not Generator: NumPy guarantees that its numbers stay the same in all versions
# (https://numpy.org/neps/nep-0019-rng-policy.html), so saved runs stay comparable.
def _uniform(seq_len: int) -> Iterator[int]:
    random = np.random.RandomState(SEED)
    longest = max(1, seq_len // 4)
    while True:
        yield int(random.randint(1, longest + 1))


def _lognormal(seq_len: int) -> Iterator[int]:
    random = np.random.RandomState(SEED)
    while True:
        length = random.lognormal(np.log(LOGNORMAL_MEDIAN), LOGNORMAL_SIGMA)
        yield max(1, round(length))


DISTRIBUTIONS: dict[str, Callable[[int], Iterator[int]]] = {
    "equal": _equal,
    "uniform": _uniform,
    "lognormal": _lognormal,
}


def _read_lengths(path: Path) -> Iterable[int]:
    data = _read_bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnusableLengths(f"{path}: line {line} is not UTF-8 text") from error
    if not text or text.isspace():
        raise UnusableLengths(f"{path}: is empty; write one length on each line")
    is_json = path.suffix == ".json" or text.lstrip()[0] in '[{"'
    return _parse_json(data, path) if is_json else _parse_lines(text.rstrip(), path)


def _read_bytes(path: Path) -> bytes:
    """The bytes of a regular file without a UTF-8 byte order mark. Raises ValueError."""
    try:
        if not path.exists():
            known = ", ".join(DISTRIBUTIONS)
            raise UnusableLengths(f"{path}: no such file, nor one of the distributions {known}")
        if not path.is_file():
            raise UnusableLengths(f"{path}: is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnusableLengths(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise UnusableLengths(f"{path}: is too large, has more than {MAX_BYTES} bytes")
    return data.removeprefix(codecs.BOM_UTF8)


def _parse_lines(text: str, path: Path) -> array[int]:
    lengths = array("q")  # a list of 10 million ints takes 400 MB
    for number, line in enumerate(io.StringIO(text), 1):
        if number > MAX_LINES:
            raise UnusableLengths(f"{path}: line {number}: only {MAX_LINES} lines are allowed")
        digits = line.strip().lstrip("0")
        # The length comes first: int() raises ValueError for a string of more than 4300 digits.
        is_number = digits.isascii() and digits.isdecimal()
        if not is_number or len(digits) > MAX_DIGITS or int(digits) > MAX_LENGTH:
            shown = repr(line.strip()[:MAX_SHOWN])  # escapes what a terminal would obey
            wrong = f"more than {MAX_LENGTH}" if is_number else "not a whole number of 1 or more"
            raise UnusableLengths(f"{path}: line {number}: {shown} is {wrong}")
        lengths.append(int(digits))
    return lengths


def _parse_json(data: bytes, path: Path) -> list[int]:
    try:
        lengths = msgspec.json.decode(data, type=JsonLengths)
    except msgspec.ValidationError as error:
        entry = re.search(r"\$\[(\d+)\]", str(error))
        where = f"entry {int(entry[1]) + 1} of the JSON list" if entry else "the JSON"
        wanted = f"a whole number from 1 to {MAX_LENGTH}" if entry else "a list of numbers"
        raise UnusableLengths(f"{path}: {where} is not {wanted}") from error
    except msgspec.DecodeError as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        line = data.count(b"\n", 0, int(at[1]) if at else len(data.rstrip())) + 1
        raise UnusableLengths(f"{path}: line {line}: is not JSON or is truncated") from error
    if not lengths:
        raise UnusableLengths(f"{path}: the JSON list is empty; write at least one length")
    if len(lengths) > MAX_LINES:
        raise UnusableLengths(f"{path}: the JSON list has more than {MAX_LINES} numbers")
    return lengths
