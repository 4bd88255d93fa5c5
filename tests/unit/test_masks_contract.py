"""The contract of a mask class: parameters, required methods and their errors."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from maskbench.masks import (
    NON_NEGATIVE,
    POSITIVE,
    Causal,
    DilatedSlidingWindow,
    Documents,
    GlobalLocalSlidingWindow,
    LastQueries,
    LocalAttention2D,
    Mask,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from masks import PATTERNS
from tests.unit.mask_oracles import assert_blocks_equal_torch


@dataclass(frozen=True)
class CausalWindow(Mask):
    """The example in the docstring of Mask: mask_mod and key_range."""

    width: int = field(metadata=POSITIVE)

    def mask_mod(self, device):
        return lambda b, h, q, k: (k <= q) & (k > q - self.width)

    def key_range(self, q):
        return q - self.width + 1, q


@dataclass(frozen=True)
class Chunks(Mask):
    """Only mask_mod."""

    chunk: int = field(metadata=POSITIVE)
    shift: int = field(metadata=NON_NEGATIVE)

    def mask_mod(self, device):
        return lambda b, h, q, k: (q + self.shift) // self.chunk == (k + self.shift) // self.chunk


@dataclass(frozen=True)
class SameParity(Mask):
    """mask_mod, any_all_attend and area, as the keys of a query are not contiguous."""

    def mask_mod(self, device):
        return lambda b, h, q, k: (q - k) % 2 == 0

    def any_all_attend(self, q, k):
        single = (q[0] == q[1]) & (k[0] == k[1])
        same = (q[0] - k[0]) % 2 == 0
        return ~single | same, single & same

    def area(self, batch=1):
        even = (self.seq_len + 1) // 2
        return batch * (even**2 + (self.seq_len - even) ** 2)


@pytest.mark.parametrize("mask", [CausalWindow(5, seq_len=40), SameParity(seq_len=41)])
def test_required_methods_are_sufficient(mask):
    assert mask.area(3) == 3 * int(mask.dense("cpu").sum())
    for block_size in (1, 8, (16, 4)):
        assert_blocks_equal_torch(mask, block_size)


def test_key_range_makes_a_mask_an_inner_mask_of_documents():
    mask = Documents((10, 30), CausalWindow(5, seq_len=40))
    assert mask.area() == int(mask.dense("cpu").sum())
    assert_blocks_equal_torch(mask, 8)


def evaluated(monkeypatch):
    """Chunks of few pairs, so that a small mask has several."""
    monkeypatch.setattr("maskbench.masks.evaluation.CHUNK_PAIRS", 200)


@pytest.mark.parametrize("seq_len", [1, 16, 41])
@pytest.mark.parametrize("block_size", [1, 8, (16, 4), (4, 16), 64])
def test_a_mask_mod_alone_is_enough(seq_len, block_size, monkeypatch):
    evaluated(monkeypatch)
    mask = Chunks(5, 2, seq_len=seq_len)
    assert not mask.knows_blocks
    assert mask.area(3) == 3 * int(mask.dense("cpu").sum())
    assert_blocks_equal_torch(mask, block_size)


@pytest.mark.parametrize("padding_at", ["the end", "scattered"])
def test_padding_of_such_a_mask(padding_at, monkeypatch):
    evaluated(monkeypatch)
    padding = torch.zeros(3, 41, dtype=torch.bool)
    padding[0, 30:] = padding[1, :] = True
    if padding_at == "scattered":
        padding[2, ::7] = True
    mask = Padded(Chunks(5, 2, seq_len=41), padding)
    assert mask.area() == int(mask.dense("cpu").sum())
    for block_size in (8, (16, 4)):
        assert_blocks_equal_torch(mask, block_size)


def test_a_mask_that_differs_by_batch_element_counts_each():
    @dataclass(frozen=True)
    class ByElement(Mask):
        batch: int = 3

        def mask_mod(self, device):
            return lambda b, h, q, k: (q - k) % (b + 1) == 0

    mask = ByElement(seq_len=41)
    assert mask.area(3) == int(mask.dense("cpu").sum())
    assert_blocks_equal_torch(mask, 8)
    with pytest.raises(ValueError, match="batch is 2, the mask is for 3"):
        mask.area(2)


def test_no_tensor_of_all_pairs_is_made(monkeypatch):
    mask, sizes = Chunks(64, 0, seq_len=2048), []
    dense_rows = Mask.dense_rows

    def watched(self, start, stop, device):
        rows = dense_rows(self, start, stop, device)
        sizes.append(rows.numel())
        return rows

    monkeypatch.setattr(Mask, "dense_rows", watched)
    monkeypatch.setattr("maskbench.masks.evaluation.CHUNK_PAIRS", 2**19)
    mask.block_mask("cpu")
    assert mask.area() == 64 * 2048
    assert max(sizes) <= 2**19
    assert len(sizes) == 16


def test_mask_without_mask_mod_cannot_be_created():
    class Incomplete(Mask):
        pass

    with pytest.raises(TypeError, match="mask_mod"):
        Incomplete(seq_len=8)


@pytest.mark.parametrize(
    ("chunk", "shift", "message"),
    [
        (0, 0, "chunk is 0, must be a whole number, 1 or more"),
        (4, -1, "shift is -1, must be a whole number, 0 or more"),
        (True, 0, "chunk is True, must be a whole number"),
        (4, np.False_, "shift is False, must be a whole number"),
        (4.0, 0, "chunk is 4.0, must be a whole number"),
        ("4", 0, "chunk is 4, must be a whole number"),
        (np.int64(0), 0, "chunk is 0, must be a whole number, 1 or more"),
    ],
)
def test_declared_bounds_of_a_new_class_are_checked(chunk, shift, message):
    with pytest.raises(ValueError, match=message):
        Chunks(chunk, shift, seq_len=16)


def test_numpy_integers_become_int():
    masks = [
        (Chunks(np.int64(4), np.int32(0), seq_len=np.int64(16)), Chunks(4, 0, seq_len=16)),
        (
            Documents((np.int64(3), np.int64(5)), Causal(seq_len=8)),
            Documents((3, 5), Causal(seq_len=8)),
        ),
        (
            GlobalLocalSlidingWindow(1, (np.int64(3), 0), seq_len=8),
            GlobalLocalSlidingWindow(1, (0, 3), seq_len=8),
        ),
    ]
    for given, expected in masks:
        assert given == expected
        assert repr(given) == repr(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Causal(seq_len=0), "seq_len is 0, must be a whole number, 1 or more"),
        (lambda: SlidingWindow(-1, 0, seq_len=8), "left is -1, must be a whole number, 0 or more"),
        (lambda: SlidingWindow(0, -2, seq_len=8), "right is -2, must be a whole number, 0 or more"),
        (
            lambda: DilatedSlidingWindow(4, 0, seq_len=8),
            "dilation is 0, must be a whole number, 1 or more",
        ),
        (lambda: GlobalLocalSlidingWindow(-1, (), seq_len=8), "window is -1"),
        (lambda: GlobalLocalSlidingWindow(1, (8,), seq_len=8), "token 8 is not among the 8"),
        (lambda: PrefixLM(-1, seq_len=8), "prefix is -1"),
        (lambda: LocalAttention2D(0, 1, seq_len=8), "width is 0"),
        (lambda: LocalAttention2D(2, -1, seq_len=8), "radius is -1"),
        (lambda: Documents((4, 3), Causal(seq_len=8)), "lengths add up to 7, not to seq_len 8"),
        (lambda: SlidingWindow(True, 0, seq_len=8), "left is True, must be a whole number"),
        (
            lambda: GlobalLocalSlidingWindow(1, (True,), seq_len=8),
            "tokens are .True,., each must be a",
        ),
        (lambda: Documents((7, True), Causal(seq_len=8)), "each must be a whole number"),
        (lambda: SlidingWindow(2.5, 0, seq_len=8), "left is 2.5, must be a whole number"),
        (lambda: SlidingWindow(None, 0, seq_len=8), "left is None, must be a whole number"),
        (lambda: Documents((8, 0), Causal(seq_len=8)), "each must be a whole number, 1 or more"),
        (lambda: Documents((4.0, 4.0), Causal(seq_len=8)), "each must be a whole number"),
        (lambda: Padded(Causal(seq_len=8), torch.zeros(0, 8) > 0), r"padding is \[0, 8\]"),
        (
            lambda: Documents((8,), LastQueries(Causal(seq_len=8), 4)),
            "inner is LastQueries, must be the same for all batch elements",
        ),
        (lambda: Documents(((4, 4), (8, 1)), Causal(seq_len=8)), "lengths add up to 9"),
        (lambda: Documents((), Causal(seq_len=8)), "lengths add up to 0"),
        (lambda: Documents(((), (8,)), Causal(seq_len=8)), "lengths add up to 0"),
        (lambda: LastQueries(Causal(seq_len=8), 9), "must be at most seq_len 8"),
        (lambda: LastQueries(Causal(seq_len=8), 0), "queries is 0, must be a whole number"),
        (lambda: Causal(seq_len=8) & Causal(seq_len=9), "a seq_len of 8 and of 9"),
        (lambda: Causal(seq_len=8) | LastQueries(Causal(seq_len=8), 2), "a q_len of 8 and of 2"),
        (lambda: Padded(Causal(seq_len=8), torch.zeros(2, 8)), "padding is torch.float32"),
        (
            lambda: Padded(Causal(seq_len=8), torch.zeros(2, 9, dtype=torch.bool)),
            r"padding is \[2, 9\], must be \[batch, 8\]",
        ),
        (
            lambda: Padded(PATTERNS["causal_padding"](seq_len=256), torch.zeros(1, 256) > 0),
            "inner differs by batch element",
        ),
        (lambda: PATTERNS["causal_padding"](seq_len=256, batch=2).area(3), "batch is 3"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("count", [3, 17, 60])
def test_scattered_global_tokens_need_no_larger_mask_mod(count):
    """Each comparison of a mask_mod is compiled, and 300 of them took over a minute."""

    class Counted(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    tokens = tuple(sorted(random.Random(count).sample(range(1, 97), count)))
    mask = GlobalLocalSlidingWindow(2, tokens, seq_len=97)
    mod, q = mask.mask_mod("cpu"), torch.arange(97, dtype=torch.int32)
    with Counted() as counted:
        attends = mod(q[:1], q[:1], q[:, None], q)
    assert counted.calls <= 30
    expected = [
        [abs(i - j) <= 2 or i in tokens or j in tokens for j in range(97)] for i in range(97)
    ]
    assert attends.tolist() == expected
    assert mask.area() == sum(map(sum, expected))
