"""The name of the device, as it is in the names of folders."""

from __future__ import annotations

import platform

import torch


def device_name(device: str) -> str:
    """The device as a folder name, such as NVIDIA_H100_80GB_HBM3."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu_{platform.machine()}"
    return "".join(c if c.isalnum() else "_" for c in name)
