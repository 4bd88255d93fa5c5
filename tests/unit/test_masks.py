"""The twelve built-in patterns against their definition in words."""

import math

import numpy as np
import pytest
import torch

from maskbench.masks import Causal, Documents, Padded, SlidingWindow
from masks import PATTERNS

NAMES = [
    "full",
    "causal",
    "causal_sliding_window",
    "bidirectional_sliding_window",
    "bidirectional_dilated_sliding_window",
    "global_local_sliding_window",
    "prefix_lm",
    "multi_document_bidirectional",
    "multi_document_causal",
    "multi_document_prefix_lm",
    "standalone_self_attention",
    "causal_padding",
]


def definition(name, n):
    """The pattern's definition as a function (q, k) -> bool of NumPy indices."""
    lengths = [eighths * n // 8 for eighths in (1, 1, 2, 2, 2)]
    document = np.repeat(np.arange(5), lengths)
    start = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    width = 1
    while width * width < n:
        width *= 2
    global_tokens = [token for token in (0, 512, 1024) if token < n]
    return {
        "full": lambda q, k: (q == q) & (k == k),
        "causal": lambda q, k: q >= k,
        "causal_sliding_window": lambda q, k: (q - k >= 0) & (q - k <= 256),
        "bidirectional_sliding_window": lambda q, k: abs(q - k) <= 256,
        "bidirectional_dilated_sliding_window": lambda q, k: (
            (abs(q - k) <= 512) & ((q - k) % 2 == 0)
        ),
        "global_local_sliding_window": lambda q, k: (
            (abs(q - k) <= 256) | np.isin(q, global_tokens) | np.isin(k, global_tokens)
        ),
        "prefix_lm": lambda q, k: (q >= k) | (k < n / 2),
        "multi_document_bidirectional": lambda q, k: document[q] == document[k],
        "multi_document_causal": lambda q, k: (document[q] == document[k]) & (q >= k),
        "multi_document_prefix_lm": lambda q, k: (
            (document[q] == document[k]) & ((q >= k) | (k - start[k] < n // 16))
        ),
        "standalone_self_attention": lambda q, k: (
            (abs(q // width - k // width) <= 8) & (abs(q % width - k % width) <= 8)
        ),
    }[name]


def evaluate(allowed, n):
    """bool [n, n] of a function (q, k) -> bool of NumPy indices."""
    q, k = np.arange(n)[:, None], np.arange(n)
    return torch.from_numpy(np.broadcast_to(allowed(q, k), (n, n)).copy())


def test_the_twelve_patterns_are_registered_in_order():
    assert [name for name in PATTERNS if name in NAMES] == NAMES


@pytest.mark.parametrize("seq_len", [256, 1024])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_pattern_matches_its_definition(name, seq_len):
    mask = PATTERNS[name](seq_len=seq_len, batch=3)
    expected = evaluate(definition(name, seq_len), seq_len)
    assert torch.equal(mask.dense("cpu"), expected[None, None])
    assert mask.area(3) == 3 * int(expected.sum())


def test_third_global_token_attends_everywhere():
    dense = PATTERNS["global_local_sliding_window"](seq_len=2048, batch=1).dense("cpu")[0, 0]
    for token in (0, 512, 1024):
        assert dense[token].all()
        assert dense[:, token].all()
    assert not dense[1536].all()


@pytest.mark.parametrize("seq_len", [256, 512])
def test_causal_padding_matches_its_definition(seq_len):
    batch = 5
    mask = PATTERNS["causal_padding"](seq_len=seq_len, batch=batch)
    lengths = (~mask.padding).sum(1).tolist()
    assert all(seq_len // 2 <= n <= seq_len for n in lengths)
    assert len(set(lengths)) > 1, "each batch element has its own length"
    expected = torch.stack(
        [
            evaluate(lambda q, k, n=n: (q >= k) & (q < n) & (k < n), seq_len)  # padding at the end
            for n in lengths
        ]
    )
    assert torch.equal(mask.dense("cpu"), expected[:, None])
    assert mask.area(batch) == int(expected.sum())
    assert mask == PATTERNS["causal_padding"](seq_len=seq_len, batch=batch), "the seed is fixed"


@pytest.mark.parametrize(("seq_len", "width"), [(256, 16), (512, 32), (4096, 64), (8192, 128)])
def test_image_width_is_the_power_of_two_at_or_above_the_square_root(seq_len, width):
    mask = PATTERNS["standalone_self_attention"](seq_len=seq_len, batch=1)
    assert mask.width == width
    assert width >= math.sqrt(seq_len) > width / 2


@pytest.mark.parametrize("seq_len", [0, 128, 255, 300, 384])
def test_pattern_rejects_other_than_powers_of_two_from_256(seq_len):
    with pytest.raises(ValueError, match=f"seq_len is {seq_len}.*powers of two from 256"):
        PATTERNS["causal"](seq_len=seq_len, batch=1)


def test_masks_compare_by_value_and_match():
    match PATTERNS["multi_document_causal"](seq_len=256, batch=1):
        case Documents(lengths, inner=Causal()):
            assert lengths == (32, 32, 64, 64, 64)
        case other:
            pytest.fail(f"{other} did not match")
    match PATTERNS["causal_sliding_window"](seq_len=256, batch=1):
        case SlidingWindow(left, right):
            assert (left, right) == (256, 0)
    assert SlidingWindow(4, 0, seq_len=8) == SlidingWindow(4, 0, seq_len=8)
    assert SlidingWindow(4, 0, seq_len=8) != SlidingWindow(4, 1, seq_len=8)
    padding = torch.zeros(1, 8, dtype=torch.bool)
    assert Padded(Causal(seq_len=8), padding) == Padded(Causal(seq_len=8), padding.clone())
    assert Padded(Causal(seq_len=8), padding) != Padded(Causal(seq_len=8), ~padding)
