"""Parameters far beyond the sequence. On the device they would overflow 32-bit integers."""

import sys

import numpy as np
import pytest
import torch

from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Mask,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from maskbench.masks.base import POSITIVE

S = 8
LARGE = [S, S + 1, 2**30, 2**31 - 1, 2**31, 2**63 - 1, 2**70]


def pairs(allowed):
    """The definition as a double loop over Python integers, which do not overflow."""
    return torch.tensor([[bool(allowed(q, k)) for k in range(S)] for q in range(S)])


def window(left, right):
    return lambda q, k: -right <= q - k <= left


def pixels(width, radius):
    def near(q, k):
        return abs(q // width - k // width) <= radius and abs(q % width - k % width) <= radius

    return near


CASES = {
    "window, left": (lambda n: SlidingWindow(n, 0, seq_len=S), lambda n: window(n, 0)),
    "window, right": (lambda n: SlidingWindow(0, n, seq_len=S), lambda n: window(0, n)),
    "window, both": (lambda n: SlidingWindow(n, n, seq_len=S), lambda n: window(n, n)),
    "dilated, window": (
        lambda n: DilatedSlidingWindow(n, 3, seq_len=S),
        lambda n: lambda q, k: abs(q - k) <= n and (q - k) % 3 == 0,
    ),
    "dilated, dilation": (
        lambda n: DilatedSlidingWindow(2, n, seq_len=S),
        lambda n: lambda q, k: abs(q - k) <= 2 and (q - k) % n == 0,
    ),
    "global and local": (
        lambda n: GlobalLocalSlidingWindow(n, (0, 3), seq_len=S),
        lambda n: lambda q, k: abs(q - k) <= n or q in (0, 3) or k in (0, 3),
    ),
    "prefix": (lambda n: PrefixLM(n, seq_len=S), lambda n: lambda q, k: q >= k or k < n),
    "pixels, width": (lambda n: LocalAttention2D(n, 1, seq_len=S), lambda n: pixels(n, 1)),
    "pixels, radius": (lambda n: LocalAttention2D(3, n, seq_len=S), lambda n: pixels(3, n)),
}


@pytest.mark.parametrize("number", LARGE)
@pytest.mark.parametrize("case", CASES)
def test_a_mask_is_what_its_definition_says(case, number):
    make, definition = CASES[case]
    mask, expected = make(number), pairs(definition(number))
    assert torch.equal(mask.dense("cpu")[0, 0], expected)
    assert mask.area() == int(expected.sum())
    blocks = mask.block_mask("cpu", 2).to_dense()[0, 0].bool()
    assert torch.equal(blocks, expected.view(S // 2, 2, S // 2, 2).any(3).any(1))


@pytest.mark.parametrize("number", LARGE)
def test_masks_inside_others_are_right_too(number):
    lengths = (3, 5)
    document = [0] * 3 + [1] * 5
    expected = pairs(lambda q, k: document[q] == document[k] and 0 <= q - k <= number)
    packed = Documents(lengths, SlidingWindow(number, 0, seq_len=S))
    assert torch.equal(packed.dense("cpu")[0, 0], expected)
    assert packed.area() == int(expected.sum())
    padding = torch.zeros(1, S, dtype=torch.bool)
    padding[0, 6:] = True
    padded = Padded(SlidingWindow(number, 0, seq_len=S), padding)
    expected = pairs(lambda q, k: q < 6 and 0 <= q - k <= number)
    assert torch.equal(padded.dense("cpu")[0, 0], expected)
    assert padded.area() == int(expected.sum())


def test_windows_that_cover_the_sequence_are_equal():
    one, other = SlidingWindow(sys.maxsize, 0, seq_len=S), SlidingWindow(S, 0, seq_len=S)
    assert one == other
    assert hash(one) == hash(other)
    assert one.left == S


@pytest.mark.parametrize("number", [2**30 + 1, 2**31, np.int64(2**62)])
def test_what_cannot_be_limited_and_would_overflow_is_refused(number):
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Scaled(Mask):
        factor: int = field(metadata=POSITIVE)

        def mask_mod(self, device):
            return lambda b, h, q, k: q * self.factor >= k

    assert Scaled(2**30, seq_len=1).factor == 2**30
    with pytest.raises(ValueError, match=r"factor is \d+, must be at most 1073741824"):
        Scaled(number, seq_len=4)
    with pytest.raises(ValueError, match="seq_len is"):
        Causal(seq_len=number)
