"""The patterns of the catalogue against their definition in words, and their parameters."""

import hashlib
import math

import numpy as np
import pytest
import torch

from maskbench.masks import (
    Causal,
    Documents,
    Padded,
    SlidingWindow,
)
from masks import PATTERNS

# What the patterns were before they took parameters: the areas of two batch elements at S = 256,
# 1024 and 4096, and the start of the SHA-256 of the dense form at S = 512.
FROZEN = {
    "full": (131072, 2097152, 33554432, "f317dd9d6ba01c46"),
    "causal": (65792, 1049600, 16781312, "1105de13a063dd48"),
    "causal_sliding_window": (65792, 460544, 2039552, "26962f8059539d6d"),
    "bidirectional_sliding_window": (131072, 919040, 4070912, "3fece320f853f1d2"),
    "bidirectional_dilated_sliding_window": (65536, 787456, 3939328, "0299e29b00882fac"),
    "global_local_sliding_window": (131072, 924148, 4114920, "f09f14f30c64baa9"),
    "prefix_lm": (82048, 1311232, 20973568, "6242baef760d9f89"),
    "multi_document_bidirectional": (28672, 458752, 7340032, "ac08791081148544"),
    "multi_document_causal": (14592, 230400, 3674112, "6b723de8818fcc34"),
    "multi_document_prefix_lm": (15792, 250560, 4000512, "c7393960799c2bde"),
    "standalone_self_attention": (80000, 445568, 2064512, "7f6fd7fd2beb38b9"),
    "causal_padding": (53381, 855024, 13680460, "a91f2e7941320f90"),
}
# the sides of the image and of the video of n pixels
IMAGES = {256: (16, 16), 257: (1, 257), 300: (15, 20), 2048: (32, 64)}
VIDEOS = {256: (4, 8, 8), 257: (1, 1, 257), 300: (6, 5, 10), 2048: (8, 16, 16)}


def part_of(bounds, n):
    """The number of the part that each token is in."""
    return np.searchsorted(bounds, np.arange(n), "right") - 1


def documents(n):
    """The document of each token, and the first token of that document."""
    bounds = [eighths * n // 8 for eighths in (0, 1, 2, 4, 6)]
    document = part_of(bounds, n)
    return document, np.array(bounds)[document]


def measured_before(name, n):
    """The definition as a function (q, k) -> bool of NumPy indices."""
    document, start = documents(n)
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
        "prefix_lm": lambda q, k: (q >= k) | (k < n // 2),
        "multi_document_bidirectional": lambda q, k: document[q] == document[k],
        "multi_document_causal": lambda q, k: (document[q] == document[k]) & (q >= k),
        "multi_document_prefix_lm": lambda q, k: (
            (document[q] == document[k]) & ((q >= k) | (k - start[k] < n // 16))
        ),
        "standalone_self_attention": lambda q, k: (
            (abs(q // width - k // width) <= 8) & (abs(q % width - k % width) <= 8)
        ),
    }.get(name)


def of_todays_models(name, n):
    """The same for the other patterns."""
    document, _ = documents(n)
    chunk, prefix, half = (n + 3) // 4, n // 4, n // 2
    response = part_of([0, *(prefix + i * (n - prefix) // 6 for i in range(6))], n)
    block = min(2048, chunk)
    return {
        "sink_sliding_window": lambda q, k: (q >= k) & ((q - k < 1024) | (k < 4)),
        "document_sliding_window": lambda q, k: (
            (document[q] == document[k]) & (q - k >= 0) & (q - k < 1024)
        ),
        "image_in_causal": lambda q, k: (q >= k) | ((q // 256 == k // 256) & (q // 256 % 2 == 1)),
        "chunked_causal": lambda q, k: (q >= k) & (q // chunk == k // chunk),
        "shared_prefix": lambda q, k: (k < prefix) | ((q >= k) & (response[q] == response[k])),
        "prefix_tree": lambda q, k: (q >= k) & span_is_above(n, q, k),
        "block_diffusion": lambda q, k: np.where(
            k < half,
            (q < half) & (q // 32 == k // 32),
            np.where(q < half, q // 32 > (k - half) // 32, (q - half) // 32 >= (k - half) // 32),
        ),
        "block_causal": lambda q, k: q // block >= k // block,
        "neighborhood_2d": lambda q, k: in_window(IMAGES[n], 8, q, k),
        "neighborhood_3d": lambda q, k: in_window(VIDEOS[n], 4, q, k),
    }.get(name)


def span_is_above(n, q, k):
    """Whether the span of k is that of q or an ancestor, in the tree of the catalogue."""
    span = part_of([i * n // 16 for i in (0, 4, 6, 7, 8, 10, 11, 12, 13)], n)
    ancestors = [(0,), (0, 1), (0, 1, 2), (0, 1, 3), (0, 4)]
    ancestors += [(0, 4, 5), (0, 4, 6), (0, 4, 7), (0, 8)]
    above = np.array([[i in of_span for i in range(9)] for of_span in ancestors])
    return above[span[q], span[k]]


def in_window(shape, radius, q, k):
    """Whether k is in the window of q, which is shifted inward at the border."""
    inside = True
    for q_position, k_position, size in zip(
        np.unravel_index(q, shape), np.unravel_index(k, shape), shape, strict=True
    ):
        r = min(radius, (size - 1) // 2)
        inside = inside & (abs(k_position - np.clip(q_position, r, size - 1 - r)) <= r)
    return inside


def evaluate(allowed, n):
    """bool [n, n] of a function (q, k) -> bool of NumPy indices."""
    q, k = np.arange(n)[:, None], np.arange(n)
    return torch.from_numpy(np.broadcast_to(allowed(q, k), (n, n)).copy())


@pytest.mark.parametrize("seq_len", [256, 257, 300, 2048])
@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_matches_its_definition(name, seq_len):
    allowed = measured_before(name, seq_len) or of_todays_models(name, seq_len)
    if allowed is None:
        assert name in ("causal_padding", "block_sparse"), "they have tests of their own"
        return
    if name == "block_diffusion" and seq_len % 2:
        with pytest.raises(ValueError, match="seq_len is 257, must be even"):
            PATTERNS[name](seq_len=seq_len)
        return
    mask = PATTERNS[name](seq_len=seq_len, batch=3)
    expected = evaluate(allowed, seq_len)
    assert torch.equal(mask.dense("cpu"), expected[None, None])
    assert mask.area(3) == 3 * int(expected.sum())


def test_third_global_token_attends_everywhere():
    dense = PATTERNS["global_local_sliding_window"](seq_len=2048, batch=1).dense("cpu")[0, 0]
    for token in (0, 512, 1024):
        assert dense[token].all()
        assert dense[:, token].all()
    assert not dense[1536].all()


@pytest.mark.parametrize("seq_len", [256, 257, 512])
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


@pytest.mark.parametrize(
    ("seq_len", "width"),
    [(1, 1), (2, 2), (4, 2), (16, 4), (17, 8), (256, 16), (257, 32), (512, 32), (4096, 64)],
)
def test_image_width_is_the_power_of_two_at_or_above_the_square_root(seq_len, width):
    mask = PATTERNS["standalone_self_attention"](seq_len=seq_len, batch=1)
    assert mask.width == width
    assert width >= math.sqrt(seq_len) > width / 2


@pytest.mark.parametrize("block", [16, 128])
def test_block_sparse_has_its_top_k_blocks_and_the_diagonal(block):
    mask = PATTERNS["block_sparse"](seq_len=1000, batch=2, heads=3, block=block)
    blocks = -(-1000 // block)
    assert (mask.batch, mask.heads, mask.block) == (2, 3, block)
    assert set(mask.blocks.sum(-1).flatten().tolist()) == {max(2, round(blocks / 8))}
    assert mask.blocks.diagonal(dim1=2, dim2=3).all()
    of_heads = mask.blocks.flatten(0, 1)
    assert len(of_heads.flatten(1).unique(dim=0)) == 6, "each head has its own blocks"
    tokens = torch.arange(1000) // block
    assert torch.equal(mask.dense("cpu"), mask.blocks[:, :, tokens[:, None], tokens])
    again = PATTERNS["block_sparse"](seq_len=1000, batch=2, heads=3, block=block)
    assert mask == again, "the seed is fixed"
    assert mask.blocks[..., 1:, 0].any(), "a block after the diagonal may be chosen, too"


@pytest.mark.parametrize("name", FROZEN)
def test_a_pattern_measured_before_is_the_same_mask(name):
    *areas, digest = FROZEN[name]
    family = PATTERNS[name]
    assert [family(seq_len=n, batch=2).area(2) for n in (256, 1024, 4096)] == areas
    dense = family(seq_len=512, batch=2).dense("cpu")
    assert hashlib.sha256(dense.numpy().tobytes()).hexdigest()[:16] == digest


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
