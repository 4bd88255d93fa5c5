"""The options that were found for a workload: `flex_tuned` replays them."""

from __future__ import annotations

import shlex
from typing import Literal

import torch

from maskbench.attention import Bind, check_shapes
from maskbench.backends import flex_tuned
from maskbench.suite.device_name import device_name
from maskbench.suite.requested_masks import REQUESTED
from maskbench.suite.workload import Workload
from maskbench.tuned_options import FOLDER, Lookup, Problem, find_entry

BACKEND = "flex_tuned"


class NothingFound(ValueError):
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


def bind_tuned(workload: Workload) -> Bind:
    """The `bind` that replays the workload's entry. Raises NothingFound."""
    found = look_up(workload)
    if found.entry is None:
        raise NothingFound(why_nothing(workload, found))
    return check_shapes(flex_tuned.replay(found.entry, device_name(workload.device)))


def why_nothing(workload: Workload, found: Lookup) -> str:
    """Why there are no options, and the command that finds them."""
    ignored = "".join(f"{line}; " for line in found.unusable)
    return f"{ignored}no options were found yet for this problem; run {tune_command(workload)}"


def tune_command(workload: Workload) -> str:
    """The command that searches the options of this workload."""
    direction = "backward" if workload.phase.needs_gradients else "forward"
    words = ["python", "-m", "pytest", "-m", "tune", f"tests/test_tune.py::test_tune_{direction}"]
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
