"""The parameters and the lengths that the patterns of the catalogue take."""

from contextlib import suppress

import pytest
import torch

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    BlockSparse,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LocalAttention2D,
    Neighborhood,
    PrefixLM,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from masks import PATTERNS


@pytest.mark.parametrize("size", ["seq_len", "batch", "heads"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "256"])
def test_a_size_must_be_a_whole_number(size, value):
    with pytest.raises(ValueError, match=f"{size} is {value}, must be a whole number, 1 or more"):
        PATTERNS["causal"](**{"seq_len": 256, size: value})


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("causal_sliding_window", {"left": 7}, SlidingWindow(7, 0, seq_len=100)),
        ("bidirectional_sliding_window", {"right": 3}, SlidingWindow(100, 3, seq_len=100)),
        (
            "bidirectional_dilated_sliding_window",
            {"window": 9, "dilation": 3},
            DilatedSlidingWindow(9, 3, seq_len=100),
        ),
        (
            "global_local_sliding_window",
            {"window": 5, "tokens": (2, 40)},
            GlobalLocalSlidingWindow(5, (2, 40), seq_len=100),
        ),
        (
            "global_local_sliding_window",
            {"tokens": ()},
            GlobalLocalSlidingWindow(100, (), seq_len=100),
        ),
        ("prefix_lm", {"prefix": 0}, PrefixLM(0, seq_len=100)),
        (
            "multi_document_causal",
            {"documents": (30, 70)},
            Documents((30, 70), Causal(seq_len=100)),
        ),
        (
            "multi_document_bidirectional",
            {"documents": ((30, 70), (100,))},
            Documents(((30, 70), (100,)), Full(seq_len=100)),
        ),
        (
            "multi_document_prefix_lm",
            {"documents": (60, 40), "prefix": 9},
            Documents((60, 40), PrefixLM(9, seq_len=100)),
        ),
        (
            "standalone_self_attention",
            {"radius": 2, "width": 11},
            LocalAttention2D(11, 2, seq_len=100),
        ),
        ("sink_sliding_window", {"left": 5, "sinks": 1}, SinkSlidingWindow(5, 1, seq_len=100)),
        (
            "document_sliding_window",
            {"left": 5, "documents": (1, 99)},
            Documents((1, 99), SlidingWindow(5, 0, seq_len=100)),
        ),
        ("image_in_causal", {"length": 40}, ImageInCausal(((40, 40),), seq_len=100)),
        (
            "image_in_causal",
            {"length": 15},
            ImageInCausal(((15, 15), (45, 15), (75, 15)), seq_len=100),
        ),
        ("chunked_causal", {"chunk": 40}, Documents((40, 40, 20), Causal(seq_len=100))),
        ("shared_prefix", {"prefix": 10, "responses": 4}, SharedPrefix(10, (22, 23, 22, 23))),
        ("shared_prefix", {"prefix": 0, "responses": 1}, SharedPrefix(0, (100,))),
        ("block_diffusion", {"block": 7}, BlockDiffusion(7, seq_len=100)),
        ("block_causal", {"block": 30}, BlockCausal(30, seq_len=100)),
        ("neighborhood_2d", {"shape": (5, 20), "radius": 3}, Neighborhood((5, 20), (2, 3))),
        (
            "neighborhood_3d",
            {"shape": (1, 5, 20), "radius": 1},
            Neighborhood((1, 5, 20), (0, 1, 1)),
        ),
        (
            "block_sparse",
            {"block": 25, "top_k": 9},
            BlockSparse(torch.ones(1, 1, 4, 4) > 0, 25, seq_len=100),
        ),
    ],
)
def test_a_pattern_takes_parameters(name, parameters, expected):
    assert PATTERNS[name](seq_len=100, **parameters) == expected


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("causal", {"left": 3}, "causal has no parameter left. It has: no parameters"),
        (
            "bidirectional_sliding_window",
            {"width": 3},
            "bidirectional_sliding_window has no parameter width. It has: left, right",
        ),
        ("causal_sliding_window", {"left": -1}, "left is -1, must be a whole number, 0 or more"),
        ("multi_document_causal", {"documents": (30, 71)}, "lengths add up to 101, not to .* 100"),
        ("multi_document_causal", {"documents": ()}, "lengths"),
        ("multi_document_causal", {"documents": 10}, "lengths are 10, must be a tuple of whole"),
        ("image_in_causal", {"length": 0}, "length is 0, must be a whole number, 1 or more"),
        ("chunked_causal", {"chunk": 2.5}, "chunk is 2.5, must be a whole number, 1 or more"),
        ("shared_prefix", {"prefix": -1}, "prefix is -1, must be a whole number, 0 or more"),
        ("shared_prefix", {"prefix": 95}, "seq_len is 100, must be at least 101 for a prefix"),
        ("shared_prefix", {"responses": 0}, "responses is 0"),
        (
            "neighborhood_2d",
            {"shape": (5, 5)},
            r"shape is \(5, 5\), must have 2 axes and 100 pixels",
        ),
        ("neighborhood_3d", {"shape": (10, 10)}, "must have 3 axes and 100 pixels"),
        ("neighborhood_2d", {"radius": -1}, "radius is -1"),
        ("block_sparse", {"block": 0}, "block is 0, must be a whole number, 1 or more"),
        ("block_sparse", {"top_k": 0}, "top_k is 0, must be a whole number, 1 or more"),
    ],
)
def test_a_wrong_parameter_is_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        PATTERNS[name](seq_len=100, **parameters)


@pytest.mark.parametrize("value", [10, 1.5, "a", True, (1, 2), ((1, 2), (3, 4)), {}, -1, 2**40])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_value_of_a_wrong_type_is_refused_as_a_wrong_value(name, value):
    for parameter in PATTERNS[name].parameters:
        with suppress(ValueError):  # no other exception
            PATTERNS[name](seq_len=64, batch=2, heads=2, **{parameter: value})


SMALLEST = {
    "multi_document_bidirectional": 8,
    "multi_document_causal": 8,
    "multi_document_prefix_lm": 8,
    "document_sliding_window": 8,
    "shared_prefix": 7,
    "prefix_tree": 16,
    "block_diffusion": 2,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_has_a_smallest_length_and_says_it(name):
    smallest = SMALLEST.get(name, 1)
    for seq_len in range(1, smallest):
        with pytest.raises(ValueError, match=f"seq_len is {seq_len}, must be .*({smallest}|even)"):
            PATTERNS[name](seq_len=seq_len)
    for seq_len in range(smallest, smallest + 40, 2):
        mask = PATTERNS[name](seq_len=seq_len, batch=2, heads=2)
        assert mask.seq_len == seq_len
        assert mask.area(2) == int(mask.dense("cpu").sum()) * (2 // (mask.batch or 1))
