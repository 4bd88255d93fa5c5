"""The settings of torch that change the time or the result of a call, and how to restore them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch

ENTERED_MODES: list[torch.inference_mode] = []
MIXED = "set for single backends"


@dataclass(frozen=True)
class Setting:
    """A setting of the process: its name, and functions that read and write it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def attribute(path: str) -> Setting:
    """An attribute of torch.backends, such as "cuda.matmul.fp32_precision"."""
    owner, _, name = f"torch.backends.{path}".rpartition(".")
    holder = attrgetter(owner.removeprefix("torch."))(torch)
    return Setting(
        f"{owner}.{name}", partial(getattr, holder, name), partial(setattr, holder, name)
    )


def matmul_precision() -> str:
    """torch's older setting of float32 matmuls, which raises if the newer ones contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return MIXED


def set_matmul_precision(precision: str) -> None:
    """Set it, unless it was not readable; the settings of single backends follow in the list."""
    if precision != MIXED:
        torch.set_float32_matmul_precision(precision)


def default_device() -> str:
    return str(torch.get_default_device())


def set_default_device(device: str) -> None:
    """ "cpu" is torch's own default, which needs no mode that intercepts every call."""
    torch.set_default_device(None if device == "cpu" else device)


def set_inference_mode(enabled: bool) -> None:
    """Enter a mode and never leave it: torch has no other public function for this."""
    mode = torch.inference_mode(enabled)
    mode.__enter__()
    ENTERED_MODES.append(mode)  # a mode without a reference ends


def set_interop_threads(count: int) -> None:
    """torch may refuse a change after the threads have started: the cell's message remains."""
    with suppress(RuntimeError):
        torch.set_num_interop_threads(count)


def flushes_denormals() -> bool:
    """Whether the processor flushes denormal numbers to zero; torch cannot tell."""
    return sys.float_info.min * float("0.5") == 0.0


def set_deterministic(state: tuple[bool, bool]) -> None:
    enabled, warn_only = state
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def current_stream() -> Any:
    """The current device and its stream; None before CUDA is used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotation
        return None
    return torch.cuda.current_stream()


def set_current_stream(stream: Any) -> None:
    """Select a stream and its device; the default one if CUDA was not in use before."""
    with suppress(RuntimeError):  # on a lost device; `device_is_lost` reports that
        if stream is None:
            torch.cuda.set_device(0)
            stream = torch.cuda.default_stream()
        torch.cuda.set_stream(stream)


def autocast(device: str) -> Setting:
    """Whether autocast is on for a type of device."""
    return Setting(
        f"autocast of {device}",
        lambda: torch.is_autocast_enabled(device),
        lambda enabled: torch.set_autocast_enabled(device, enabled),
    )


cuda = torch.backends.cuda
# The general precisions come before those of single backends, which inherit from them.
PRECISIONS = (
    "fp32_precision",
    *("cudnn.fp32_precision", "mkldnn.fp32_precision", "cuda.matmul.fp32_precision"),
    *("cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision", "mkldnn.matmul.fp32_precision"),
    *("mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
)
TORCH_SETTINGS = (
    Setting("number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("interop threads", torch.get_num_interop_threads, set_interop_threads),
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("default device", default_device, set_default_device),
    Setting("inference mode", torch.is_inference_mode_enabled, set_inference_mode),
    Setting("gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    *(autocast(device) for device in ("cpu", "cuda")),
    Setting(
        "anomaly detection",
        torch.is_anomaly_enabled,
        lambda enabled: torch.autograd.set_detect_anomaly(enabled),
    ),
    Setting(
        "deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        set_deterministic,
    ),
    Setting(
        "filling of uninitialized memory",
        lambda: torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        lambda on: setattr(torch.utils.deterministic, "fill_uninitialized_memory", on),
    ),
    Setting("flushing of denormals", flushes_denormals, torch.set_flush_denormal),
    attribute(PRECISIONS[0]),
    Setting("float32 matmul precision", matmul_precision, set_matmul_precision),
    *map(attribute, PRECISIONS[1:]),
    attribute("cuda.matmul.allow_fp16_reduced_precision_reduction"),
    attribute("cuda.matmul.allow_bf16_reduced_precision_reduction"),
    attribute("cudnn.enabled"),
    attribute("cudnn.benchmark"),
    attribute("cudnn.deterministic"),
    Setting("flash SDPA", cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    Setting("memory-efficient SDPA", cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    Setting("math SDPA", cuda.math_sdp_enabled, cuda.enable_math_sdp),
    Setting("cuDNN SDPA", cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    Setting(
        "reduced precision of math SDPA",
        cuda.fp16_bf16_reduction_math_sdp_allowed,
        cuda.allow_fp16_bf16_reduction_math_sdp,
    ),
    Setting("CUDA stream", current_stream, set_current_stream),
)
