"""The options' values, checked and completed: `parse_config`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Collection

import pytest
import torch

from maskbench.backends.registry import BACKENDS
from maskbench.suite.document_lengths import UnusableLengths
from maskbench.suite.models import find_model
from maskbench.suite.options import DEFAULTS, DTYPES, MAX_GPU_JOBS, SEQ_LENS, Defaults, RunConfig
from maskbench.suite.requested_masks import REQUESTED, MaskRequest, build_mask, request_masks
from maskbench.suite.user_masks import MaskSize, UnusableMask
from maskbench.suite.workload import Shape
from masks import PATTERNS

MAX_NUMBER = 2**31 - 1  # masks compute with int32
MAX_SHOWN = 40  # characters of a wrong value in a message


def validate_choices(option: str, requested: list[str] | None, valid: Collection[str]) -> list[str]:
    """The requested names without repeats, or all valid ones if `requested` is None.

    Raises
    ------
    pytest.UsageError
        If a name is not valid, or no name is given.
    """
    unknown = [name for name in requested or () if name not in valid]
    if unknown:
        raise pytest.UsageError(
            f"{option}: unknown {', '.join(unknown)}; valid are {', '.join(valid)}"
        )
    if requested == []:
        raise pytest.UsageError(f"{option}: names nothing; valid are {', '.join(valid)}")
    return list(dict.fromkeys(requested or valid))


def select_device(requested: str | None) -> str:
    """The requested device, else "cuda" where there is a GPU. Raises pytest.UsageError."""
    available = torch.cuda.is_available()
    default = "cuda" if available else "cpu"
    (device,) = validate_choices("--device", [requested or default], ("cuda", "cpu"))
    if device == "cuda" and not available:
        raise pytest.UsageError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; valid here: cpu"
        )
    return device


def positive_int(option: str, value: object) -> int:
    """`value` as a whole number from 1 to MAX_NUMBER. Raises pytest.UsageError for others."""
    text = str(value)
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    digits = text.lstrip("0")
    if not text.isdecimal() or not digits:
        raise pytest.UsageError(f"{option}: {shown} is not a whole number of 1 or more")
    # The length comes first: int() raises ValueError for a string of more than 4300 digits.
    if len(digits) > len(str(MAX_NUMBER)) or int(digits) > MAX_NUMBER:
        raise pytest.UsageError(f"{option}: {shown} is more than {MAX_NUMBER}")
    return int(digits)


def default_jobs(device: str) -> int:
    """One per CPU that this process may use; on a GPU at most MAX_GPU_JOBS."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cpus, MAX_GPU_JOBS) if device == "cuda" else cpus


def visible_gpus(requested: str | None, device: str) -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES for each process that times; empty for only one process.

    Raises
    ------
    pytest.UsageError
        If --gpus asks for more GPUs than there are.
    """
    if requested is None:
        return []
    available = torch.cuda.device_count() if device == "cuda" else 0
    wanted = available if requested == "all" else positive_int("--gpus", requested)
    if not 0 < wanted <= available:
        raise pytest.UsageError(f"--gpus {requested}: device {device} has {available} GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(available)]
    return names[:wanted] if wanted > 1 else []


def numbers(option: str, values: list[str]) -> list[int]:
    """Whole numbers of 1 or more, without repeats. Raises pytest.UsageError."""
    if not values:
        raise pytest.UsageError(f"{option}: names no number")
    return list(dict.fromkeys(positive_int(option, value) for value in values))


def default_shape(option: argparse.Namespace, device: str) -> Defaults:
    """The device's defaults, or those of the model. Raises pytest.UsageError."""
    if option.model is None:
        return DEFAULTS[device]
    try:
        model = find_model(option.model)
    except ValueError as error:
        raise pytest.UsageError(f"--model: {error}") from None
    dtype = model.dtype if device == "cuda" else DEFAULTS[device]["dtype"]
    return Defaults(
        batch=DEFAULTS[device]["batch"],
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        v_head_dim=model.v_head_dim,
        dtype=dtype,
        masks=model.masks,
    )


def parse_shape(option: argparse.Namespace, default: Defaults) -> Shape:
    """The shape of the options. Raises pytest.UsageError."""

    def number(name: str, fallback: int) -> int:
        value = getattr(option, name)
        return positive_int(f"--{name.replace('_', '-')}", fallback if value is None else value)

    heads = number("heads", default["heads"])
    # A model's key/value heads belong to its query heads.
    model_kv_heads = default["kv_heads"] if option.heads is None else None
    kv_heads = number("kv_heads", model_kv_heads or heads)
    if heads % kv_heads:
        raise pytest.UsageError(f"--kv-heads: {kv_heads} does not divide --heads {heads}")
    head_dim = number("head_dim", default["head_dim"])
    model_v_head_dim = default["v_head_dim"] if option.head_dim is None else None
    v_head_dim = number("v_head_dim", model_v_head_dim or head_dim)
    return Shape(
        number("batch", default["batch"]),
        heads,
        kv_heads,
        head_dim,
        None if v_head_dim == head_dim else v_head_dim,
    )


def parse_lengths(option: argparse.Namespace, device: str) -> tuple[list[int], list[int | None]]:
    """The sequence lengths, and the numbers of queries. Raises pytest.UsageError."""
    given = option.seq_lens
    seq_lens = numbers("--seq-lens", given) if given is not None else list(SEQ_LENS[device])
    if option.q_lens is None:
        return seq_lens, [None]
    q_lens = numbers("--q-lens", option.q_lens)
    if max(q_lens) > min(seq_lens):
        raise pytest.UsageError(
            f"--q-lens: {max(q_lens)} queries are more than the {min(seq_lens)} keys of --seq-lens"
        )
    return seq_lens, [None if [q_len] == seq_lens else q_len for q_len in q_lens]


def parse_masks(
    option: argparse.Namespace, default: Defaults, sizes: list[MaskSize]
) -> tuple[list[str], MaskRequest]:
    """The names of the masks, and what they were requested as.

    Raises
    ------
    pytest.UsageError
        If a mask does not exist, or one that is not of the catalogue as it is cannot be built.
    """
    texts = option.masks if option.masks is not None else default["masks"] or list(PATTERNS)
    if not texts:
        raise pytest.UsageError(f"--masks: names nothing; valid are {', '.join(PATTERNS)}")
    request = MaskRequest(tuple(texts), option.document_lengths)
    try:
        names = request_masks(request)
        for name in filter(REQUESTED.get, names):
            for size in sizes:
                build_mask(name, size)
    except UnusableLengths as error:
        raise pytest.UsageError(f"--document-lengths: {error}") from None
    except (UnusableMask, ValueError) as error:
        raise pytest.UsageError(f"--masks: {error}") from None
    return names, request


def parse_config(option: argparse.Namespace) -> RunConfig:
    """Check and complete the options. Raises pytest.UsageError (exit status 4)."""
    device = select_device(option.device)
    default = default_shape(option, device)
    if option.cuda_graphs and device == "cpu":
        raise pytest.UsageError("--cuda-graphs: needs a GPU; the device of this run is cpu")
    if not 0 <= option.cell_timeout < math.inf:
        raise pytest.UsageError(
            f"--cell-timeout: {option.cell_timeout} is not a time of 0 s or more"
        )
    shape = parse_shape(option, default)
    seq_lens, q_lens = parse_lengths(option, device)
    sizes = [MaskSize(seq_len, shape.batch, shape.heads, device) for seq_len in seq_lens]
    masks, mask_request = parse_masks(option, default, sizes)
    jobs = default_jobs(device) if option.jobs is None else option.jobs
    return RunConfig(
        device=device,
        masks=masks,
        mask_request=mask_request,
        backends=validate_choices("--backends", option.backends, BACKENDS),
        backends_named=option.backends is not None,
        seq_lens=seq_lens,
        seq_lens_named=bool(option.seq_lens),
        q_lens=q_lens,
        shape=shape,
        jobs=positive_int("--jobs", jobs),
        dtype=validate_choices("--dtype", [option.dtype or default["dtype"]], DTYPES)[0],
    )
