"""Colors and markers of all pictures, the order of backends, and how a picture is saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from maskbench.backends.registry import BACKENDS
from reports.output_files import write_whole

# The palette of Okabe and Ito, https://jfly.uni-koeln.de/color/. Readers who cannot tell two
# colors apart can tell the markers apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"


@dataclass(frozen=True)
class BackendStyle:
    """The color and the matplotlib marker of a backend."""

    color: str
    marker: str


# For backends whose registry entry has no color or marker, and for backends of older runs that
# are no longer registered. No registered backend has one of these markers.
FREE_STYLES = (
    BackendStyle(BLUE, "1"),
    BackendStyle(GREEN, "2"),
    BackendStyle(PURPLE, "3"),
    BackendStyle(BLACK, "4"),
    BackendStyle(SKY, "+"),
    BackendStyle(ORANGE, "x"),
)

# GitHub shows a picture of a README in at most 830 pixels of 1/96 inch. Pictures have that width,
# so a point of text is a point there.
WIDTH = 8.4  # inches, and the padding of `save`
PADDING = 0.12
DPI = 140  # sharp on screens that show more than 96 pixels per inch
MIN_TEXT, TITLE = 8, 9  # points

plt.rcParams.update({"font.size": MIN_TEXT, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"axes.titlesize": TITLE, "figure.titlesize": TITLE})
plt.rcParams.update({"axes.labelsize": MIN_TEXT, "figure.labelsize": MIN_TEXT})
plt.rcParams.update({"xtick.labelsize": MIN_TEXT, "ytick.labelsize": MIN_TEXT})
plt.rcParams.update({"legend.fontsize": MIN_TEXT})
# Names in saved runs are no formulas, whatever "$" they have.
plt.rcParams.update({"text.parse_math": False, "text.usetex": False})


def sorted_backends(backends: Iterable[str]) -> list[str]:
    """The distinct backends in the order of all pictures: by `plot_order`, the others by name."""

    def key(name: str) -> tuple[float, str]:
        order = BACKENDS[name].plot_order if name in BACKENDS else None
        return (float("inf") if order is None else order, name)

    return sorted(set(backends), key=key)


def backend_styles(backends: Iterable[str]) -> dict[str, BackendStyle]:
    """The style of each backend. A registered style is the same in every picture."""
    styles, used = {}, 0
    for name in sorted_backends(backends):
        spec = BACKENDS.get(name)
        color, marker = (spec.color, spec.marker) if spec else (None, None)
        if color is None or marker is None:
            free = FREE_STYLES[used % len(FREE_STYLES)]
            color, marker, used = color or free.color, marker or free.marker, used + 1
        styles[name] = BackendStyle(color, marker)
    return styles


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG with a palette, close it and return the path.

    A palette makes the file a third of its size, for the README to load. Maximum coverage keeps
    rare colors, such as that of a small bar. Pillow's default, median cut, can merge them into
    others.
    """
    png, content = BytesIO(), BytesIO()
    figure.savefig(png, dpi=DPI, bbox_inches="tight", pad_inches=PADDING)
    plt.close(figure)
    image = Image.open(png).convert("RGB")
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(content, "PNG", optimize=True)
    return write_whole(path, content.getvalue())
