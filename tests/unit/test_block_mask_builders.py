"""The compiled search for blocks, which tests/test_block_mask.py times, traces every mask."""

import pytest
import torch

from maskbench.suite import block_masks
from maskbench.suite.block_masks import BUILDERS, blocks_by_brute_force, listed_blocks
from masks import PATTERNS
from tests.unit.conformance import MASKS

# The bits of 100 key blocks are in two words.
TWO_WORDS = PATTERNS["block_sparse"](seq_len=400, heads=2, block=4)


@pytest.mark.slow  # a second for each
@pytest.mark.parametrize("name", [*MASKS, "two words"])
def test_the_compiled_search_finds_the_blocks(name, monkeypatch):
    """Here torch.compile runs what it traced: a compiler would take some seconds more."""

    def trace(function, **options):
        return compile_with(function, backend="eager", **options)

    compile_with = torch.compile
    monkeypatch.setattr(block_masks.torch, "compile", trace)
    mask = MASKS.get(name, TWO_WORDS)
    block_mask = BUILDERS["torch_compiled"].prepare(mask, "cpu")()
    pairs = zip(listed_blocks(block_mask), blocks_by_brute_force(mask, "cpu"), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
