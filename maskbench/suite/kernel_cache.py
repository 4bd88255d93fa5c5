"""The on-disk caches of compiled kernels, and the stamps that say what is in them."""

from __future__ import annotations

import inspect
import os
import platform
import tempfile
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import torch

from maskbench.backends import registry
from maskbench.backends.flex import cpp_compiler
from maskbench.masks import Mask
from maskbench.suite.workload import Workload

# FlashAttention-4 writes what it compiles to disk only if this is set.
os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
# torch's cache folder, unless the user has chosen one. It is named here because the stamps lie in
# it, so that deleting the folder deletes them too.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"maskbench_inductor_{os.getuid()}"))
)
CACHE_VARIABLES = (
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR",
)
COMPILER_PACKAGES = {"torch", "triton", "nvidia-cutlass-dsl"}  # and those of compiling backends
TOP = Path(__file__).parents[2]
KERNEL_SOURCES = (  # this suite's code that decides what is compiled
    "masks.py",
    "maskbench/masks/*.py",
    "maskbench/backends/*.py",
    "maskbench/varlen/*.py",
    "maskbench/suite/mask_mod_variants.py",
    "maskbench/suite/block_masks.py",
)


def unwritable_cache() -> str | None:
    """Which cache folder cannot be written, and why; None if all can."""
    for name in CACHE_VARIABLES:
        folder = os.environ.get(name)
        try:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            return f"{name}: {folder} cannot be written: {error.strerror}; name another folder"
    return None


@cache
def environment_fingerprint() -> str:
    """What compiled kernels depend on besides their cell: versions, the GPU, this suite's code.

    It has torch's location and the C++ compiler's, because both are part of the key under which
    inductor caches C++ kernels.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    packages = {s.package for s in registry.BACKENDS.values() if s.compiles} | COMPILER_PACKAGES
    versions = sorted({(d.name, d.version) for d in distributions() if d.name in packages})
    code = sha256()
    for pattern in KERNEL_SOURCES:
        for file in sorted(TOP.glob(pattern)):
            code.update(file.read_bytes())
    return f"{gpu} {versions} {torch.__file__} {cpp_compiler()} {code.hexdigest()}"


def _plugin_sources(mask: Mask, backend: str) -> str:
    """A digest of the files of this mask and backend, which a plugin may have outside the suite."""
    spec = registry.BACKENDS.get(backend)
    module = find_spec(spec.module) if spec else None
    files = {inspect.getsourcefile(type(mask)), module.origin if module else None}
    code = sha256()
    for file in sorted(filter(None, files)):
        code.update(Path(file).read_bytes())
    return code.hexdigest()


def stamp_path(workload: Workload, mask: Mask, backend: str) -> Path:
    """The file that exists if the cell has been compiled into the current cache folders."""
    folders = [os.environ.get(name) for name in CACHE_VARIABLES]
    key = f"{workload!r} {mask!r} {backend} {folders} {environment_fingerprint()}"
    name = sha256(f"{key} {_plugin_sources(mask, backend)}".encode()).hexdigest()
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)
