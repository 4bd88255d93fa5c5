"""Looks up and writes the options that a search found for a workload; `flex_tuned` uses them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import pytest
import torch

from maskbench.attention import Bind, check_shapes
from maskbench.backends import flex_tuned
from maskbench.suite.device_name import device_name
from maskbench.suite.requested_masks import REQUESTED
from maskbench.suite.targets import check_folder
from maskbench.suite.workload import Workload
from maskbench.tuned_options import (
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


def look_up(workload: Workload) -> Lookup:
    """The entry of this workload, GPU and torch, or the nearest one."""
    gpu = device_name(workload.device)
    return find_entry(problem_of(workload), gpu, str(torch.__version__), FOLDER)


def existing_file(workload: Workload) -> Path | None:
    """The file of the workload, if it was written with this torch on this GPU."""
    found = look_up(workload)
    is_here = found.entry and not flex_tuned.origin_of(found.entry, device_name(workload.device))
    return found.path if is_here else None


def bind_tuned(workload: Workload) -> Bind:
    """The `bind` that replays the workload's entry. Raises OptionsNotFound."""
    found = look_up(workload)
    if found.entry is None:
        raise OptionsNotFound(_describe_missing(workload, found, backend_named=True))
    return check_shapes(flex_tuned.replay(found.entry, device_name(workload.device)))


def write_found_options(entry: TunedEntry) -> Path:
    """Write the entry's file, and return its path. Raises OSError."""
    return write_entry(entry, FOLDER)


def require_folder(device: str) -> None:
    """End the session with status 4 if found options cannot be saved: a search takes minutes."""
    try:
        check_folder("-m tune", FOLDER / device_name(device))
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
    ignored = "".join(f"{line}; " for line in found.unusable)
    how = f"name {BACKEND} in --backends to see how"
    if backend_named:
        how = f"run {tune_command(workload)}"
    return f"{ignored}its options have not been searched yet; {how}"


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
