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
# Always these looks, in this order. Greys are for what only wins where it is alone.
FIRST = {
    "flex": (VERMILLION, "o"),
    "flex_flash": (ORANGE, "s"),
    "flash_attn_4": (BLUE, "^"),
    "flash_attn": (SKY, "D"),
    "xformers": (PURPLE, "v"),
    "torch_varlen": (GREEN, "P"),
    "sdpa": (BLACK, "X"),
    "sdpa_cudnn": (YELLOW, "*"),
    "sdpa_efficient": ("#999999", "<"),
    "sdpa_flash": ("#777777", ">"),
    "sdpa_math": ("#BBBBBB", "p"),
    "dense": ("#555555", "h"),
}
OTHERS = [(BLUE, "1"), (GREEN, "2"), (PURPLE, "3"), (BLACK, "4"), (SKY, "+"), (ORANGE, "x")]

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def ordered(backends) -> list[str]:
    """Backends in the order of all pictures, FlexAttention first."""
    place = {backend: i for i, backend in enumerate(FIRST)}
    return sorted(set(backends), key=lambda b: (place.get(b, len(place)), b))


def looks(backends: list[str]) -> dict[str, dict]:
    """Colour and marker of each backend, the same in every picture."""
    others = [b for b in ordered(backends) if b not in FIRST]
    every = FIRST | {b: OTHERS[i % len(OTHERS)] for i, b in enumerate(others)}
    return {b: {"color": colour, "marker": marker} for b, (colour, marker) in every.items()}


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
