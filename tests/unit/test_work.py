"""Pairs, floating-point operations and bytes of a workload."""

import pytest

from maskbench.masks import LastQueries
from maskbench.records import Phase
from maskbench.suite.requested_masks import REQUESTED, MaskRequest, request_masks
from maskbench.suite.work import bytes_moved, flops, mask_work
from maskbench.suite.workload import Shape, Workload

BY_HEAD = "by_head = lambda b, h, q, k: (q >= k) & (q - k < 8 * (h + 1))\n"


@pytest.fixture
def own(tmp_path):
    """The path of a file with a mask that differs by head."""
    path = tmp_path / "own.py"
    path.write_text(BY_HEAD)
    yield path
    REQUESTED.clear()


SHAPE = Shape(2, 4, 2, 64)


def workload(mask="causal", q_len=None, phase=Phase.FORWARD, shape=SHAPE):
    return Workload(mask, 512, shape, "float32", "cpu", phase, q_len)


def test_work_of_all_queries():
    pairs = 2 * 512 * 513 // 2
    assert flops(workload()) == 4 * pairs * 4 * 64
    assert flops(workload(phase=Phase.BACKWARD)) == 10 * pairs * 4 * 64
    tensors = 2 * 512 * 64 * 4 * (2 * 4 + 2 * 2)  # q, out; k, v
    assert bytes_moved(workload()) == tensors
    assert bytes_moved(workload(phase=Phase.BACKWARD)) == 2 * tensors


def test_work_of_the_last_queries():
    decode = workload("causal_sliding_window", q_len=1, shape=Shape(2, 4, 2, 64, 32))
    assert isinstance(decode.build_mask(), LastQueries)
    assert mask_work(decode).area == mask_work(decode).keys == 2 * 257
    assert flops(decode) == 2 * 2 * 257 * 4 * (64 + 32)
    assert bytes_moved(decode) == 4 * 2 * (64 + 32) * (4 * 1 + 2 * 257)
    assert decode.fields()["q_len"] == 1
    assert decode.fields()["v_head_dim"] == 32
    assert {"q_len", "v_head_dim"}.isdisjoint(workload().fields())


def test_work_of_a_mask_that_differs_by_head(own):
    (name,) = request_masks(MaskRequest((f"{own}:by_head",)))
    of_heads = workload(name)
    area = int(of_heads.build_mask().dense("cpu").sum()) * 2
    assert mask_work(of_heads).area == area
    assert flops(of_heads) == 4 * area * 64
    assert mask_work(of_heads).density == pytest.approx(area / (2 * 4 * 512**2))


def test_bytes_of_a_mask_that_differs_by_head(own):
    (name,) = request_masks(MaskRequest((f"{own}:by_head",)))
    last = workload(name, q_len=1)
    # Heads see the last 8, 16, 24 and 32 keys. Two of them share a key/value head: 16 and 32 keys.
    queries, keys = 2 * 4, 2 * (16 + 32)
    assert bytes_moved(last) == (queries + keys) * (64 + 64) * 4
