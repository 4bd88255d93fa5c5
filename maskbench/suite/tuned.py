"""Looks up and writes the options that a search found for a workload; `flex_tuned` uses them."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest
import torch

from maskbench.attention import Bind, check_shapes
from maskbench.backends import flex_tuned
from maskbench.masks import Mask
from maskbench.suite.device_name import device_name
from maskbench.suite.requested_masks import REQUESTED, RequestedMask
from maskbench.suite.targets import check_folder
from maskbench.suite.workload import Workload
from maskbench.tuned_options import (
    DEFAULT_OPTIONS,
    FOLDER,
    Lookup,
    Problem,
    TunedEntry,
    find_entry,
    write_entry,
)

BACKEND = "flex_tuned"


class OptionsNotFound(ValueError):
    """No options are stored for a workload. The message has the command that finds them."""


def problem_of(workload: Workload) -> Problem:
    """The key of the workload's entry."""
    direction: Literal["forward", "backward"]
    direction = "backward" if workload.phase.needs_gradients else "forward"
    device: Literal["cuda", "cpu"] = "cuda" if workload.device == "cuda" else "cpu"
    shape = workload.shape
    return Problem(
        mask=workload.mask,
        direction=direction,
        seq_len=workload.seq_len,
        q_len=workload.q_len,
        batch=shape.batch,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        v_head_dim=shape.v_head_dim,
        dtype=workload.dtype,
        device=device,
    )


def mask_digest(mask: Mask, device: str) -> str:
    """A digest of the mask's partial and full blocks of 128 x 128, which the times depend on."""
    blocks = torch.stack(mask.partial_and_full_blocks(device, DEFAULT_OPTIONS.block_size))
    text = f"{mask.dense_shape} {blocks.shape}".encode() + blocks.cpu().numpy().tobytes()
    return sha256(text).hexdigest()[:16]


@lru_cache(maxsize=256)  # a mask of a file is built, and evaluated for each pair
def _digest_of_request(requested: RequestedMask, workload: Workload) -> str | None:
    try:
        return mask_digest(workload.build_mask(), workload.device)
    except Exception:  # of the user's mask: its cell fails with it
        return None


def _is_same_mask(workload: Workload, digest: str) -> bool:
    """Whether a mask that is read from a file is as it was; True if it is from no file."""
    requested = REQUESTED.get(workload.mask)
    if requested is None or not requested.files:
        return True
    return _digest_of_request(requested, workload) in (None, digest)


def look_up(workload: Workload) -> Lookup:
    """The entry of this workload, GPU and torch, or the nearest one."""
    return find_entry(
        problem_of(workload),
        device_name(workload.device),
        str(torch.__version__),
        FOLDER,
        lambda digest: _is_same_mask(workload, digest),
    )


def existing_file(workload: Workload) -> Path | None:
    """The file of the workload, if it was written with this torch on this GPU."""
    found = look_up(workload)
    is_here = found.entry and not flex_tuned.origin_of(found.entry, device_name(workload.device))
    return found.path if is_here else None


def bind_tuned(workload: Workload) -> Bind:
    """The `bind` that replays the workload's entry. Raises OptionsNotFound.

    Warns of each file that is ignored although it is of this problem.
    """
    found = look_up(workload)
    if found.entry is None:
        raise OptionsNotFound(_describe_missing(workload, found, backend_named=True))
    for line in found.unusable:
        warnings.warn(f"flex_tuned uses {found.path} instead of {line}", stacklevel=1)
    return check_shapes(flex_tuned.replay(found.entry, device_name(workload.device)))


def write_found_options(entry: TunedEntry) -> Path:
    """Write the entry's file, and return its path. Raises OSError."""
    return write_entry(entry, FOLDER)


def require_targets(workloads: Sequence[Workload]) -> None:
    """End the session with status 4 if found options cannot be saved: a search takes minutes."""
    try:
        for device in {workload.device for workload in workloads}:
            check_folder("-m tune", FOLDER / device_name(device))
        for workload in workloads:
            path = FOLDER / device_name(workload.device) / problem_of(workload).file_name
            if path.is_dir():  # a file is replaced
                raise pytest.UsageError(f"-m tune {path}: is a folder, not a file; delete it")
    except pytest.UsageError as error:
        pytest.exit(str(error), returncode=int(pytest.ExitCode.USAGE_ERROR))


def missing_options_reason(workload: Workload, backend_named: bool) -> str | None:
    """Why there are no options for a workload, and how they are found; None if there are some.

    `backend_named` is whether --backends names the backend. Otherwise the cells of a run share one
    reason.
    """
    found = look_up(workload)
    return None if found.entry else _describe_missing(workload, found, backend_named)


def _describe_missing(workload: Workload, found: Lookup, backend_named: bool) -> str:
    where = f"name {BACKEND} in --backends to see how"
    if found.unusable:
        how = f"search again: {tune_command(workload)}"
        return "; ".join([*found.unusable, how if backend_named else f"{where} to search again"])
    how = f"run {tune_command(workload)}" if backend_named else where
    return f"its options have not been searched yet; {how}"


def tune_command(workload: Workload) -> str:
    """The command that searches the options of this workload, in both directions."""
    words = ["python", "-m", "pytest", "-m", "tune", "tests/test_tune.py"]
    words += ["--device", workload.device, "--masks", _mask_option(workload.mask)]
    requested = REQUESTED.get(workload.mask)
    if requested and requested.document_lengths is not None:
        words += ["--document-lengths", requested.document_lengths]
    words += ["--seq-lens", str(workload.seq_len)]
    if workload.q_len is not None:
        words += ["--q-lens", str(workload.q_len)]
    for name, value in workload.shape.fields().items():
        if name != "kv_heads" or value != workload.shape.heads:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--dtype", workload.dtype]
    return shlex.join(words)


def _mask_option(name: str) -> str:
    """The mask as --masks takes it."""
    requested = REQUESTED.get(name)
    if requested is None or requested.file is None:
        if requested is None or requested.document_lengths is None:
            return name
        target, _, parameters = name.partition("(")
        # --document-lengths gives this parameter.
        kept = [
            p for p in parameters.removesuffix(")").split(",") if not p.startswith("documents=")
        ]
        return f"{target}({','.join(kept)})" if kept else target
    return f"{requested.file}:{name.removeprefix(f'{requested.file.stem}.')}"
