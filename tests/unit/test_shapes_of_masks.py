"""Tensors of another length, batch or head count than the mask's are refused, by every backend."""

import pytest
import torch

from maskbench.backends import registry
from maskbench.masks import Causal, FromMaskMod, LastQueries, Padded
from maskbench.reference import Reference
from tests.unit.conformance import is_available

S = 32
PADDING = torch.zeros(2, S, dtype=torch.bool)
MASKS = {
    "causal": Causal(seq_len=S),
    "padded": Padded(Causal(seq_len=S), PADDING),
    "by head": FromMaskMod.of(lambda b, h, q, k: q - k >= h, seq_len=S, heads=4),
    "last queries": LastQueries(Causal(seq_len=S), 8),
}
WRONG = {
    "a longer sequence": ("causal", (2, 4, 2 * S, 64), (2, 4, 2 * S, 64), "a seq_len of 32"),
    "fewer queries": ("causal", (2, 4, S // 2, 64), (2, 4, S, 64), "for 32 queries"),
    "more keys": ("causal", (2, 4, S, 64), (2, 4, 2 * S, 64), "a seq_len of 32"),
    "a batch of keys": ("causal", (2, 4, S, 64), (1, 4, S, 64), "the same batch"),
    "a batch for which there is no padding": (
        "padded",
        (3, 4, S, 64),
        (3, 4, S, 64),
        "a batch of 2",
    ),
    "a batch of one": ("padded", (1, 4, S, 64), (1, 4, S, 64), "a batch of 2"),
    "heads that do not divide": ("causal", (2, 4, S, 64), (2, 3, S, 64), "divide those of q"),
    "heads of another number": ("by head", (2, 2, S, 64), (2, 2, S, 64), "for 4 heads"),
    "all queries": ("last queries", (2, 4, S, 64), (2, 4, S, 64), "for 8 queries"),
    "another head_dim of keys": ("causal", (2, 4, S, 64), (2, 4, S, 32), "the same head_dim"),
    "three dimensions": ("causal", (4, S, 64), (4, S, 64), "each must be"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_a_backend_refuses_tensors_that_are_not_of_the_mask(backend, case):
    if not is_available(backend):
        pytest.skip(f"{backend} cannot be imported")
    mask, q, k, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        registry.load(backend)(MASKS[mask], torch.randn(q), torch.randn(k), torch.randn(k))


@pytest.mark.parametrize("case", WRONG)
def test_the_reference_refuses_them_too(case):
    mask, q, k, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        Reference(MASKS[mask], torch.randn(q), torch.randn(k), torch.randn(k), None)
