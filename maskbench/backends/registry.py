"""Every backend, with the facts that the suite and the reports need before it is imported."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from maskbench.attention import Bind, check_shapes


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
        The Python module whose dict `BACKENDS` contains its `bind`.
    package
        The pip package that it needs; None if torch provides it.
    devices
        The types of device that it runs on. The conformance tests run it on these.
    compiles
        Whether its first call compiles kernels into an on-disk cache. Such cells are compiled
        by worker processes before anything is timed.
    materializes_scores
        Whether it holds S x S scores. Such a backend runs up to S = 2048 unless it is named in
        `--backends`.
    kernel_pattern
        A regular expression that matches the names of the CUDA kernels that compute its
        attention; None if the library chooses among kernels. A test checks on CUDA that such a
        kernel runs and that no other library's attention kernel does.
    color, marker
        Its color and matplotlib marker in every picture; None takes the next free one.
    plot_order
        Its place among the backends of a picture; None comes last, by name.
    """

    name: str
    module: str
    package: str | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiles: bool = False
    materializes_scores: bool = False
    kernel_pattern: str | None = None
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
    # A broken package may raise anything; the user reads it.
    except (Exception, SystemExit) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"
    return bind


def load(name: str) -> Bind:
    """Return the backend's `bind`, which raises ValueError for tensors that are not of the mask.

    Raises BackendUnavailable if the backend's library does not import.
    """
    found = _import_backend(name)
    if isinstance(found, str):
        raise BackendUnavailable(found)
    return check_shapes(found)


# The order is the order of `--backends`. Colors are Okabe and Ito's
# (https://jfly.uni-koeln.de/color/), which has none left for cudnn: its color is of Tol's muted
# scheme (https://sronpersonalpages.nl/~pault/). Greys are for SDPA's kernels and the dense formula.

register(
    BackendSpec(
        name="dense",
        module="maskbench.backends.dense",
        materializes_scores=True,
        color="#3B3B3B",
        marker="h",
        plot_order=14,
    )
)
register(
    BackendSpec(
        name="flex",
        module="maskbench.backends.flex",
        compiles=True,
        kernel_pattern=r"triton_\w*flex_attention",
        color="#D55E00",
        marker="o",
        plot_order=1,
    )
)
register(
    BackendSpec(
        name="sdpa",
        module="maskbench.backends.sdpa",
        color="#000000",
        marker="X",
        plot_order=9,
    )
)
register(
    BackendSpec(
        name="sdpa_flash",
        module="maskbench.backends.sdpa",
        kernel_pattern=r"pytorch_flash::flash_(fwd|bwd)",
        color="#6A6A6A",
        marker=">",
        plot_order=12,
    )
)
register(
    BackendSpec(
        name="sdpa_cudnn",
        module="maskbench.backends.sdpa",
        devices=("cuda",),
        kernel_pattern=r"cudnn",
        color="#F0E442",
        marker="*",
        plot_order=10,
    )
)
register(
    BackendSpec(
        name="sdpa_efficient",
        module="maskbench.backends.sdpa",
        devices=("cuda",),
        kernel_pattern=r"fmha_cutlass",
        color="#9E9E9E",
        marker="<",
        plot_order=11,
    )
)
register(
    BackendSpec(
        name="sdpa_math",
        module="maskbench.backends.sdpa",
        materializes_scores=True,
        kernel_pattern=r"gemm|softmax",
        color="#D4D4D4",
        marker="p",
        plot_order=13,
    )
)
register(
    BackendSpec(
        name="flex_flash",
        module="maskbench.backends.flex_flash",
        package="flash-attn-4",
        devices=("cuda",),
        compiles=True,
        kernel_pattern=r"flash_attncuteflash_(fwd|bwd)",
        color="#E69F00",
        marker="s",
        plot_order=3,
    )
)
register(
    BackendSpec(
        name="flex_tuned",
        module="maskbench.backends.flex_tuned",
        compiles=True,
        # FlexAttention's own kernels, or FlashAttention-4's with BACKEND="FLASH".
        kernel_pattern=r"triton_\w*flex_|flash_attncuteflash_(fwd|bwd)",
        color="#999933",  # Paul Tol's olive (https://sronpersonalpages.nl/~pault)
        marker="8",
        plot_order=2,
    )
)
register(
    BackendSpec(
        name="flash_attn",
        module="maskbench.backends.flash_attn",
        package="flash-attn",
        devices=("cuda",),
        kernel_pattern=r"\bflash::flash_(fwd|bwd)",
        color="#56B4E9",
        marker="D",
        plot_order=5,
    )
)
register(
    BackendSpec(
        name="flash_attn_4",
        module="maskbench.backends.flash_attn_4",
        package="flash-attn-4",
        devices=("cuda",),
        compiles=True,
        kernel_pattern=r"flash_attncuteflash_(fwd|bwd)",
        color="#0072B2",
        marker="^",
        plot_order=4,
    )
)
register(
    BackendSpec(
        name="torch_varlen",
        module="maskbench.backends.torch_varlen",
        devices=("cuda",),
        kernel_pattern=r"pytorch_flash::flash_(fwd|bwd)",
        color="#009E73",
        marker="P",
        plot_order=7,
    )
)
register(
    BackendSpec(
        name="xformers",
        module="maskbench.backends.xformers",
        package="xformers",
        devices=("cuda",),
        kernel_pattern=r"flash::flash_(fwd|bwd)",  # flash-attn's if it is installed, else torch's
        color="#CC79A7",
        marker="v",
        plot_order=6,
    )
)
register(
    BackendSpec(
        name="cudnn",
        module="maskbench.backends.cudnn",
        package="nvidia-cudnn-frontend",
        devices=("cuda",),
        kernel_pattern=r"cudnn",
        color="#882255",
        marker="d",
        plot_order=8,
    )
)
