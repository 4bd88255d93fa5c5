"""Every backend, with the facts that the suite and the reports need before it is imported."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from maskbench.attention import Bind


class BackendUnavailable(Exception):
    """The backend's library cannot be imported. The message is the import error."""


@dataclass(frozen=True)
class BackendSpec:
    """One backend.

    Parameters
    ----------
    name
        Its name in `--backends` and in node ids.
    module
        The Python module that has it in `BACKENDS`.
    package
        What pip installs for it; None for a part of torch.
    needs
        What else it needs, for the reader of a list.
    compiles
        Whether its first call compiles kernels into an on-disk cache. Such cells are compiled
        by worker processes before anything is timed.
    materializes_scores
        Whether it holds S x S scores. Such a backend runs up to S = 2048 unless it is named in
        `--backends`.
    color, marker
        Its color and matplotlib marker in every picture; None takes the next free one.
    plot_order
        Its place among the backends in every picture, lowest first; None comes after these, by
        name.
    """

    name: str
    module: str
    package: str | None = None
    needs: str = "CUDA"
    compiles: bool = False
    materializes_scores: bool = False
    color: str | None = None
    marker: str | None = None
    plot_order: int | None = None


BACKENDS: dict[str, BackendSpec] = {}


def register(spec: BackendSpec) -> None:
    """Add a backend. A plugin may call this when it is imported or configured."""
    BACKENDS[spec.name] = spec
    _import_backend.cache_clear()


@cache
def _import_backend(name: str) -> Bind | str:
    """The backend's `bind`, or the import error as text."""
    try:
        bind: Bind = importlib.import_module(BACKENDS[name].module).BACKENDS[name]
    except Exception as error:  # a broken package may raise anything; the user reads it
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"
    return bind


def load(name: str) -> Bind:
    """Return the backend's `bind`. Raises BackendUnavailable if its library does not import."""
    found = _import_backend(name)
    if isinstance(found, str):
        raise BackendUnavailable(found)
    return found


# Colors are Okabe and Ito's (https://jfly.uni-koeln.de/color/); greys are for SDPA's kernels and
# the dense formula. The order is the order of `--backends`.
_SDPA, _OURS = "maskbench.backends.sdpa", "maskbench.backends."
for _spec in (
    BackendSpec("dense", _OURS + "dense", None, "", False, True, "#555555", "h", plot_order=12),
    BackendSpec(
        "flex", _OURS + "flex", None, "C++ or CUDA", True, False, "#D55E00", "o", plot_order=1
    ),
    BackendSpec("sdpa", _SDPA, None, "", color="#000000", marker="X", plot_order=7),
    BackendSpec("sdpa_flash", _SDPA, None, "", color="#777777", marker=">", plot_order=10),
    BackendSpec("sdpa_cudnn", _SDPA, color="#F0E442", marker="*", plot_order=8),
    BackendSpec("sdpa_efficient", _SDPA, color="#999999", marker="<", plot_order=9),
    BackendSpec("sdpa_math", _SDPA, None, "", False, True, "#BBBBBB", "p", plot_order=11),
    BackendSpec(
        "flex_flash",
        _OURS + "flex_flash",
        "flash-attn-4",
        "CUDA",
        True,
        False,
        "#E69F00",
        "s",
        plot_order=2,
    ),
    BackendSpec(
        "flash_attn", _OURS + "flash_attn", "flash-attn", color="#56B4E9", marker="D", plot_order=4
    ),
    BackendSpec(
        "flash_attn_4",
        _OURS + "flash_attn_4",
        "flash-attn-4",
        "CUDA",
        True,
        False,
        "#0072B2",
        "^",
        plot_order=3,
    ),
    BackendSpec("torch_varlen", _OURS + "torch_varlen", color="#009E73", marker="P", plot_order=6),
    BackendSpec(
        "xformers", _OURS + "xformers", "xformers", color="#CC79A7", marker="v", plot_order=5
    ),
):
    register(_spec)
