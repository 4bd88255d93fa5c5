"""A CUDA kernel that writes where no memory is. Importing it needs Triton."""

import torch
import triton
import triton.language as tl


@triton.jit
def _write(pointer, offset):
    tl.store(pointer + offset, 1.0)


def write_far() -> None:
    """Launch the kernel: at the next synchronization CUDA reports an illegal memory access."""
    _write[(1,)](torch.zeros(1, device="cuda"), 2**40)
