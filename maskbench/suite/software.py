"""The versions of the software that a run uses."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import torch

from maskbench.backends.registry import BACKENDS


def package_version(package: str) -> str | None:
    """The installed version; None if the package is not installed."""
    try:
        return distribution(package).metadata["Version"]
    except PackageNotFoundError:
        return None


def software_versions() -> dict[str, object]:
    """Versions of torch, Triton and each backend's package. "-" in a name becomes "_"."""
    packages = dict.fromkeys(["triton", *(s.package for s in BACKENDS.values() if s.package)])
    return {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's
        **{name.replace("-", "_"): package_version(name) for name in packages},
    }
