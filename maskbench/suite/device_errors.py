"""Errors of a device: memory that ran out, and a CUDA context that no longer works."""

from __future__ import annotations

import re

import torch

# Errors after which memory may look exhausted, but which are another fault.
NOT_MEMORY = "illegal memory access|misaligned address|device-side assert|launch failure"
OUT_OF_MEMORY = r"\bout of memory\b|\b(CUBLAS|CUDNN|CUSPARSE|CUFFT)_STATUS_\w*ALLOC_FAILED"


def out_of_memory(error: BaseException) -> str | None:
    """The size that was requested, in torch's words; None if the error is another one."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return text.split(" GPU ")[0].strip()
    if isinstance(error, MemoryError):
        return text.split("\n")[0] or "MemoryError"
    if not isinstance(error, RuntimeError) or re.search(NOT_MEMORY, text, re.IGNORECASE):
        return None
    if "you tried to allocate" in text:  # on a CPU torch raises a plain RuntimeError
        return text[text.index("you tried") :].splitlines()[0]
    return text.split("\n")[0] if re.search(OUT_OF_MEMORY, text) else None


def device_is_lost(device: str) -> str | None:
    """Why nothing more can run on the device in this process; None if it works.

    After an illegal memory access each later CUDA call of the process fails with the same error
    (a sticky error). Only a new process helps. `device` is "cuda" or "cpu".
    """
    if device != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotation
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:  # torch.AcceleratorError is one
        first_line = str(error).strip().split("\n")[0]
        return f"the CUDA context no longer works: {first_line}"
    return None
