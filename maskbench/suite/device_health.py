"""Whether the device still works after a cell that failed."""

from __future__ import annotations

import torch


def device_is_lost(device: str) -> str | None:
    """Why no kernel of this process can run any more; None if the device works.

    After some errors, such as an illegal memory access, CUDA refuses all later work of the process.
    """
    if device != "cuda":
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None
