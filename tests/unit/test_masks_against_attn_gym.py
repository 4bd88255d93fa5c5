"""The masks that Attention Gym has, too: both packages give the same pairs.

https://github.com/meta-pytorch/attention-gym, version 0.0.17. Its neighborhoods are square.
"""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from masks import PATTERNS

gym = pytest.importorskip("attn_gym.masks", reason="attn-gym is not installed")


def natten(height, width, radius):
    assert height == width
    return gym.generate_natten(width, height, 2 * radius + 1, 2 * radius + 1)


def documents(*lengths):
    return gym.generate_packed_causal_doc_mask_mod(torch.tensor([0, *lengths]).cumsum(0))


def shared_prefix(*lengths):
    """Document 0 is the prefix of all others."""
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    return gym.generate_shared_prefix_mask_mod(bounds, torch.zeros(len(lengths), dtype=torch.int64))


PAIRS = {
    "causal": ({}, gym.causal_mask),
    "causal_sliding_window": ({"left": 50}, gym.generate_sliding_window(50)),
    "bidirectional_dilated_sliding_window": (
        {"window": 60, "dilation": 3},
        gym.generate_dilated_sliding_window(60, 3),
    ),
    "prefix_lm": ({"prefix": 70}, gym.generate_prefix_lm_mask(70)),
    "multi_document_causal": ({"documents": (30, 100, 14)}, documents(30, 100, 14)),
    "chunked_causal": ({"chunk": 50}, documents(50, 50, 44)),
    "block_diffusion": ({"block": 7}, gym.generate_block_diffusion_mask(72, 7)),
    "neighborhood_2d": ({"shape": (12, 12), "radius": 3}, natten(12, 12, 3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_pairs_are_those_of_attention_gym(name):
    parameters, mask_mod = PAIRS[name]
    ours = PATTERNS[name](seq_len=144, **parameters).dense("cpu")
    assert torch.equal(ours, create_mask(mask_mod, None, None, 144, 144, device="cpu"))


def test_the_responses_of_a_shared_prefix_are_those_of_attention_gym():
    """The prefix itself is causal there, so its rows are left out."""
    ours = PATTERNS["shared_prefix"](seq_len=144, prefix=24, responses=3).dense("cpu")
    theirs = create_mask(shared_prefix(24, 40, 40, 40), None, None, 144, 144, device="cpu")
    assert torch.equal(ours[:, :, 24:], theirs[:, :, 24:])
