"""Device time of FlexAttention on one mask, its mask_mod written in several ways."""

import pytest
import torch

from backends import Call, flex
from masks import PATTERNS
from tests.spellings import SPELLINGS
from tests.test_block_mask import searched


def test_spelling_forward(spelling, cell):
    cell.check_and_time()


def test_spelling_backward(spelling, cell):
    cell.check_and_time()


@pytest.mark.parametrize(
    ("mask", "spelling"), [(mask, how) for mask, known in SPELLINGS.items() for how in known]
)
def test_spellings_are_of_one_mask(mask, spelling, monkeypatch):
    built, seen = PATTERNS[mask](seq_len=1024, batch=1), []
    monkeypatch.setattr(flex, "bind", lambda mask, *qkv: seen.append(mask) or Call("", qkv, None))
    tokens = torch.arange(1024.0).view(1, 1, 1024, 1)
    call = SPELLINGS[mask][spelling](built, tokens, tokens, tokens)
    order = call.inputs[0].flatten().long()  # what is where
    dense = built.dense("cpu")[0, 0][order][:, order]
    assert torch.equal(seen[0].dense("cpu")[0, 0], dense)
    assert torch.equal(call.unpack(call.inputs[0]), tokens)
    partial_blocks, full = seen[0].blocks("cpu", (128, 128))
    for found, expected in zip((partial_blocks, full), searched(seen[0], "cpu"), strict=True):
        assert torch.equal(found, expected)
