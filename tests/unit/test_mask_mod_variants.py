"""Every way of writing a mask_mod gives the same mask."""

import pytest
import torch

from maskbench.attention import BoundAttention
from maskbench.backends import flex
from maskbench.suite.block_masks import blocks_by_brute_force
from maskbench.suite.mask_mod_variants import VARIANTS
from masks import PATTERNS


@pytest.mark.parametrize(
    ("mask", "variant"), [(mask, name) for mask, known in VARIANTS.items() for name in known]
)
def test_a_variant_computes_the_same_mask(mask, variant, monkeypatch):
    built, bound = PATTERNS[mask](seq_len=1024, batch=1), []

    def bind(mask, *inputs):
        bound.append(mask)
        return BoundAttention("", inputs, None)

    monkeypatch.setattr(flex, "bind", bind)
    tokens = torch.arange(1024.0).view(1, 1, 1024, 1)
    call = VARIANTS[mask][variant](built, tokens, tokens, tokens)
    order = call.inputs[0].flatten().long()  # the token at each position
    dense = built.dense("cpu")[0, 0][order][:, order]
    assert torch.equal(bound[0].dense("cpu")[0, 0], dense)
    assert torch.equal(call.unpack(call.inputs[0]), tokens)
    blocks = bound[0].partial_and_full_blocks("cpu", (128, 128))
    for found, expected in zip(blocks, blocks_by_brute_force(bound[0], "cpu"), strict=True):
        assert torch.equal(found, expected)
