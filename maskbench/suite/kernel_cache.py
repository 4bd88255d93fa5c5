"""The on-disk caches of compiled kernels, and the stamps that say what is in them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import torch

from maskbench.backends import registry
from maskbench.backends.flex import cpp_compiler
from maskbench.masks import Mask
from maskbench.suite.cache_folders import CACHE_VARIABLES, INDUCTOR, STAMPS, set_folders
from maskbench.suite.requested_masks import REQUESTED
from maskbench.suite.tuned import BACKEND as TUNED
from maskbench.suite.tuned import look_up
from maskbench.suite.workload import Workload

# FlashAttention-4 writes what it compiles to disk only if this is set.
os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
set_folders()
COMPILER_PACKAGES = {"torch", "triton", "nvidia-cutlass-dsl"}  # and those of compiling backends
REPOSITORY = Path(__file__).parents[2]
KERNEL_SOURCES = (  # this suite's code that decides what is compiled
    "masks.py",
    "maskbench/masks/*.py",
    "maskbench/backends/*.py",
    "maskbench/varlen/*.py",
    "maskbench/suite/mask_mod_variants.py",
    "maskbench/suite/block_masks.py",
)


@cache
def environment_fingerprint() -> str:
    """What compiled kernels depend on besides their cell: versions, the GPU, this suite's code.

    It includes the paths of torch and of the C++ compiler, because both are part of the key under
    which inductor caches C++ kernels.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    packages = {s.package for s in registry.BACKENDS.values() if s.compiles} | COMPILER_PACKAGES
    installed = {((d.name or "").replace("_", "-").lower(), d.version) for d in distributions()}
    versions = sorted(pair for pair in installed if pair[0] in packages)
    code = sha256()
    for pattern in KERNEL_SOURCES:
        for file in sorted(REPOSITORY.glob(pattern)):
            code.update(file.read_bytes())
    return f"{gpu} {versions} {torch.__file__} {cpp_compiler()} {code.hexdigest()}"


def backend_source(backend: str) -> str | None:
    """The file of a backend's module, which a plugin may have elsewhere; None if there is none."""
    spec = registry.BACKENDS.get(backend)
    try:
        module = find_spec(spec.module) if spec else None
    except (ImportError, ValueError):  # of a package that is missing; of __main__
        return None
    return module.origin if module else None


def _sources(workload: Workload, mask: Mask | None, backend: str) -> set[str]:
    """The files of the mask's classes and of the backend, which a plugin may have elsewhere.

    For `flex_tuned`, also the file with the options.
    """
    classes = {type(part) for part in _mask_parts(mask)} if mask else set()
    files = {getattr(sys.modules[c.__module__], "__file__", None) for c in classes}
    if workload.mask in REQUESTED:
        files.add(str(REQUESTED[workload.mask].file))
    if backend == TUNED:
        files.add(str(look_up(workload).path))
    files.add(backend_source(backend))
    return {file for file in files if file and Path(file).is_file()}


def _mask_parts(mask: Mask) -> Iterator[Mask]:
    """The mask, and the masks that it is composed of."""
    yield mask
    for field in fields(mask):
        value = getattr(mask, field.name)
        if isinstance(value, Mask):
            yield from _mask_parts(value)


def stamp_path(workload: Workload, mask: Mask | None, backend: str) -> Path:
    """The file that exists if the cell has been compiled into the current cache folders."""
    folders = [os.environ.get(name) for name in CACHE_VARIABLES]
    key = f"{workload!r} {mask!r} {backend} {folders} {environment_fingerprint()}"
    digest = sha256(key.encode())
    for file in sorted(_sources(workload, mask, backend)):
        digest.update(Path(file).read_bytes())
    return Path(os.environ[INDUCTOR], STAMPS, digest.hexdigest())


def write_stamp(stamp: Path, text: str) -> str | None:
    """Write a stamp; return why it cannot be written, in which case a later run compiles again."""
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(text)
    except OSError as error:
        return f"its stamp cannot be written: {error}; a later run compiles it again"
    return None
