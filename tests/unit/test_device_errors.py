"""Errors of a device: what counts as exhausted memory, and a CUDA context that no longer works."""

import pytest
import torch

from maskbench.suite import device_errors
from maskbench.suite.cell import CellStatus
from maskbench.suite.device_errors import device_is_lost, out_of_memory

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (RuntimeError("CUDA error: out of memory\nmore"), "CUDA error: out of memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling x"), "CUBLAS_STATUS_ALLOC_FAILED"),
        (RuntimeError("DefaultCPUAllocator: you tried to allocate 8 bytes"), "you tried to"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0"), "CUDA out"),
    ],
)
def test_exhausted_memory(error, reason):
    assert out_of_memory(error).startswith(reason)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ILLEGAL),
        RuntimeError(f"{ILLEGAL}; the caching allocator ran out of memory blocks: out of memory"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("the tile is out of memory_order bounds"),
        ValueError("out of memory"),
    ],
)
def test_other_errors(error):
    assert out_of_memory(error) is None


@pytest.fixture
def lost_gpu(monkeypatch):
    """A CUDA device after an illegal memory access."""

    def synchronize():
        raise RuntimeError(ILLEGAL)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


def test_a_lost_device(lost_gpu):
    reason = (
        "the CUDA context no longer works: CUDA error: an illegal memory access was encountered"
    )
    assert device_is_lost("cuda") == reason
    assert device_is_lost("cpu") is None


def test_a_working_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device_is_lost("cuda") is None


def test_memory_that_ran_out_on_a_lost_device_is_a_failure(lost_gpu):
    def work():
        raise RuntimeError("CUDA error: out of memory")

    fields: dict[str, object] = {}
    with pytest.raises(RuntimeError, match="out of memory"):
        CellStatus(fields, "cuda").run_guarding_oom(work)
    assert not fields


def test_an_unused_gpu_is_not_touched(monkeypatch):
    def refuse():
        raise AssertionError("this would initialize CUDA")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert device_errors.device_is_lost("cuda") is None
