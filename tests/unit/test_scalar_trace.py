"""Which mask_mods work on CuTe's scalars, and that equal records are equal functions."""

import pytest
import torch

from maskbench.backends.scalar_mask_mods import scalar_mask_mod
from maskbench.backends.scalar_trace import record_operations
from maskbench.masks import (
    BlockDiffusion,
    Causal,
    DilatedSlidingWindow,
    Documents,
    GlobalLocalSlidingWindow,
    LastQueries,
    LocalAttention2D,
    Neighborhood,
    PrefixLM,
    SlidingWindow,
)

TABLE = torch.arange(8)


@pytest.mark.parametrize(
    "mask_mod",
    [
        lambda b, h, q, k: q >= k,
        lambda b, h, q, k: q >= 3,
        lambda b, h, q, k: ~((q - k <= 4) & (k - q <= 4)) | (k == 0),
        lambda b, h, q, k: (q // 3 >= k // 3) & (q % 5 != 1),
        lambda b, h, q, k: ((q - k) // 3 == -1) | ((k - q) >> 1 < -2),
        lambda b, h, q, k: (q & 7) + 2 * (k >> 3) < 9 - b * h,
        Causal(seq_len=8).mask_mod("cpu"),
        PrefixLM(3, seq_len=8).mask_mod("cpu"),
        LastQueries(SlidingWindow(2, 1, seq_len=8), 3).mask_mod("cpu"),
        (Causal(seq_len=8) & SlidingWindow(2, 1, seq_len=8)).mask_mod("cpu"),
        LocalAttention2D(3, 1, seq_len=8).mask_mod("cpu"),
        DilatedSlidingWindow(4, 2, seq_len=8).mask_mod("cpu"),
        GlobalLocalSlidingWindow(2, (0, 3), seq_len=8).mask_mod("cpu"),
    ],
)
def test_operators_are_recorded(mask_mod):
    """The text is evaluated line by line, and gives the result for every pair."""
    *lines, result = record_operations(mask_mod).splitlines()
    for q in range(8):
        for k in range(8):
            names = {"b": 1, "h": 2, "q": q, "k": k}
            for line in lines:
                name, expression = line.split("=", 1)
                value = eval(expression, {}, names)
                names[name] = not names[expression[1:]] if expression[0] == "~" else value
            assert names[result] == mask_mod(*(torch.tensor(n) for n in (1, 2, q, k))), (q, k)


@pytest.mark.parametrize(
    "mask_mod",
    [
        lambda b, h, q, k: TABLE[q] >= k,
        lambda b, h, q, k: torch.where(q > k, True, False),
        lambda b, h, q, k: (q - k).abs() < 4,
        lambda b, h, q, k: TABLE.max() >= k,
        lambda b, h, q, k: k <= TABLE[3],
        lambda b, h, q, k: q >= k and k > 2,
        lambda b, h, q, k: q - k,
        lambda b, h, q, k: True,
        lambda b, h, q, k: (q - k) % 2 == 0,
        lambda b, h, q, k: q // (k + 1) == 1,
        lambda b, h, q, k: q / 2 > k,
        lambda b, h, q, k: (q > k) + (k > 2) == 2,
        lambda b, h, q, k: (q >= k) & 1,
        lambda b, h, q, k: q >= 0.5,
        lambda b, h, q, k: sum(q == n for n in range(200)) == 1,
        lambda b, h, q, k: 1 // 0,
        Documents((3, 5), Causal(seq_len=8)).mask_mod("cpu"),
    ],
)
def test_what_a_scalar_does_not_have_is_found(mask_mod):
    assert record_operations(mask_mod) is None


@pytest.mark.parametrize(
    "mask",
    [
        BlockDiffusion(4, seq_len=32),
        BlockDiffusion(5, seq_len=34),
        BlockDiffusion(1, seq_len=2),
        BlockDiffusion(9, seq_len=8),
        Neighborhood((8, 8), (2, 1)),
        Neighborhood((3, 5, 4), (1, 2, 0)),
        Neighborhood((7,), (3,)),
        LastQueries(BlockDiffusion(5, seq_len=34), 20),
        LastQueries(Neighborhood((5, 7), (1, 2)), 9),
    ],
    ids=repr,
)
def test_scalar_mask_mods_are_the_masks(mask):
    mask_mod = scalar_mask_mod(mask, "cpu")
    q, k = torch.arange(mask.q_len)[:, None], torch.arange(mask.seq_len)
    dense = mask.dense("cpu")[0, 0]  # a mask_mod may leave out a dimension that it does not use
    assert torch.equal(mask_mod(0, 0, q, k).expand(dense.shape), dense)
    assert record_operations(mask_mod) is not None


def test_records_differ_by_the_constants():
    texts = {record_operations(SlidingWindow(n, 0, seq_len=64).mask_mod("cpu")) for n in range(5)}
    assert len(texts) == 5
    many = record_operations(lambda b, h, q, k: (q == 1) | (q == 2))
    assert many != record_operations(lambda b, h, q, k: (q == 1) | (q == 3))


def test_too_many_operations_are_refused():
    def compare(count):
        def mask_mod(b, h, q, k):
            found = q == 0
            for n in range(1, count):
                found = found | (q == n)
            return found

        return mask_mod

    assert record_operations(compare(50)) is not None
    assert record_operations(compare(51)) is None
