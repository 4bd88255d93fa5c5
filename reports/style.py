"""What all pictures share: colours, markers, names and numbers."""

from __future__ import annotations

import textwrap
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito, https://jfly.uni-koeln.de/color/. Markers differ too: no colour stands alone.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
COLOURS = [VERMILLION, BLUE, SKY, GREEN, ORANGE, PURPLE, BLACK, YELLOW]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">"]
# Always these colours; others follow in the order in which they are met.
FIRST = ["flex", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "dense"]

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def ordered(backends) -> list[str]:
    """Backends in the order of all pictures, FlexAttention first."""
    return sorted(set(backends), key=lambda b: (FIRST.index(b) if b in FIRST else len(FIRST), b))


def looks(backends: list[str]) -> dict[str, dict]:
    """Colour and marker of each backend, the same in every picture."""
    every = FIRST + [b for b in ordered(backends) if b not in FIRST]
    return {
        b: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, b in enumerate(every)
    }


def milliseconds(seconds: float) -> str:
    """Three digits: 0.0373 ms, 2.07 ms, 130 ms."""
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{float(f'{value:.3g}'):g} ms"


def why_not(row: pd.Series, width: int, lines: int) -> str:
    """An untimed cell's outcome and reason, wrapped, and cut where it does not fit."""
    reason = f"{row['outcome']}: {row['reason']}"
    return "\n".join(textwrap.wrap(reason, width, max_lines=lines, placeholder="…"))


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    # A palette makes a third of the file, for a README to load. Maximum coverage keeps rare
    # colours (a small bar's), which the default, median cut, was seen to merge into others.
    palette = {"colors": 256, "method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    Image.open(drawn).convert("RGB").quantize(**palette).save(path, optimize=True)
    return path
